"""`palimpsest retain` as a user meets it: language models, classifiers, and every kind of bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from palimpsest.benches.language_yours import Unchanged, on_rows, save_best
from palimpsest.cli import main
from palimpsest.models.files import load, save
from palimpsest.models.template import prompt_template
from palimpsest.retain import METHODS
from palimpsest.retain.family import LANGUAGE
from palimpsest.tasks.rows import read_rows

FAST = ["--steps", "3", "--seeds", "1", "--batch-size", "4", "--workers", "1"]


@pytest.fixture(scope="module")
def new(trained, tmp_path_factory):
    """Other answers to questions that the model knows, in words that it knows, in two files."""
    rows, folder = read_rows(trained / "forget.jsonl"), tmp_path_factory.mktemp("new")
    for name, part in (("first", rows[:3]), ("second", rows[3:])):
        turned = [{"question": row["question"], "answer": row["perturbed_answer"][0]} for row in part]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    (folder / "prose.txt").write_text("She was born in Harare. " * 20)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file, draws = tmp_path_factory.mktemp("rows") / "mine.csv", np.random.default_rng(0)
    lines = ["width,height,site,ripe"]
    for i in range(90):
        x, y = draws.normal(size=2)
        lines.append(f"{x:.3f},{y:.3f},{'abc'[i // 30]},{'yes' if (x, y, x)[i // 30] > 0 else 'no'}")
    file.write_text("\n".join([*lines, ""]))
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for level, name in enumerate(("ant", "bee", "cat", "dog")):
        (folder / name).mkdir()
        for i in range(12):
            pixels = draws.integers(0, 20, (8, 8)) + 60 * level
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{i}.png")
    return folder


def called(capsys, *argv):
    code = main([*map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err


def language(trained, new, *more):
    return [
        *("retain", trained / "model", "--new", new / "first.jsonl", "--text", new / "prose.txt"),
        *("--lr", "5e-3", *FAST, *more),
    ]


def test_a_language_model_learns_two_files_and_the_saved_one_is_what_the_table_says(trained, new, tmp_path, capsys):
    out = tmp_path / "taught"
    more = ["--new", new / "second.jsonl", "--keep", trained / "retain.jsonl", "--method", "er", "--out", out]
    code, said, err = called(capsys, *language(trained, new, *more))
    assert code == 0, err
    assert [line.split()[0] for line in said.splitlines()[2:5]] == ["before", "fine_tune", "er"]
    assert "gained is what was learned of the rows that were taught" in err
    found = json.loads((out / "palimpsest.json").read_text())
    assert (found["best"], found["settings"]["keep"]) == ("er", "retain.jsonl")
    values = found["lines"]["er"]["values"]
    assert values["gained - lost"][0] == pytest.approx(values["gained"][0] - values["lost"][0])
    assert values["old P, lowest"][0] <= values["old P"][0]
    assert values["new P"][0] > found["lines"]["before"]["values"]["new P"][0]
    assert found["lines"]["before"]["values"]["gained - lost"] == [0.0]
    assert load(out)[0].config.model_type == "llama"
    report = (tmp_path / "taught.html").read_text()
    for caption in ("P of old, along the way", "P of second", "er: each task (column) after each (row)"):
        assert caption in report
    code, again, err = called(capsys, *language(trained, new, *more), "--force")
    assert (code, again.split()) == (0, said.split())
    assert "seed 200 ·" not in err  # nothing was run again


def test_without_rows_to_keep_the_model_writes_them_and_it_is_said(trained, new, capsys, monkeypatch):
    monkeypatch.setattr("palimpsest.benches.language_world.WRITTEN", 12)
    monkeypatch.setattr("palimpsest.benches.language_world.LINE_SECONDS", 0)
    monkeypatch.setattr("palimpsest.retain.self_written.BATCH", 8)
    code, said, err = called(capsys, *language(trained, new, "--method", "interpolation", "--json"))
    assert code == 0, err
    assert "what is lost is estimated on rows that the model wrote itself" in err
    assert err.index("the model writes 12 rows to keep, once") < err.index("8 of 12 texts are written, about")
    found = json.loads(said)
    assert "12 rows that it wrote itself to keep" in found["data"]
    lost = {name: line["values"]["lost"][0] for name, line in found["lines"].items()}
    assert lost["interpolation"] < lost["fine_tune"]


def test_what_is_saved_has_the_tokenizer_of_the_rows_and_no_weights_are_read_for_it(
    trained, new, tmp_path, monkeypatch
):
    model, tokenizer = load(trained / "model")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    save(model, tokenizer, tmp_path / "chat")
    files = {"new": [new / "first.jsonl"], "keep": trained / "retain.jsonl", "text": [new / "prose.txt"]}
    yours = on_rows(model=tmp_path / "chat", system="She was born in Harare.", **files)
    assert "the system message is not saved with a model: give it again where the model is used" in yours.notes
    world = yours.bench.world
    asked = world(0).tokenizer
    assert prompt_template(asked).system == "She was born in Harare."
    monkeypatch.setattr("palimpsest.benches.language_world.load", None)  # whoever reads the folder again fails
    saved = []
    monkeypatch.setattr(type(asked), "save_pretrained", lambda self, folder: saved.append(self))
    save_best(world, 0, Unchanged().edit(model, world(0).data), tmp_path / "taught")
    assert saved == [asked]
    assert (tmp_path / "taught" / "model.safetensors").is_file()


def test_adapters_are_trained_and_saved_alone(trained, new, tmp_path, capsys):
    more = ["--keep", trained / "retain.jsonl", "--test", new / "first.jsonl", "--lora", "2", "--method", "kl_replay"]
    code, _, err = called(capsys, *language(trained, new, *more, "--out", tmp_path / "taught"))
    assert code == 0, err
    assert (tmp_path / "taught" / "adapter_model.safetensors").is_file()
    model, _ = load(tmp_path / "taught")
    assert any(p.abs().sum() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_a_table_of_tasks_gives_the_three_accuracies_between_floor_and_ceiling(table, tmp_path, capsys):
    out, argv = tmp_path / "net", ["retain", "--table", table, "--target", "ripe", "--tasks", "site", *FAST]
    code, said, err = called(capsys, *argv, "--method", "er", "--method", "ewc", "--out", out)
    assert code == 0, err
    assert "tasks share classes, and a row is asked about among all classes so far: a, then b, then c" in err
    assert [line.split()[0] for line in said.splitlines()[2:7]] == ["untrained", "fine_tune", "joint", "er", "ewc"]
    values = json.loads((out / "palimpsest.json").read_text())["lines"]["er"]["values"]
    assert list(values) == ["average accuracy", "forgetting", "current-task accuracy", "kB kept", "validation"]
    assert "accuracy on the tasks so far, along the way" in (tmp_path / "net.html").read_text()
    code, said, _ = called(capsys, "predict", out, "--table", table)
    assert (code, len(said.splitlines())) == (0, 91)


def test_classes_of_images_come_in_groups(images, capsys):
    code, said, err = called(
        capsys, "retain", "--images", images, "--method", "icarl", "--each", "2", "--told", *FAST, "--json"
    )
    assert code == 0, err
    assert "tasks bring new classes, and a row is asked about among the classes of its task: ant, bee, then cat" in err
    assert json.loads(said)["best"] == "icarl"


def test_the_methods_that_teach_language_models_are_methods():
    assert set(LANGUAGE) <= set(METHODS)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["MODEL", "--new", "NEW", "--keep", "KEEP"], "give --method"),
        (["--method", "er"], "on what data? Give --new or --table or --images"),
        (["--new", "NEW", "--method", "er"], "--new needs --model: the language model that learns"),
        (["MODEL", "--new", "NEW", "--table", "TABLE", "--method", "er"], "one kind of data at a time"),
        (["--table", "TABLE", "--target", "ripe", "--method", "er"], "--table needs --tasks"),
        (["--table", "TABLE", "--target", "ripe", "--tasks", "ripe", "--method", "er"], "ripe"),
        (["--table", "TABLE", "--target", "ripe", "--tasks", "sit", "--method", "er"], "did you mean 'site'"),
        (
            ["--table", "TABLE", "--target", "ripe", "--tasks", "site", "--lora", "2", "--method", "er"],
            "about --new",
        ),
        (["--images", "IMAGES", "--each", "4", "--method", "er"], "all is one task"),
        (["--images", "IMAGES", "--method", "ncm", "--out", "net"], "ncm answers by what it remembers"),
        (["MODEL", "--new", "NEW", "--keep", "KEEP", "--method", "bic"], "BiC tells classes apart"),
        (["MODEL", "--new", "nowhere.jsonl", "--keep", "KEEP", "--method", "er"], "nowhere.jsonl: no such file"),
        (["MODEL", "--new", "NEW", "--keep", "NEW", "--method", "er"], "3 rows are too few"),
        (["MODEL", "--new", "NEW", "--keep", "broken.jsonl", "--method", "er"], "broken.jsonl:1: no answer"),
        (["MODEL", "--new", "NEW", "--test", "NEW", "--test", "NEW", "--keep", "KEEP", "--method", "er"], "--test is"),
        (["MODEL", "--new", "NEW", "--keep", "KEEP", "--max-length", "4", "--method", "er"], "longer than 4 tokens"),
        (
            ["MODEL", "--new", "NEW", "--keep", "KEEP", "--method", "er", "--out", "MODEL", "--force"],
            "which this reads",
        ),
        (["nowhere", "--new", "NEW", "--keep", "KEEP", "--method", "er"], "nowhere"),
        (["MODEL", "--new", "NEW", "--keep", "KEEP", "--method", "er", "--er.size", "0"], "size must be at least 1"),
        (["MODEL", "--new", "NEW", "--keep", "KEEP", "--method", "er", "--text", "empty.txt"], "empty"),
    ],
)
def test_bad_input_gets_one_line(argv, why, trained, new, table, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jsonl").write_text('{"question": "Who?"}\n')
    (tmp_path / "empty.txt").write_text(" \n")
    places = {"MODEL": trained / "model", "NEW": new / "first.jsonl", "KEEP": trained / "retain.jsonl"}
    places |= {"TABLE": table, "IMAGES": images}
    code, said, err = called(capsys, "retain", *[places.get(word, word) for word in argv])
    assert (code, said) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("palimpsest: ")]
    assert len(lines) == 1, err
    assert why in lines[0]
    assert not (tmp_path / "net").exists()


INTERRUPTED = """
import os, signal, sys
from palimpsest.cli import main
from palimpsest.retain.replay import ER
loss, left = ER.loss, int(sys.argv[1])
def killed(self, *given):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGINT)
    return loss(self, *given)
ER.loss = killed
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_interrupted_the_same_command_goes_on_and_gives_the_same_numbers(table, tmp_path, capsys):
    argv = ["retain", "--table", str(table), "--target", "ripe", "--tasks", "site", "--method", "er", *FAST, "--json"]
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, "5", *argv], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (130, ""), ended.stderr
    assert "finished jobs are kept, the same command goes on from there" in ended.stderr
    code, _, err = called(capsys, *argv[:-1])
    assert (code, "fine_tune · seed 200" in err, "er · seed 200" in err) == (0, False, True)
    said = json.loads(called(capsys, *argv)[1])["lines"]["er"]
    (tmp_path / "home").rename(tmp_path / "before")
    assert json.loads(called(capsys, *argv)[1])["lines"]["er"] == said
