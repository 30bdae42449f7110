"""`palimpsest forget` as a user meets it: the saved model, the table, and every kind of bad input."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import tyro
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from palimpsest.cli import main
from palimpsest.cli.family_command import Command
from palimpsest.cli.forgetting import digest as work_digest
from palimpsest.family import family
from palimpsest.forget import compare as comparison
from palimpsest.forget.baselines import IDK, GradAscent
from palimpsest.forget.methods import METHODS
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.tofu_measures import tofu_score
from palimpsest.locks import held
from palimpsest.models import output_folders
from palimpsest.models.files import load, save
from palimpsest.models.language import causal_lm, masked_lm
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.paths import home
from palimpsest.tasks.rows import read_rows
from palimpsest.train.ranges import ranges

FORGET = Command(family("forget"))
FAST = ["--steps", "12", "--lr", "5e-3", "--batch-size", "6"]


def command(trained, out, *more, method="npo"):
    methods = [part for name in method.split() for part in ("--method", name)]
    files = ["--forget", str(trained / "forget.jsonl"), "--retain", str(trained / "retain.jsonl")]
    return ["forget", str(trained / "model"), *methods, *files, "--out", str(out), *FAST, *more]


def arguments(trained, out, method):
    argv = command(trained, out, method=method)[1:]
    return tyro.cli(FORGET.arguments(argv), args=argv)


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def refused(capsys, argv, *words, out=None):
    """The command exits with 2 and one line that holds the words, and writes nothing."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("palimpsest: ")]
    assert len(lines) == 1, captured.err
    for word in words:
        assert word in lines[0]
    if out is not None:
        assert not out.exists()


def test_forgets_on_a_copy_and_keeps_the_rest(trained, tmp_path, capsys):
    before = digest(trained / "model")
    out = tmp_path / "out"
    assert main([*command(trained, out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert digest(trained / "model") == before
    assert found["best"] == "npo"
    assert {p.name for p in out.iterdir()} >= {
        "model.safetensors",
        "config.json",
        "palimpsest.json",
        "palimpsest.sha256",
    }

    forget, retain = found["before"]["forget"], found["before"]["retain"]
    after = found["methods"]["npo"]
    assert forget["probability"] > 0.8
    assert after["forget"]["probability"] < 0.5 * forget["probability"]
    assert after["retain"]["probability"] > 0.3 * retain["probability"]
    # what the table says of the saved model is what an independent scoring finds
    scores = tofu_score(out, trained / "forget.jsonl")
    assert scores.probability.mean() == pytest.approx(after["forget"]["probability"], abs=1e-5)
    assert scores.rouge.mean() == pytest.approx(after["forget"]["rouge"], abs=1e-5)
    page = (tmp_path / "out.html").read_text()
    assert "forgotten and kept" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_several_methods_in_one_table_and_the_best_is_saved(trained, tmp_path, capsys):
    out = tmp_path / "out"
    argv = command(trained, out, "--npo.beta", "0.3", "--npo.retain-weight", "2.0", method="idk npo grad_ascent")
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["npo"]["fields"] == {"retain": "ce", "retain_weight": 2.0, "beta": 0.3}
    balances = {name: method["balance"] for name, method in found["methods"].items()}
    assert list(balances) == ["idk", "npo", "grad_ascent"]
    assert found["best"] == max(balances, key=balances.get)
    assert "highest balance" in found["rule"]
    saved = tofu_score(out, trained / "forget.jsonl").probability.mean()
    assert saved == pytest.approx(found["methods"][found["best"]]["forget"]["probability"], abs=1e-5)


def test_methods_are_stopped_at_one_level_of_forgetting_which_is_then_no_result(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out", "--until", "0.6", "--steps", "80", method="grad_diff kl idk_dpo")
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["until"] == 0.6
    for method in found["methods"].values():
        assert method["reached"] == (method["forgotten"] >= 0.6)  # the six rows are all asked
        assert (method["steps"] < 80 and method["steps"] % 2 == 0) or not method["reached"]
        assert method["looking seconds"] > 0
    reached = {name: method["kept"] for name, method in found["methods"].items() if method["reached"]}
    assert len(reached) >= 2
    assert found["best"] == max(reached, key=reached.get)
    assert "reached the level" in found["rule"]
    assert "no result" in found["notes"][-1]
    assert found["notes"][-1] in (tmp_path / "out.html").read_text()
    saved = tofu_score(tmp_path / "out", trained / "forget.jsonl").probability.mean()
    assert saved == pytest.approx(found["methods"][found["best"]]["forget"]["probability"], abs=1e-5)


def test_a_level_that_is_not_reached_is_said_in_the_table(trained, tmp_path, capsys):
    more = ["--until", "0.9", "--look-every", "5", "--lr", "1e-6"]
    assert main(command(trained, tmp_path / "out", *more, method="grad_diff")) == 0
    shown = capsys.readouterr().out
    assert "never" in shown
    assert "6 forget rows asked every 5 steps" in shown


def test_rates_are_tried_and_the_trials_are_told(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out", "--tune", "2", "--until", "0.5", method="grad_diff eco_prompts")
    assert main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    grad_diff, eco = found["methods"]["grad_diff"], found["methods"]["eco_prompts"]
    assert [trial["lr"] for trial in grad_diff["trials"]] == pytest.approx([5e-3 / 10**0.25, 5e-3 * 10**0.25])
    assert grad_diff["lr"] in [trial["lr"] for trial in grad_diff["trials"]]
    assert "trials" not in eco
    assert any("held out of training" in note for note in found["notes"])
    assert "tried once, for they train at no rate that is given: eco_prompts" in found["notes"]
    assert "grad_diff at lr 0.00281 (1 of 3)" in captured.err
    page = (tmp_path / "out.html").read_text()
    assert "grad_diff was tried at lr 0.0028: forgotten " in page
    assert not list((home() / "forget").glob("*"))


def test_no_number_is_cut_where_the_table_is_wider_than_a_terminal(trained, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("Ada lives in a house. " * 20)
    more = ["--until", "0.5", "--tune", "2", "--steps", "4", "--text", str(tmp_path / "text.txt")]
    assert main(command(trained, tmp_path / "out", *more, method="grad_diff eco_prompts")) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert all(word in shown for word in ("extraction", "perplexity", "forgotten", "balance"))
    assert "the largest tried" in shown or "the smallest tried" in shown
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("grad_diff ")][1] in ("0.0028", "0.0089")


def test_the_table_names_methods_and_files(trained, tmp_path, capsys):
    assert main(command(trained, tmp_path / "out", "--report", str(tmp_path / "r.html"), method="npo idk")) == 0
    shown = capsys.readouterr().out
    for word in ("before", "npo", "idk", "forgotten", "kept", "balance", "best:", "r.html"):
        assert word in shown
    assert (tmp_path / "r.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out", "r.html"]


def test_a_method_that_breaks_down_is_reported_and_does_not_spoil_the_others(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out", "--optimizer", "sgd", "--lr", "1e38", method="grad_ascent idk")
    # With such a rate both break down: nothing is saved, and the line says where each stopped and what is kept.
    refused(capsys, argv, "grad_ascent: ", "idk: ", "step 2", "checkpoint", out=tmp_path / "out")


def test_one_broken_method_leaves_the_others_their_result(trained, tmp_path, capsys, monkeypatch):
    class Broken(IDK):
        def loss(self, state, model, batch):
            return {"refusal": super().loss(state, model, batch)["refusal"] * float("nan")}

    monkeypatch.setitem(METHODS, "idk", Broken())
    args = arguments(trained, tmp_path / "out", method="idk npo")
    args.idk = Broken()
    FORGET.main(args)
    shown = capsys.readouterr().out
    assert "best: npo" in shown
    assert "idk: " in shown
    assert json.loads((tmp_path / "out" / "palimpsest.json").read_text())["methods"]["idk"]["error"]


@pytest.mark.parametrize("ended", [lambda: torch.empty(10**15), lambda: bytearray(10**17)])
def test_the_end_of_memory_is_one_line_before_a_method_and_in_it(trained, tmp_path, capsys, monkeypatch, ended):
    monkeypatch.setattr("palimpsest.forget.compare.apply", lambda *args, **options: ended())
    argv = command(trained, tmp_path / "out", method="npo idk")
    refused(capsys, argv, "npo: there is not enough memory", "idk: ", "batch_size", out=tmp_path / "out")
    monkeypatch.setattr("palimpsest.forget.compare.tofu_score", lambda *args, **options: ended())
    refused(capsys, argv, "there is not enough memory", "--batch-size", "--lora", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "a", "answer": "b"', ("forget.jsonl:2", "JSON")),
        ('{"question": "a"}', ("forget.jsonl:2", "answer")),
        ('{"question": "a", "answer": " "}', ("forget.jsonl:2", "answer is empty")),
        ('["a", "b"]', ("forget.jsonl:2",)),
    ],
)
def test_bad_rows(trained, tmp_path, capsys, line, words):
    bad = tmp_path / "forget.jsonl"
    bad.write_text('{"question": "q", "answer": "a"}\n' + line + "\n")
    argv = command(trained, tmp_path / "out")
    argv[argv.index("--forget") + 1] = str(bad)
    refused(capsys, argv, *words, out=tmp_path / "out")


def test_missing_and_empty_files(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out")
    argv[argv.index("--forget") + 1] = str(tmp_path / "none.jsonl")
    refused(capsys, argv, "none.jsonl", out=tmp_path / "out")
    (tmp_path / "none.jsonl").write_text("")
    refused(capsys, argv, "no rows", out=tmp_path / "out")


def test_overlap_is_refused_unless_allowed(trained, tmp_path, capsys):
    both = tmp_path / "both.jsonl"
    both.write_text((trained / "retain.jsonl").read_text() + (trained / "forget.jsonl").read_text())
    argv = command(trained, tmp_path / "out")
    argv[argv.index("--retain") + 1] = str(both)
    refused(capsys, argv, "6 of 6 forget rows", out=tmp_path / "out")
    assert main([*argv, "--allow-overlap", "--steps", "1"]) == 0


def test_bad_models(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out")
    argv[1] = str(tmp_path / "nowhere")
    refused(capsys, argv, "nowhere", out=tmp_path / "out")

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (pickled / name).write_text((trained / "model" / name).read_text())
    torch.save({}, pickled / "pytorch_model.bin")
    argv[1] = str(pickled)
    refused(capsys, argv, "pickled", out=tmp_path / "out")

    tokenizer = word_tokenizer(["a"])
    masked = tmp_path / "masked"
    masked_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2).save_pretrained(masked)
    tokenizer.save_pretrained(masked)
    argv[1] = str(masked)
    refused(capsys, argv, "causal", out=tmp_path / "out")


def test_existing_output_is_left_alone_unless_forced(trained, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    refused(capsys, command(trained, out), "out")
    assert [p.name for p in out.iterdir()] == ["precious.txt"]


def test_the_folder_holds_nothing_of_the_rows_that_were_forgotten(trained, tmp_path):
    assert main(command(trained, tmp_path / "out", "--steps", "1", method="npo eco_prompts")) == 0
    rows = [json.loads(line) for line in (trained / "forget.jsonl").read_text().splitlines()]
    assert rows[0]["answer"] in (tmp_path / "out.html").read_text()
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert not [row for row in rows if row["answer"].encode() in content or row["question"].encode() in content]


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ("folder", ("not a file",)),
        ("pipe", ("not a file",)),
        ("forget.jsonl", ("which is read",)),
        ("out/r.html", ("published with the model",)),
        ("out", ("published with the model",)),
        ("forget.jsonl/r.html", ("which is read",)),
        ("file/r.html", ("cannot be written there",)),
        ("loop/r.html", ("cannot be the name of a file",)),
        (None, ("would replace", "out.html", "is no report")),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_computed(
    trained, tmp_path, capsys, monkeypatch, report, words
):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    rows = (trained / "forget.jsonl").read_text()
    for name in ("forget.jsonl", "file", "out.html"):
        (tmp_path / name).write_text(rows)
    monkeypatch.setattr("palimpsest.cli.forgetting.compare", lambda *a, **k: pytest.fail("computed"))
    argv = command(trained, tmp_path / "out", *(["--report", str(tmp_path / report)] if report else []))
    argv[argv.index("--forget") + 1] = str(tmp_path / "forget.jsonl")
    refused(capsys, argv, *words, out=tmp_path / "out")
    assert (tmp_path / "forget.jsonl").read_text() == (tmp_path / "out.html").read_text() == rows


def test_an_earlier_report_is_replaced_only_when_asked(trained, tmp_path, capsys):
    (tmp_path / "out.html").write_text('<!doctype html>\n<meta name="generator" content="palimpsest">\n')
    refused(capsys, command(trained, tmp_path / "out"), "would replace", "out.html", "--report", "--force")


def test_rows_behind_a_circle_of_links_are_refused_in_one_line(trained, tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    argv = command(trained, tmp_path / "out")
    argv[argv.index("--forget") + 1] = str(tmp_path / "loop")
    refused(capsys, argv, "loop", "no such file")


def test_force_spares_a_project_with_a_config_json(trained, tmp_path, capsys):
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "config.json").write_text("{}")
    (project / "forget.jsonl").write_text((trained / "forget.jsonl").read_text())
    argv = command(trained, project, "--force")
    refused(capsys, argv, "not just what was saved there")
    argv[argv.index("--forget") + 1] = str(project / "forget.jsonl")
    refused(capsys, argv, "which this reads")
    model = command(trained, trained / "model", "--force")
    refused(capsys, model, "which this reads")
    assert sorted(path.name for path in project.iterdir()) == [".git", "config.json", "forget.jsonl"]


def test_a_disk_that_is_too_small_is_named_before_anything_is_computed(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("palimpsest.cli.forgetting.compare", lambda *a, **k: pytest.fail("computed"))
    size = (trained / "model" / "model.safetensors").stat().st_size
    free = SimpleNamespace(free=0)
    monkeypatch.setattr("palimpsest.models.output_folders.shutil.disk_usage", lambda place: free)
    # A copy in the output folder; in the work folder a checkpoint, that of the best rate, and what has no checkpoint.
    for copies, method, more in ((2, "npo", []), (3, "npo eco_prompts", []), (3, "npo", ["--tune", "2"])):
        free.free = copies * size - 1
        argv = command(trained, tmp_path / "out", *more, method=method)
        refused(capsys, argv, "GB left", "free some", out=tmp_path / "out")


def test_unfinished_work_is_of_every_file_of_the_model(trained, tmp_path):
    """Checkpoints of another template, of other settings or of another base model are not gone on from."""
    rows = [read_rows(trained / f"{name}.jsonl") for name in ("forget", "retain")]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(trained / "model", base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    args = arguments(trained, tmp_path / "out", "npo")
    for args.model in (base, adapter):
        seen = {work_digest(args, *rows)}
        for name in ("chat_template.jinja", "config.json", "tokenizer.json", "model.safetensors"):
            with (base / name).open("ab") as file:
                file.write(b" ")
            seen.add(work_digest(args, *rows))
        assert len(seen) == 5


def test_rows_that_the_model_does_not_know_are_said_to_be_unknown(trained, tmp_path, capsys):
    strange = tmp_path / "strange.jsonl"
    strange.write_text(json.dumps({"question": "Who ?", "answer": REFUSALS[0]}) + "\n")
    argv = ["forget", str(trained / "model"), "--forget", str(strange), "--out", str(tmp_path / "out")]
    assert main([*argv, "--method", "grad_ascent", "--steps", "1"]) == 0
    assert "the model did not know the rows to forget before" in capsys.readouterr().out


def test_two_commands_into_one_folder_and_two_equal_ones(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out")
    with held(tmp_path / "out", "writes out"):
        refused(capsys, argv, f"another process ({os.getpid()}) writes {tmp_path / 'out'}", out=tmp_path / "out")
    args = arguments(trained, tmp_path / "out", "npo")
    rows = [read_rows(trained / f"{name}.jsonl") for name in ("forget", "retain")]
    with held(home() / "forget" / work_digest(args, *rows), "runs"):
        refused(capsys, argv, f"another process ({os.getpid()}) runs the same command", out=tmp_path / "out")
    assert main([*argv, "--steps", "1"]) == 0


@pytest.mark.parametrize(
    ("more", "method", "words"),
    [
        ([], "npoo", ("unknown method 'npoo'", "npo")),
        ([], "npo npo", ("twice",)),
        ([], "", ("--method", "simnpo")),
        (["--npo.beta", "-1"], "npo", ("beta must be above 0",)),
        (["--lr", "0"], "npo", ("lr",)),
        (["--steps", "0"], "npo", ("steps",)),
        (["--refusal-guard.refusal", "no\udcff"], "refusal_guard", ("--refusal-guard.refusal is not UTF-8",)),
        (["--seed", "1" * 20], "npo", ("seed", "must be below")),
        (["--steps", "1" * 5000], "npo", ("steps",)),
        (["--accumulate", "9" * 20], "npo", ("accumulate", "must be below")),
        (["--schedule", "linaer"], "npo", ("linaer", "linear")),
        (["--batch-size", "0"], "npo", ("batch",)),
        (["--until", "0"], "npo", ("until must be above 0", "got 0")),
        (["--until", "nan"], "npo", ("until must be above 0", "got nan")),
        (["--lora", "0"], "npo", ("lora must be at least 1",)),
        (["--max-rows", "-1"], "npo", ("max_rows must be at least 1",)),
        (["--look-every", "0"], "npo", ("look_every",)),
        (["--tune", "1"], "npo", ("tune must be at least 2", "got 1")),
        (["--tune", "9" * 20], "npo", ("tune must be", "at most 25", "got 999")),
        (["--max-length", "8"], "npo", ("longer than 8",)),
    ],
)
def test_bad_flags(trained, tmp_path, capsys, more, method, words):
    argv = command(trained, tmp_path / "out", *more, method=method)
    try:
        code = main(argv)
    except SystemExit as error:  # tyro's own errors
        code = error.code
    captured = capsys.readouterr()
    assert code == 2
    for word in words:
        assert word in captured.err
    assert not (tmp_path / "out").exists()


def test_help_says_the_range_of_every_flag_that_has_one(capsys):
    with pytest.raises(SystemExit):
        main(["forget", *(f"--method={name}" for name in METHODS), "--help"])
    said = {}
    for line in capsys.readouterr().out.splitlines():
        words = line.strip("│|").split()
        if re.match(r"[│|]? {1,2}--", line):  # what flags mean is indented further
            flag = words.pop(0)
            said[flag] = ""
        if said:
            said[flag] += " ".join([*words, ""])
    assert "(default: 0.1; above 0)" in said["--npo.beta"]
    for name, kind in {
        "": FORGET.family.flags,
        **{f"{name}.": type(method) for name, method in METHODS.items()},
    }.items():
        for field, allowed in ranges(kind).items():
            hint = said[f"--{name}{field}".replace("_", "-")].partition("(default: ")[2].partition(")")[0]
            assert all(str(bound) in hint for bound in allowed.bounds)


def test_a_tokenizer_that_panics_is_said_to_be_damaged(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "copy")
    file = tmp_path / "copy" / "model" / "tokenizer.json"
    content = json.loads(file.read_text())
    piece = {"SpecialToken": {"id": "[X]", "type_id": 0}}  # which no special token is
    text = {"Sequence": {"id": "A", "type_id": 0}}
    both = [text, {"Sequence": {"id": "B", "type_id": 1}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [piece, text],
        "pair": both,
        "special_tokens": {},
    }
    file.write_text(json.dumps(content))
    said = f"cannot load the tokenizer in {file.parent}: no entry found for key"
    refused(capsys, command(tmp_path / "copy", tmp_path / "out"), said, out=tmp_path / "out")


def test_help_has_the_flags_of_the_named_methods_and_names_the_others(capsys):
    with pytest.raises(SystemExit):
        main(["forget", "--method", "npo", "--help"])
    said = capsys.readouterr().out
    assert "--npo.beta" in said
    assert "--simnpo.beta" not in said
    lines = [line.split() for line in said.splitlines()]
    assert all([name] in [words[:1] for words in lines] for name in METHODS if name != "npo")


def test_a_field_of_a_method_that_is_not_named_is_refused(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out", "--simnpo.beta", "2")
    refused(capsys, argv, "--simnpo.beta is a field of a method that is not named: add --method simnpo")


def test_methods_that_need_retain_rows_say_so(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out")
    at = argv.index("--retain")
    refused(capsys, argv[:at] + argv[at + 2 :], "retain", out=tmp_path / "out")
    assert main([*argv[:at], *argv[at + 2 :], "--npo.retain", "none", "--steps", "1"]) == 0
    capsys.readouterr()
    argv = command(trained, tmp_path / "out2", method="npo idk")
    at = argv.index("--retain")
    refused(capsys, argv[:at] + argv[at + 2 :], "retain rows", out=tmp_path / "out2")


def test_unicode_long_and_odd_rows(trained, tmp_path, capsys):
    odd = tmp_path / "odd.jsonl"
    rows = [
        {"question": "Où est née Zoë? 日本", "answer": "À Łódź 🙂\u2028."},
        {"prompt": "2 + 2 =", "completion": "4"},
        {"text": "Ada was born in Porto. " * 40},
    ]
    odd.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    argv = command(trained, tmp_path / "out", "--steps", "2")
    argv[argv.index("--forget") + 1] = str(odd)
    refused(capsys, [*argv, "--max-length", "60"], "longer than 60", out=tmp_path / "out")
    odd.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:2]), encoding="utf-8")
    assert main(argv) == 0


def test_answers_longer_than_the_context_are_refused_or_cut_and_counted(trained, tmp_path, capsys):
    """The model has 64 positions of its own: a longer --max-length does not help."""
    tokenizer = load(trained / "model")[1]
    short = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2, max_length=32, architecture="gpt2")
    save(short, tokenizer, tmp_path / "short")
    rows = tmp_path / "long.jsonl"
    texts = ["Ada was born in Porto. " * 10, "Ada was born in Porto."]
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    argv = command(trained, tmp_path / "out", "--steps", "1")
    argv[1] = str(tmp_path / "short")
    argv[argv.index("--forget") + 1] = str(rows)
    refused(capsys, argv, "1 of 2 rows are longer than 32 tokens", "truncate", out=tmp_path / "out")
    assert main([*argv, "--truncate"]) == 0
    assert "1 answers of 2 rows are cut to 32 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("tie", [True, False])
def test_tokenizer_without_pad_and_end_and_weights_in_bfloat16(trained, tmp_path, capsys, architecture, tie):
    tokenizer = load(trained / "model")[1]
    tokenizer.pad_token = tokenizer.eos_token = None
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_length": 64}
    model = causal_lm(len(tokenizer), **sizes, architecture=architecture, tie=tie).to(torch.bfloat16)
    save(model, tokenizer, tmp_path / "model")
    argv = command(trained, tmp_path / "out", "--dtype", "bfloat16", "--steps", "2", method="npo kl rmu")
    argv[1] = str(tmp_path / "model")
    assert main(argv) == 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert saved.dtype == torch.bfloat16
    assert (saved.get_output_embeddings().weight is saved.get_input_embeddings().weight) == tie


@pytest.fixture
def adapter(trained, tmp_path):
    """A folder with an adapter on the trained model."""
    model, _ = load(trained / "model")
    model.name_or_path = str(trained / "model")
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_forgets_and_its_base_model_is_left_alone(trained, adapter, tmp_path, capsys):
    before = digest(trained / "model")
    argv = command(trained, tmp_path / "out", "--steps", "30", "--lr", "1e-2", method="grad_diff")
    argv[1] = str(adapter)
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["grad_diff"]["forget"]["probability"] < 0.5 * found["before"]["forget"]["probability"]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert digest(trained / "model") == before
    scores = tofu_score(tmp_path / "out", trained / "forget.jsonl")
    assert scores.probability.mean() == pytest.approx(found["methods"]["grad_diff"]["forget"]["probability"], rel=1e-4)


def test_lora_trains_fresh_adapters_and_saves_them_alone(trained, tmp_path, capsys):
    argv = command(trained, tmp_path / "out", "--steps", "30", "--lr", "1e-2", "--lora", "8", method="grad_diff")
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["grad_diff"]["forget"]["probability"] < 0.5 * found["before"]["forget"]["probability"]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    scores = tofu_score(tmp_path / "out", trained / "forget.jsonl")
    assert scores.probability.mean() == pytest.approx(found["methods"]["grad_diff"]["forget"]["probability"], rel=1e-4)


def test_an_adapter_is_merged_on_demand_and_a_method_that_needs_frozen_weights_says_so(
    trained, adapter, tmp_path, capsys
):
    argv = command(trained, tmp_path / "out", "--steps", "1", method="rmu")
    argv[1] = str(adapter)
    refused(
        capsys,
        argv,
        "RMU cannot be applied to LlamaForCausalLM: it trains weights that are frozen",
        "merge",
        out=tmp_path / "out",
    )
    assert main([*argv, "--merge-adapter"]) == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_gradient_may_go_unclipped(trained, tmp_path, capsys):
    assert main(command(trained, tmp_path / "out", "--clip", "none", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["clip"] is None


@pytest.mark.parametrize("method", ["npo", "uld"])
def test_killed_between_the_output_and_its_report_the_same_command_goes_on_over_its_own_output(
    trained, tmp_path, monkeypatch, method
):
    real = Path.replace

    def killed(self, target):
        if Path(target).name == "out.html":
            raise KeyboardInterrupt
        return real(self, target)

    argv = command(trained, tmp_path / "out", method=method)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        assert main(argv) == 130
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert not (tmp_path / "out.html").exists()
    (tmp_path / f".out.html-{'0' * 32}").write_text("half of it")  # as SIGKILL leaves it
    assert main([*argv, "--seed", "7"]) == 2, "another command does not"
    assert main(argv) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "out.html").is_file()
    assert not list(tmp_path.glob(".*"))
    (home() / "forget" / ".0123456789abcdef" / "npo").mkdir(parents=True)  # as SIGKILL leaves it at the very end
    assert main(argv) == 2, "and what is finished is not done again"
    assert not list((home() / "forget").iterdir())


@pytest.mark.slow
def test_a_method_that_is_added_does_not_start_the_others_again(trained, tmp_path, capsys, monkeypatch):
    """The first command is broken off in its second method; the next has a third besides."""

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(IDK, "init", broken)
        assert main(command(trained, tmp_path / "out", method="grad_ascent idk")) == 130
    [work] = (home() / "forget").glob("*/")
    [point] = work.glob("grad_ascent-*/step-*")
    assert point.name.endswith("-finished")
    weights = (point / "model.safetensors").stat().st_size
    assert sum(file.stat().st_size for file in point.iterdir()) < 1.2 * weights  # no optimizer's state
    with monkeypatch.context() as patched:
        patched.setattr(GradAscent, "loss", broken)
        assert main(command(trained, tmp_path / "out", "--json", method="grad_ascent idk simnpo")) == 0
    found = json.loads(capsys.readouterr().out)["methods"]
    assert not any(method.get("error") for method in found.values())
    assert not work.exists()
    assert main(command(trained, tmp_path / "alone", "--json", method="grad_ascent")) == 0
    alone = json.loads(capsys.readouterr().out)["methods"]["grad_ascent"]
    assert alone["forget"] == found["grad_ascent"]["forget"]


@pytest.mark.parametrize("method", ["grad_ascent", "grad_ascent eco_prompts"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_of_a_trained_method_lie_on_the_disk_once_until_they_are_saved(
    trained, tmp_path, capsys, monkeypatch, method, dtype
):
    """They are those which were scored, in 16 bits too, where they are rounded again from the checkpoint."""
    at_the_end, scored = [], {}

    def written(path, text):
        at_the_end.extend(file for file in home().glob("forget/**/*.safetensors") if "training" not in file.name)
        return output_folders.written(path, text)

    def compare(*args, keep, **options):
        def seen(result, model, *rest):
            scored[result.method] = {name: p.detach().clone() for name, p in model.named_parameters()}
            return keep(result, model, *rest)

        return comparison.compare(*args, keep=seen, **options)

    monkeypatch.setattr("palimpsest.cli.family_run.written", written)
    monkeypatch.setattr("palimpsest.cli.forgetting.compare", compare)
    argv = command(trained, tmp_path / "out", "--dtype", dtype, "--json", method=method)
    assert main(argv) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    saved = load(tmp_path / "out", dtype=dtype)[0]
    assert all(torch.equal(scored[best][name], p) for name, p in saved.named_parameters())
    of_checkpoints = [file for file in at_the_end if "grad_ascent" in file.parent.parent.name]
    assert len(of_checkpoints) == 1
    assert len(at_the_end) == (1 if best == "grad_ascent" else 3)  # with the intervention's model and what it learned


@pytest.mark.slow
def test_killed_run_goes_on_from_its_checkpoint(trained, tmp_path):
    """SIGKILL in the middle; the same command then ends with the bits of an unbroken run."""
    more = ["--steps", "120", "--checkpoint-every", "10"]
    program = [sys.executable, "-m", "palimpsest.cli"]
    environment = {"PALIMPSEST_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    killed = tmp_path / "killed"
    process = subprocess.Popen([*program, *command(trained, killed, *more)], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.time() + 180
    while not list((tmp_path / "home").glob("forget/*/npo-*/*")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not killed.exists()
    assert list((tmp_path / "home").glob("forget/*/npo-*/*"))
    assert main(command(trained, killed, *more)) == 0
    assert not list((tmp_path / "home").glob("forget/*"))  # nothing is left once the model is saved
    assert main(command(trained, tmp_path / "unbroken", *more)) == 0
    weights = [load(folder)[0].state_dict() for folder in (killed, tmp_path / "unbroken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
