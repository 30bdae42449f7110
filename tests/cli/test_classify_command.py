"""`palimpsest classify` and `predict` as a user meets them: the table, the saved model, and every kind of bad input."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from palimpsest.cli import main
from palimpsest.locks import held

QUICK = ["--steps", "3", "--seeds", "2", "--workers", "1", "--batch-size", "16"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """As a spreadsheet saves it: a byte order mark, semicolons, Windows line ends, a column without values."""
    file, draws = tmp_path_factory.mktemp("rows") / "mine.csv", np.random.default_rng(0)
    lines = ["width;colour;empty;ripe"]
    for i in range(100):
        x = draws.normal()
        lines.append(f"{'' if i % 9 == 0 else round(x, 3)};{['red', 'green'][i % 2]};;{'yes' if x > 0.8 else 'no'}")
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, lines[-1], ""]).encode())
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, shape in (("bars", (1, 12)), ("rows", (12, 1))):
        (folder / name).mkdir()
        for i, mode in zip(range(12), 4 * ["L", "RGB", "RGBA"], strict=True):
            pixels = np.broadcast_to(draws.random(shape), (12, 12)) * 255
            Image.fromarray(pixels.astype("uint8")).convert(mode).save(folder / name / f"{i}.png")
    return folder


def called(capsys, *argv):
    code = main([*map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_table_gives_lines_the_best_and_predictions_of_new_rows(table, tmp_path, capsys):
    out, argv = tmp_path / "net", ["classify", "--table", table, "--target", "ripe", *QUICK]
    two = ["--method", "cross_entropy", "--method", "class_weights"]
    code, said, err = called(capsys, *argv, *two, "--out", out)
    assert code == 0
    lines = [line.split("  ")[0].strip() for line in said.splitlines()]
    assert lines[1:5] == ["frequencies", "gradient boosting", "cross_entropy", "class_weights"]
    assert "mine.csv, 101 rows, ripe (2 classes): no " in err
    assert "column 'empty' is left out" in err
    assert "10 of 101 rows equal an earlier one" in err
    summary = json.loads((out / "palimpsest.json").read_text())
    assert summary["best"] in ("cross_entropy", "class_weights")
    report = (tmp_path / "net.html").read_text()
    assert "class_weights" in report
    assert "<svg" in report
    assert summary["lines"]["cross_entropy"]["values"]["log loss"][0] > 0
    code, said, _ = called(capsys, "predict", out, "--table", table)
    rows = list(csv.DictReader(said.splitlines()))
    assert (code, len(rows), list(rows[0])) == (0, 101, ["row", "ripe", "p(no)", "p(yes)"])
    assert all(row["ripe"] == ("yes" if float(row["p(yes)"]) > 0.5 else "no") for row in rows)
    file = tmp_path / "said.csv"
    assert called(capsys, "predict", out, "--table", table, "--out", file)[0] == 0
    assert file.read_text() == said
    code, as_json, _ = called(capsys, "predict", out, "--table", table, "--json")
    assert json.loads(as_json)[3]["probabilities"]["no"] == pytest.approx(float(rows[3]["p(no)"]), rel=1e-3)
    code, again, err = called(capsys, *argv, *two, "--json")
    assert json.loads(again)["lines"] == summary["lines"]
    assert "seed" not in err  # nothing was run again


def test_images_of_several_modes_are_classified(images, tmp_path, capsys):
    out = tmp_path / "net"
    code, said, _ = called(capsys, "classify", "--images", images, "--method", "squentropy", "--out", out, *QUICK)
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()[1:3]] == ["frequencies", "squentropy"]
    code, said, _ = called(capsys, "predict", out, "--images", images / "bars" / "0.png")
    assert code == 0
    assert said.startswith("image,class,p(bars),p(rows)\n0.png,")


def test_a_loss_that_does_not_beat_the_plain_models_is_not_called_the_best_without_a_word(table, tmp_path, capsys):
    out, lost = tmp_path / "net", ["--method", "cross_entropy", "--lr", "1e-9", *QUICK]
    code, said, _ = called(capsys, "classify", "--table", table, "--target", "ripe", *lost, "--out", out)
    assert code == 0
    assert "no method beat 'gradient boosting': " in said
    assert "gradient boosting" in json.loads((out / "palimpsest.json").read_text())["not beaten"]
    report = (tmp_path / "net.html").read_text()
    assert "validation rows over the seeds. no method" not in report
    assert report.count("o method beat &#39;gradient boosting&#39;") == 2


def test_balanced_puts_first_what_chooses(table, capsys):
    argv = ["classify", "--table", table, "--target", "ripe", "--method", "logit_adjustment", *QUICK]
    code, said, _ = called(capsys, *argv, "--balanced", "--json")
    assert code == 0
    assert next(iter(json.loads(said)["lines"]["logit_adjustment"]["values"])) == "balanced accuracy"


def test_two_commands_into_one_folder(table, tmp_path, capsys):
    argv = ["classify", "--table", table, "--target", "ripe", "--method", "cross_entropy", *QUICK]
    with held(tmp_path / "net", "writes net"):
        code, said, err = called(capsys, *argv, "--out", tmp_path / "net")
    assert (code, said) == (2, "")
    assert f"another process ({os.getpid()}) writes {tmp_path / 'net'}" in err
    assert not (tmp_path / "net").exists()


@pytest.mark.slow
def test_of_two_processes_at_once_one_writes_and_the_other_says_so(table, tmp_path):
    out = tmp_path / "net"
    argv = ["classify", "--table", table, "--target", "ripe", "--method", "cross_entropy", *QUICK, "--out", out]
    program = [sys.executable, "-m", "palimpsest", *map(str, argv)]
    both = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate() for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2]
    refused = said[codes.index(2)][1].splitlines()[-1]
    # One that is slow to start finds the folder there already.
    assert "another process (" in refused or f"{out} exists" in refused
    assert (out / "classifier.json").is_file()
    assert not list(tmp_path.glob(".net-*"))


FILES = {
    "constant.csv": "x,y\n" + "1,a\n" * 20,
    "few.csv": "x,y\n0.5,a\n0.7,b\n",
    "numbers.csv": "x,y\n" + "".join(f"{i % 5},{i / 7}\n" for i in range(60)),
    "lone.csv": "x,y\n" + "".join(f"{i % 5},{'ab'[i > 0]}\n" for i in range(40)),
    "infinite.csv": "x,y\n" + "".join(f"{'inf' if i == 3 else i},{'ab'[i % 2]}\n" for i in range(40)),
    "bare.csv": "y\n" + "a\nb\n" * 20,
    "latin.csv": "x,y\n" + "1,a\n2,b\n" * 10 + "3,é\n",
    "dates.csv": "x,y\n" + "".join(f"{i % 5},2024-01-{i % 28 + 1:02}\n" for i in range(60)),
}


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--table", "TABLE", "--target", "ripe"], "give --method"),
        (["--method", "cross_entropy"], "on what data? Give --table or --images"),
        (["--method", "cross_entrpy", "--table", "TABLE", "--target", "ripe"], "did you mean cross_entropy"),
        (["--method", "cross_entropy", "--table", "TABLE"], "--table needs --target"),
        (["--method", "cross_entropy", "--images", "IMAGES", "--target", "ripe"], "--target is about --table"),
        (["--method", "cross_entropy", "--images", "IMAGES", "--table", "TABLE"], "one kind of data at a time"),
        (["--method", "cross_entropy", "--table", "TABLE", "--target", "ripe", "--size", "9"], "is about --images"),
        (["--method", "cross_entropy", "--table", "TABLE", "--target", "ripr"], "did you mean 'ripe'"),
        (["--method", "cross_entropy", "--table", "TABLE", "--target", "ripe", "--group", "ripe"], "cannot be two"),
        (["--method", "cross_entropy", "--table", "TABLE", "--target", "ripe", "--time", "width"], "missing in"),
        (["--method", "cross_entropy", "--table", "TABLE", "--target", "ripe", "--seeds", "0"], "at least 1"),
        (["--method", "cross_entropy", "--table", "TABLE", "--target", "ripe", "--lr", "nan"], "lr must be above 0"),
        (["--method", "generalized_ce", "--generalized-ce.q", "2"], "q must be above 0 and at most 1"),
        (["--method", "cross_entropy", "--table", "nowhere.csv", "--target", "y"], "nowhere.csv"),
        (["--method", "cross_entropy", "--table", "IMAGES", "--target", "y"], "a folder: give a file"),
        (["--method", "cross_entropy", "--images", "TABLE"], "not a folder"),
        (["--method", "cross_entropy", "--table", "constant.csv", "--target", "y"], "is 'a' in every row"),
        (["--method", "cross_entropy", "--table", "few.csv", "--target", "y"], "too few"),
        (["--method", "cross_entropy", "--table", "numbers.csv", "--target", "y"], "a number of each row"),
        (["--method", "cross_entropy", "--table", "lone.csv", "--target", "y"], "fewer than 3 rows ('a': 1)"),
        (["--method", "cross_entropy", "--table", "infinite.csv", "--target", "y"], "infinite.csv:5: column 'x' holds"),
        (["--method", "cross_entropy", "--table", "bare.csv", "--target", "y"], "no column to learn from"),
        (["--method", "cross_entropy", "--table", "latin.csv", "--target", "y"], "latin.csv:22: not UTF-8"),
        (["--method", "cross_entropy", "--table", "dates.csv", "--target", "y"], "is of dates"),
        (["--method", "cross_entropy", "--images", "IMAGES", "--out", "IMAGES", "--force"], "which this reads"),
    ],
)
def test_bad_input_gets_one_line(argv, why, table, images, tmp_path, capsys):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="latin-1")
    places = {"TABLE": table, "IMAGES": images}
    named = [places.get(word, tmp_path / word if word.endswith(".csv") else word) for word in argv]
    code, said, err = called(capsys, "classify", *named)
    assert (code, said) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("palimpsest: ")]
    assert len(lines) == 1
    assert why in lines[0]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["EMPTY"], "give --table FILE or --images FOLDER"),
        (["EMPTY", "--table", "TABLE", "--images", "EMPTY"], "give --table FILE or --images FOLDER"),
        (["EMPTY", "--table", "TABLE"], "no classifier.json"),
        (["nowhere", "--table", "TABLE"], "no classifier.json"),
        (["EMPTY", "--table", "TABLE", "--out", "TABLE"], "exists: choose another file, or give --force"),
        (["EMPTY", "--table", "TABLE", "--out", "EMPTY", "--force"], "exists: choose another file"),
        (["EMPTY", "--table", "TABLE", "--out", "x.csv", "--json"], "--json prints"),
    ],
)
def test_predict_says_what_it_needs(argv, why, table, tmp_path, capsys):
    code, said, err = called(capsys, "predict", *({"EMPTY": tmp_path, "TABLE": table}.get(word, word) for word in argv))
    assert (code, said) == (2, "")
    assert why in err


INTERRUPTED = """
import os, signal, sys
from palimpsest.cli import main
from palimpsest.train.classification import Supervised
loss, left = Supervised.loss, int(sys.argv[1])
def killed(self, *given):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGINT)
    return loss(self, *given)
Supervised.loss = killed
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are born without
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "at"),
    [
        (["classify", "--method", "cross_entropy", *QUICK], 5),  # the second of three steps of the second seed
        (["run", "squentropy", "--steps", "2", "--seeds", "1", "--workers", "1"], 50),  # after 48 steps of tuning
    ],
)
def test_interrupted_in_a_training_the_same_command_gives_the_same_numbers(argv, at, table, tmp_path, capsys):
    argv = [*argv, "--table", str(table), "--target", "ripe", "--json"]
    program = [sys.executable, "-c", INTERRUPTED, str(at), *argv]
    ended = subprocess.run(program, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (130, ""), ended.stderr
    assert "finished jobs are kept, the same command goes on from there" in ended.stderr
    assert list((tmp_path / "home").glob("yours/*/*"))
    found = []
    for home in ("home", "other"):
        if home == "other":
            (tmp_path / "home").rename(tmp_path / "before")
        code, said, _ = called(capsys, *argv)
        said = json.loads(said)
        arms = {name: line["values"] for name, line in said["lines"].items()} if "lines" in said else said["arms"]
        found.append({name: (arm["accuracy"], arm["log loss"]) for name, arm in arms.items()})
        assert code == 0
    assert found[0] == found[1]
