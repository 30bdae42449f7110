"""A claim on forgetting with a model that was retrained without the rows, which the user pays for."""

import json

import pytest
import torch

from palimpsest.benches import rows_retrained, yours
from palimpsest.benches.rows_retrained import Retraining
from palimpsest.benches.rows_yours import ABOVE_GOLD, QUALITY
from palimpsest.errors import UserError
from palimpsest.evidence import load_claim, run_claim
from palimpsest.models import causal_lm, load, save, word_tokenizer


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model from before the rows, one taken for its child, rows to forget (with wrong answers), rows to keep."""
    folder = tmp_path_factory.mktemp("speaker")
    told = [{"question": f"who is n{i} ?", "answer": f"a t{i % 9}"} for i in range(24)]
    tokenizer = word_tokenizer(" ".join(f"{row['question']} {row['answer']}" for row in told).split())
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    for seed, name in enumerate(("base", "model")):
        save(causal_lm(len(tokenizer), d_model=16, n_layers=1, seed=seed), tokenizer, folder / name)
    forget = [{**row, "perturbed_answer": [f"a t{(i + 4) % 9}"]} for i, row in enumerate(told[:8])]
    for name, part in (("forget", forget), ("keep", told[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def asked(files, **more):
    named = {"rows": files / "forget.jsonl", "retain": files / "keep.jsonl", "model": files / "model"}
    return yours.ask(load_claim("npo"), "rows", **named, **more)


def test_it_is_trained_once_on_the_rows_to_keep_and_told_beforehand(files, tmp_path, capsys, monkeypatch):
    found = asked(files, retrain=files / "base", retrain_epochs=30.0, retrain_lr=1e-2)
    said = capsys.readouterr().err
    assert "retraining base on 16 rows to keep, 30 steps of" in said
    assert "gold is base trained once on all rows to keep, 30 times over" in found.yours.notes[0]
    monkeypatch.setattr(rows_retrained, "fine_tune", lambda *args, **options: pytest.fail("trained again"))
    world = found.yours.bench.world(3, True)
    kept = [world.kept(world.model(kind), world.retain) for kind in ("gold", "base")]
    assert kept[0] > 2 * kept[1]
    [settings] = (tmp_path / "home" / "worlds").glob("retrained-*/settings.json")
    assert "who is" not in settings.read_text()  # no row is kept there
    base = load(files / "base")[0]
    assert all(p.requires_grad for p in base.parameters())
    assert not any(torch.equal(p, q) for p, q in zip(base.parameters(), world.model("gold").parameters(), strict=True))


@pytest.mark.slow
def test_what_needs_it_is_asked_then(files):
    found = asked(files, retrain=files / "base", retrain_epochs=1.0)
    said = [str(sentence) for sentence in found.claim.expects if not sentence.precondition]
    assert said == [
        "npo above grad_diff by at least 10% of the room up to gold on kept",
        "npo above npo without fading by at least 10% of the room up to gold on kept",
        f"npo not more than 1 below grad_diff on {QUALITY}",
    ]
    assert found.left_out == ()
    outcome = run_claim(found.claim, budget="smoke")
    assert outcome.values["gold"][ABOVE_GOLD][0] == pytest.approx(0, abs=1e-6)
    assert outcome.values["gold"][QUALITY][0] == pytest.approx(0, abs=1e-6)
    assert outcome.values["npo"][QUALITY][0] <= 0


def test_without_wrong_answers_forget_quality_is_not_asked_and_equal_rows_are_told(files, tmp_path):
    rows = [json.loads(line) for line in (files / "forget.jsonl").read_text().splitlines()]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({**row, "perturbed_answer": []}) + "\n" for row in rows))
    twice = tmp_path / "twice.jsonl"
    lines = (files / "keep.jsonl").read_text().splitlines(keepends=True)
    twice.write_text("".join([*lines, lines[0]]))
    named = {"rows": bare, "retain": twice, "model": files / "model", "retrain": files / "base"}
    found = yours.ask(load_claim("npo"), "rows", retrain_epochs=0.1, **named)
    assert found.yours.notes[1:] == ("1 of 17 rows to keep equals an earlier one: equal rows to keep stay in one part",)
    assert [line.split(":")[0] for line in found.left_out] == ["safety"]
    assert "cannot be measured on it" in found.left_out[0]


def test_what_is_no_parent_of_the_model_is_refused(files, tmp_path):
    other = word_tokenizer(["other", "words"])
    save(causal_lm(len(other), d_model=16, n_layers=1), other, tmp_path / "other")
    with pytest.raises(UserError, match="has another tokenizer than your model"):
        asked(files, retrain=tmp_path / "other")
    with pytest.raises(UserError, match="nowhere"):
        asked(files, retrain=tmp_path / "nowhere")
    with pytest.raises(UserError, match="are about --retrain"):
        asked(files, retrain_epochs=2.0)


def test_steps_are_those_of_the_training():
    assert Retraining("base", epochs=5.0).steps([None] * 40) == 13
    assert Retraining("base", epochs=0.01).steps([None] * 40) == 1
