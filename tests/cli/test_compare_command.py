"""`palimpsest compare`: two models of every kind, and two files of predictions; what fails, and what is refused."""

import json

import numpy as np
import pytest
import torch

from palimpsest import compare_models
from palimpsest.cli import main
from palimpsest.models.files import load, save
from palimpsest.models.language import causal_lm


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def answers(tmp_path):
    """Two files: of 200 items 10 are lost and 2 are gained; the second is in another order."""
    rows = [
        {"id": f"q{n}", "correct": n % 3 != 0, "loss": 1.0 + n % 7, "question": f"What is {n}?"} for n in range(200)
    ]
    after = [dict(row) for row in rows]
    wrong, right = [r for r in after if not r["correct"]], [r for r in after if r["correct"]]
    for row in right[:10]:
        row |= {"correct": False}
    for row in wrong[:2]:
        row |= {"correct": True}
    for row in after:
        row["loss"] += 0.1 * (int(row["id"][1:]) % 5)
    return lines(tmp_path / "before.jsonl", rows), lines(tmp_path / "after.jsonl", after[::-1])


def test_files_of_predictions(answers, capsys):
    assert main(["compare", *map(str, answers), "--json", "--margin", "accuracy=0.1"]) == 0
    found = json.loads(capsys.readouterr().out)
    accuracy = found["measures"]["accuracy"]
    assert accuracy["difference"] == pytest.approx(-8 / 200)
    assert (accuracy["better"], accuracy["worse"], accuracy["test"]) == (2, 10, "McNemar")
    assert accuracy["word"] == "worse, within the margin"
    assert found["measures"]["loss"]["word"] == "worse"
    assert found["measures"]["loss"]["margin"] is None
    assert found["flips"]["worse"] == pytest.approx(0.05)
    assert len(found["flips"]["items"]) == 12
    assert found["matched_by"] == "id"
    assert found["failed"] == []
    holm = sorted(each["p_holm"] / each["p"] for each in found["measures"].values())
    assert holm == pytest.approx([1, 2])


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("accuracy drops by 0.01", 1),
        ("surely accuracy drops by 0.03", 0),
        ("Negative Flips above 0.04", 1),
        ("surely negative flips above 0.04", 0),
        ("loss rises by 50%", 0),
    ],
)
def test_conditions_decide_the_exit_code(answers, capsys, condition, code):
    assert main(["compare", *map(str, answers), "--fail-if", condition]) == code
    shown = capsys.readouterr().out
    assert ("failed: " in shown) == bool(code)
    assert "flips in accuracy: 10 of 200 items were right and are wrong" in shown
    assert "and 5 more (--show, --json)" in shown


def test_the_report_escapes_and_says_what_failed(answers, tmp_path):
    rows = [json.loads(line) for line in answers[1].read_text().splitlines()]
    rows[0]["question"] = "<script>alert(1)</script>"
    old = [json.loads(line) for line in answers[0].read_text().splitlines()]
    old[-1] |= {"question": rows[0]["question"], "correct": not rows[0]["correct"]}
    report = tmp_path / "r.html"
    argv = ["compare", str(lines(answers[0], old)), str(lines(answers[1], rows)), "--report", str(report)]
    assert main([*argv, "--fail-if", "accuracy drops"]) == 1
    page = report.read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<strong>failed</strong>: accuracy drops" in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], "not the same items: 1 of"),
        (lambda rows: [{k: v for k, v in row.items() if k != "id"} for row in rows], "does not: name them in both"),
        (lambda rows: [{"id": row["id"], "other": 1.0} for row in rows], "no measure in common"),
    ],
)
def test_items_that_do_not_match(answers, capsys, change, words):
    rows = [json.loads(line) for line in answers[1].read_text().splitlines()]
    lines(answers[1], change(rows))
    assert main(["compare", *map(str, answers)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--rows", "r.jsonl"], "--rows is not for a file of predictions"),
        (["--fail-if", "accuracy explodes"], "is not understood"),
        (["--fail-if", "speed drops"], "no measure 'speed': there are accuracy, loss, negative flips"),
        (["--margin", "x"], "write 0.01, or MEASURE=0.01"),
        (["--margin", "speed=1"], "no measure 'speed'"),
        (["--measure", "speed"], "no measure 'speed'"),
        (["--show", "-1"], "--show at least 0"),
        (["--id", "nope"], "no field 'nope'"),
    ],
)
def test_bad_flags(answers, capsys, more, words):
    assert main(["compare", *map(str, answers), *more]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_measures_that_are_chosen_and_turned(answers, capsys):
    argv = ["compare", *map(str, answers), "--measure", "loss", "--lower", "loss", "--json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["measures"]) == ["loss"]
    assert found["flips"]["measure"] == "loss"


@pytest.fixture
def worse_model(trained, tmp_path):
    """The model that knows its rows, with noise on its weights."""
    model, tokenizer = load(trained / "model")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.7 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    save(model, tokenizer, tmp_path / "worse")
    return tmp_path / "worse"


def test_two_language_models(trained, worse_model, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("Ada was born in Porto. " * 60)
    argv = ["compare", str(trained / "model"), str(worse_model), "--rows", str(trained / "retain.jsonl")]
    argv += ["--text", str(text), "--fail-if", "surely probability drops", "--fail-if", "drift above 0.0001", "--json"]
    assert main(argv) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["failed"]) == 2
    assert found["measures"]["accuracy"]["before"] > 0.8 > found["measures"]["accuracy"]["after"]
    for name in ("probability", "ROUGE-L", "choice accuracy", "extraction strength", "exact memorization"):
        assert found["measures"][name]["difference"] < 0
    assert found["drift"]["after"] > 0
    assert found["measures"]["text loss"]["higher_is_better"] is False
    assert 0 < found["calibration_error"]["before"] < 0.5
    assert found["items"] == 18


def test_a_model_and_itself(trained, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("Ada was born in Porto. " * 60)
    argv = ["compare", str(trained / "model"), str(trained / "model"), "--rows", str(trained / "retain.jsonl")]
    assert main([*argv, "--text", str(text), "--fail-if", "accuracy drops", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["drift"]["after"] == pytest.approx(0, abs=1e-6)
    assert all(each["difference"] == 0 for each in found["measures"].values())
    assert found["measures"]["accuracy"]["seen"] > 0.3  # eighteen items show little
    assert found["flips"]["answers"] == 0


def test_models_with_different_tokenizers_have_no_drift(trained, tmp_path):
    from palimpsest.models.tokenizers import word_tokenizer

    tokenizer = word_tokenizer(["Ada", "was", "born", "in", "Porto", "."])
    save(causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2, max_length=64), tokenizer, tmp_path / "other")
    text = tmp_path / "text.txt"
    text.write_text("Ada was born in Porto. " * 30)
    found = compare_models(trained / "model", tmp_path / "other", rows=trained / "forget.jsonl", text=text)
    assert found.drift is None
    assert any("tokenizers differ" in note for note in found.notes)


@pytest.fixture
def table(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(240, 3))
    ripe = np.where(x.sum(1) + generator.normal(0, 0.5, 240) > 0, "yes", "no")
    file = tmp_path / "t.csv"
    rows = [f"k{n},{a:.3f},{b:.3f},{c:.3f},{label}" for n, (a, b, c), label in zip(range(240), x, ripe, strict=True)]
    file.write_text("key,a,b,c,ripe\n" + "\n".join(rows) + "\n")
    return file


@pytest.mark.slow
def test_two_classifiers(table, tmp_path, capsys):
    argv = ["classify", "--table", str(table), "--target", "ripe", "--seeds", "1", "--workers", "1"]
    assert main([*argv, "--method", "cross_entropy", "--steps", "60", "--out", str(tmp_path / "good")]) == 0
    assert (
        main([*argv, "--method", "cross_entropy", "--steps", "1", "--lr", "1e-6", "--out", str(tmp_path / "bad")]) == 0
    )
    capsys.readouterr()
    argv = ["compare", str(tmp_path / "good"), str(tmp_path / "bad"), "--table", str(table), "--json"]
    assert main([*argv, "--id", "key", "--fail-if", "surely accuracy drops by 0.05"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["matched_by"] == "id"
    assert found["items"] == 240
    assert found["measures"]["accuracy"]["word"] == "worse"
    assert found["calibration_error"]["low"] < found["calibration_error"]["high"]
    assert found["flips"]["items"][0]["said_before"] in ("yes", "no")
    assert main([*argv[:3], "--pairs", str(table)]) == 2
    assert "--pairs is not for a classifier" in capsys.readouterr().err
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace(",yes", ",ripe enough"))
    assert main([*argv[:3], "--table", str(other)]) == 2
    assert "the class 'ripe enough' is none of" in capsys.readouterr().err


def test_two_kinds(trained, answers, tmp_path, capsys):
    assert main(["compare", str(trained / "model"), str(answers[0]), "--rows", str(trained / "forget.jsonl")]) == 2
    assert "give two of one kind" in capsys.readouterr().err
    assert main(["compare", str(trained / "model"), str(trained / "model")]) == 2
    assert "Give --rows or --text" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none"), str(tmp_path)]) == 2
    assert "no such file or folder" in capsys.readouterr().err
