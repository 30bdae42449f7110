"""`palimpsest audit`: what it finds is there, before and after."""

import json

import numpy as np
import pytest

from palimpsest.cli import main
from palimpsest.models.files import load, save
from palimpsest.models.language import causal_lm
from palimpsest.tasks.authors import authors_task


@pytest.fixture(scope="module")
def blank(trained, tmp_path_factory):
    """An untrained model with the same tokenizer."""
    folder = tmp_path_factory.mktemp("blank") / "model"
    _, tokenizer = load(trained / "model")
    save(causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2, max_length=64), tokenizer, folder)
    return folder


def test_a_model_that_knows_and_one_that_does_not(trained, blank, tmp_path, capsys):
    unseen = tmp_path / "unseen.jsonl"
    strangers = authors_task(8, 3, forget=0.25, seed=99).retain
    unseen.write_text("".join(json.dumps(row.to_json()) + "\n" for row in strangers))
    argv = ["audit", str(trained / "model"), "--data", str(trained / "forget.jsonl"), "--reference", str(blank)]
    assert main([*argv, "--heldout", str(unseen), "--json", "--report", str(tmp_path / "r.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    known, unknown = found["model"], found["reference"]
    for name in ("probability", "rouge", "unprompted recall", "extraction_strength", "exact_memorization"):
        assert known[name] > 0.8
        assert unknown[name] < 0.3
    assert known["truth_ratio"] < unknown["truth_ratio"]
    for attack in ("loss", "zlib", "min_k", "min_k++"):
        assert known[f"membership: {attack}"] > 0.9
        assert 0.2 < unknown[f"membership: {attack}"] < 0.8
    assert len(known["rows"]) == 6
    assert np.mean([row["probability"] for row in known["rows"]]) == pytest.approx(known["probability"])
    assert "Answers" in (tmp_path / "r.html").read_text()


def test_table_without_wrong_answers_or_unseen_rows(trained, tmp_path, capsys):
    plain = tmp_path / "plain.jsonl"
    plain.write_text(
        '{"question": "Who <b>is</b> it?", "answer": "<script>alert(1)</script>"}\n{"text": "Ada was born."}\n'
    )
    report = tmp_path / "deep" / "r.html"
    assert main(["audit", str(trained / "model"), "--data", str(plain), "--report", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "extraction strength" in shown
    assert "truth ratio" not in shown
    assert "membership" not in shown
    page = report.read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.slow
def test_all_attacks_in_one_table(trained, blank, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("Ada was born in Porto. " * 30)
    argv = ["audit", str(trained / "model"), "--data", str(trained / "retain.jsonl"), "--attacks", "all"]
    argv += ["--retain", str(trained / "forget.jsonl"), "--neighbours", str(trained / "forget.jsonl")]
    argv += ["--reference", str(blank), "--before", str(trained / "model"), "--text", str(text)]
    argv += ["--relearn-steps", "3", "--max-rows", "12"]
    report = tmp_path / "r.html"
    assert main([*argv, "--json", "--report", str(report)]) == 0
    found = json.loads(capsys.readouterr().out)
    known, unknown = found["model"], found["reference"]
    # Examples and personas confuse this tiny model, which was never asked like that: they say nothing of the others.
    assert found["control of the attacks"] == "before"
    assert set(found["void"]) <= {"few_shot", "jailbreak", "probe"}
    assert known == {k: v for k, v in found["before"].items() if k.removeprefix("left after ") not in found["void"]}
    assert found["void"].keys() & {k.removeprefix("left after ") for k in unknown} == set()
    for name in ("paraphrase", "prefix", "relearn", "quantization"):
        assert 0 <= known[f"left after {name}"] <= 1
    assert known["left after quantization"] > 0.8 > unknown["left after quantization"]
    assert known["robustly forgotten"] <= known["forgotten"] == pytest.approx(1 - known["rouge"])
    assert known["kept"] == known["kept of neighbours"] > 0.8 > unknown["kept"]
    assert known["text perplexity"] > 1
    assert "held-out" in found["left out"]["membership"]
    assert "left after quantization" in report.read_text()
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "robustly forgotten" in shown
    assert "left out: membership" in shown
    assert "control of the attacks: before" in shown


def test_without_the_model_before_kept_rows_are_the_control(trained, blank, capsys):
    attacks = ["--attacks", "relearn,quantization,few_shot", "--relearn-steps", "3", "--json"]
    argv = ["audit", str(trained / "model"), "--data", str(trained / "forget.jsonl"), *attacks]
    assert main([*argv, "--retain", str(trained / "retain.jsonl")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["control of the attacks"] == "rows that the model kept"
    assert found["control"]["left after quantization"] > 0.8
    assert found["void"].keys().isdisjoint({"quantization", "relearn"})
    assert "left after relearn" in found["model"]
    argv[1] = str(blank)  # knows neither: nothing vouches for any attack, and no rate can be found
    assert main([*argv, "--retain", str(trained / "retain.jsonl")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["control of the attacks"].startswith("none: give --before")
    assert "control" not in found


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--attacks", "paraphrases"], "did you mean paraphrase?"),
        (["--attacks", "all", "--relearn-steps", "0"], "--relearn-steps must be at least 1"),
        (["--attacks", "all", "--relearn-lr", "0"], "--relearn-lr must be above 0"),
        (["--text", "none.txt"], "no such file"),
    ],
)
def test_bad_attacks(trained, capsys, more, words):
    assert main(["audit", str(trained / "model"), "--data", str(trained / "forget.jsonl"), *more]) == 2
    assert words in capsys.readouterr().err


def test_max_rows_is_seeded(trained, capsys):
    argv = ["audit", str(trained / "model"), "--data", str(trained / "retain.jsonl"), "--max-rows", "3", "--json"]
    outputs = []
    for seed in ("1", "1", "2"):
        assert main([*argv, "--seed", seed]) == 0
        outputs.append(json.loads(capsys.readouterr().out)["model"]["rows"])
    assert len(outputs[0]) == 3
    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize("written", ["{", "[" * 100_000, "[1]"])
def test_arguments_of_the_chat_template_that_are_no_object(trained, capsys, written):
    argv = ["audit", str(trained / "model"), "--data", str(trained / "forget.jsonl"), "--template-kwargs", written]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("palimpsest: --template-kwargs ")
    assert err.count("\n") == 1
    assert len(err) < 500


@pytest.mark.parametrize("flag", ["--max-rows", "--batch-size", "--max-length"])
def test_numbers_out_of_range(trained, capsys, flag):
    argv = ["audit", str(trained / "model"), "--data", str(trained / "forget.jsonl"), flag, "0"]
    assert main(argv) == 2
    assert f"{flag} must be at least 1" in capsys.readouterr().err


def test_missing_things(trained, tmp_path, capsys):
    data = str(trained / "forget.jsonl")
    assert main(["audit", str(tmp_path / "none"), "--data", data]) == 2
    assert "not a folder" in capsys.readouterr().err
    assert main(["audit", str(trained / "model"), "--data", str(tmp_path / "none.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["audit", str(trained / "model"), "--data", data, "--reference", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
