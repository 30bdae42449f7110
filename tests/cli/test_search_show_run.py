"""The commands that find, show and run: what they print, for people and as JSON, and how they refuse."""

import errno
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import palimpsest
from palimpsest.catalogue import Parity, Withdrawal, entries, entry
from palimpsest.cli import COMMANDS, main
from palimpsest.errors import UserError
from palimpsest.evidence import Claim, expect, given, run_claim
from palimpsest.paths import home

CLEAN = "import sys; from palimpsest.cli import main; sys.exit(main())"


def ascent(seed, budget):
    return {"utility": 0.1 + 0.001 * (seed % 3), "memorisation": 0.95}


def better(seed, budget):
    return {"utility": 0.6 + 0.002 * (seed % 5), "memorisation": 0.96, "steps": 60.0}


def failing(seed, budget):
    raise RuntimeError("out of luck")


def claim(paper="npo", **arms):
    return Claim(
        paper=paper,
        question="Does it keep more than gradient ascent?",
        arms={"ascent": ascent, "better": better, **arms},
        expects=[
            given("ascent").at_least(0.9, on="memorisation"),
            expect("better").above("ascent", on="utility", by=0.15),
            expect("better").within("ascent", on="utility", by=0.1),
        ],
        notes="Two numbers instead of a model.",
        module=f"palimpsest.claims.forget.{paper}",
    )


@pytest.fixture
def claims(monkeypatch):
    """Every paper has a claim that takes no time."""
    monkeypatch.setattr("palimpsest.evidence.outcome.load_claim", claim)
    monkeypatch.setattr("palimpsest.evidence.load_claim", claim, raising=False)


@pytest.fixture
def few(monkeypatch):
    """Three papers of two families, and a baseline, are the whole catalogue of `run`."""
    found = [entry(name) for name in ("hark", "npo", "grad_ascent", "simnpo")]
    monkeypatch.setattr("palimpsest.cli.run.entries", lambda: found)


@pytest.fixture(autouse=True)
def results(monkeypatch, tmp_path):
    """The folder of the results of record, empty at first."""
    for module in ("catalogue.papers", "catalogue.index", "evidence.outcome_record", "evidence.registration"):
        monkeypatch.setattr(f"palimpsest.{module}.records", lambda: tmp_path / "results")
    return tmp_path / "results"


def called(capsys, *argv):
    """Exit code, stdout, stderr."""
    code = main(argv)
    return code, *capsys.readouterr()


# --- the door -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(argv, capsys):
    code, out, err = called(capsys, *argv)
    assert (code, err) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in out
    assert max(map(len, out.splitlines())) <= 80


def test_no_help_loads_torch():
    code = (
        "import sys\n"
        "from palimpsest.cli import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    try:\n"
        "        main([name, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version(capsys):
    assert called(capsys, "--version") == (0, f"palimpsest {palimpsest.__version__}\n", "")
    as_module = subprocess.run([sys.executable, "-m", "palimpsest", "--version"], capture_output=True, text=True)
    assert (as_module.returncode, as_module.stdout) == (0, f"palimpsest {palimpsest.__version__}\n")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("serch", "did you mean search"),
        ("shwo", "show"),
        ("qqqq", "search, show, run, bench, forget, contrast, classify, retain, predict, audit"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(name, hint, capsys):
    code, out, err = called(capsys, name)
    assert (code, out) == (2, "")
    assert err.startswith(f"palimpsest: unknown command {name!r}: ")
    assert hint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [["search", "--nope"], ["search", "--k", "many", "x"], ["run", "--budget", "huge"]])
def test_bad_flags_exit_with_2_and_one_line_on_stderr(argv, capsys):
    code, out, err = called(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("palimpsest: ")
    assert argv[1] in err
    assert err.endswith(f": palimpsest {argv[0]} --help explains the flags\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["search", "show", "run"])
def test_every_command_explains_its_flags_within_80_columns(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "--json" in out
    assert max(map(len, out.splitlines())) <= 80


def test_errors_of_the_user_are_one_line_and_bugs_keep_their_traceback(monkeypatch, capsys):
    def fail(error):
        def search(*args):
            raise error

        monkeypatch.setattr("palimpsest.cli.search.search", search)

    fail(UserError("the query is\nodd"))
    assert called(capsys, "search", "x") == (2, "", "palimpsest: the query is odd\n")
    fail(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(["search", "x"])


def test_the_end_of_memory_is_one_line(monkeypatch, capsys):
    def search(*args):
        torch.empty(10**15)

    monkeypatch.setattr("palimpsest.cli.search.search", search)
    line = "palimpsest: there is not enough memory: give a machine with more\n"
    assert called(capsys, "search", "x") == (2, "", line)
    monkeypatch.setattr("palimpsest.cli.search.search", lambda *args: bytearray(10**17))
    assert called(capsys, "search", "x") == (2, "", line)


def test_a_panic_of_rust_is_one_line(monkeypatch, capsys):
    panic = type("PanicException", (BaseException,), {})("index out of bounds")
    monkeypatch.setattr("palimpsest.cli._dispatch", lambda argv: (_ for _ in ()).throw(panic))
    assert main(["audit"]) == 2
    assert capsys.readouterr().err == (
        "palimpsest: a file of the model or its tokenizer is damaged: index out of bounds\n"
    )


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["run", "npo"], "interrupted; finished jobs are kept, the same command goes on from there"),
        (["search", "forget"], "interrupted"),
    ],
)
def test_an_interrupt_exits_with_130_and_one_line(argv, line, monkeypatch, capsys):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("palimpsest.evidence.run_claim", interrupted, raising=False)
    monkeypatch.setattr("palimpsest.cli.search.search", interrupted)
    assert called(capsys, *argv) == (130, "", f"\npalimpsest: {line}\n")


def test_a_path_of_nobody_is_one_line(capsys, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a", "answer": "b"}\n')
    assert main(["audit", "~nobody-at-all/x", "--data", str(rows)]) == 2
    err = capsys.readouterr().err
    assert err == "palimpsest: a path begins with ~ and the name of no user of this machine: write it out\n"


def test_termination_ends_with_143_and_one_line(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("palimpsest.cli.search.search", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    assert called(capsys, "search", "forget") == (143, "", "\npalimpsest: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_one_line():
    command = [sys.executable, "-c", CLEAN, "show"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "palimpsest: cannot go on: No space left on device\n")


def test_no_home_is_one_line(monkeypatch):
    monkeypatch.delenv("PALIMPSEST_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user whom the system does not know
    with pytest.raises(UserError, match="set PALIMPSEST_HOME"):
        home()


def test_a_file_that_cannot_be_used_is_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()

    def fail(*args):
        (tmp_path / "file" / "page.html").read_text()

    monkeypatch.setattr("palimpsest.cli.search.search", fail)
    line = f"palimpsest: cannot use {tmp_path}/file/page.html: Not a directory\n"
    assert called(capsys, "search", "x") == (2, "", line)


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -c '{CLEAN}' show --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout[1:].strip() in ("0", "141")


def test_a_terminal_without_unicode_gets_question_marks_not_a_traceback():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", CLEAN, "show", "hark"], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Mehmet S?zen" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "absent"),
    [
        (["--help"], {"torch", "transformers", "sklearn", "numpy", "rich", "tyro"}),
        (["show", "simnpo"], {"torch", "transformers", "sklearn", "scipy", "numpy"}),
        (["run", "--help"], {"torch", "transformers", "sklearn", "scipy", "numpy"}),
        (["search", "forget old records"], {"torch", "transformers"}),
    ],
)
def test_commands_import_no_more_than_they_need(argv, absent):
    code = (
        "import sys, contextlib; from palimpsest.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({argv!r})\n"
        f"print('imported:', *({absent!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"


def test_help_is_instant():
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", CLEAN, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: what the command costs, also while other tests keep the machine busy.
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5


# --- search -------------------------------------------------------------------------------------------------------


def test_search_prints_hits_with_what_the_evidence_says(capsys, claims, results):
    main(["run", "npo", "--export", "--workers", "1"])
    capsys.readouterr()
    code, out, err = called(capsys, "search", "a", "customer's", "records", "must be forgotten")
    assert (code, err) == (0, "")
    first = out.splitlines()[0]
    assert first.split()[0] == "npo"
    assert first.endswith("held 1 · refuted 1")
    assert "not measured yet" in called(capsys, "search", "which test compares two classifiers")[1]
    assert all(line == line.rstrip() and len(line) <= 80 for line in out.splitlines())


def test_search_as_json(capsys, results):
    code, out, _ = called(capsys, "search", "--json", "--k", "2", "unlearning without a reference model")
    hits = json.loads(out)
    assert code == 0
    assert len(hits) == 2
    assert hits[0]["id"] == "simnpo"
    assert hits[0]["counts"] is None
    assert hits[0]["score"] > hits[1]["score"]
    assert called(capsys, "search", "unlearning without a reference model", "-k", "2", "--json")[1] == out


def test_search_without_hits_and_without_words(capsys):
    code, out, _ = called(capsys, "search", "zzzz")
    assert code == 0
    assert "Nothing resembles 'zzzz'" in out
    assert called(capsys, "search", "--json", "zzzz")[:2] == (0, "[]\n")
    code, out, err = called(capsys, "search")
    assert (code, out) == (2, "")
    assert "the query is empty" in err


# --- show ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("e", entries(), ids=lambda e: e.id)
def test_show_tells_everything_within_80_columns(e, capsys, results):
    code, out, err = called(capsys, "show", e.id)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    flat = " ".join(out.split())
    for part in (e.title, *e.solves, *e.imports, *e.limits, *e.summary.split(". ")):
        assert " ".join(part.split()) in flat
    for line in (*e.example.splitlines(), *(e.command or "").splitlines()):
        assert line in out
    assert ("Not measured yet: palimpsest run" in flat) == e.is_paper


def test_show_gives_question_verdicts_and_numbers_of_the_record(capsys, claims, results):
    main(["run", "npo", "--export", "--workers", "1"])
    capsys.readouterr()
    code, out, _ = called(capsys, "show", "npo")
    flat = " ".join(out.split())
    assert code == 0
    assert "Does it keep more than gradient ascent?" in flat
    assert "given: ascent at least 0.9 on memorisation 0.95 [0.95, 0.95]" in flat
    assert "held primary: better above ascent by at least 0.15 on utility 0.503 [" in flat
    assert "refuted better within 0.1 of ascent on utility 0.503 [" in flat
    assert "held 1 · weak 0 · refuted 1 · open 0 · void 0" in flat
    assert "5 seeds" in flat
    assert "Two numbers instead of a model." in flat
    assert max(map(len, out.splitlines())) <= 80


def test_show_as_json(capsys, claims, results):
    shown = json.loads(called(capsys, "show", "npo", "--json")[1])
    assert shown["claim"] == "palimpsest.claims.forget.npo"
    assert shown["record"] is None
    main(["run", "npo", "--export", "--workers", "1"])
    capsys.readouterr()
    shown = json.loads(called(capsys, "show", "npo", "--json")[1])
    assert shown["record"]["counts"] == {"held": 1, "weak": 0, "refuted": 1, "open": 0, "void": 0}
    assert "claim" not in json.loads(called(capsys, "show", "grad_ascent", "--json")[1])


@pytest.mark.parametrize(
    ("parity", "shown"),
    [
        ("none published", "none published"),
        (
            Parity("a/b", "d" * 40, "nine losses", 2e-8, "By design."),
            "nine losses: they differ by 2e-08 at most from https://github.com/a/b at dddddddddd. By design.",
        ),
    ],
)
def test_show_says_how_it_compares_with_the_authors_code(parity, shown, capsys, monkeypatch, results):
    monkeypatch.setattr("palimpsest.cli.show.entry", lambda name: replace(entry("npo"), parity=parity))
    code, out, _ = called(capsys, "show", "npo")
    assert code == 0
    flat = " ".join(out.split())
    assert f"Tiers of evidence formula {shown} miniature not measured yet yours palimpsest forget MODEL" in flat
    assert "palimpsest run npo --rows forget.jsonl --retain keep.jsonl --model MODEL" in flat
    assert "at scale not tried at scale Limits" in flat
    as_json = json.loads(called(capsys, "show", "npo", "--json")[1])["parity"]
    assert as_json == (parity if isinstance(parity, str) else asdict(parity))


def test_withdrawn_verdicts_are_shown_as_such_and_lists_count_them_apart(capsys, monkeypatch, claims, results):
    main(["run", "npo", "--export", "--workers", "1"])
    capsys.readouterr()
    sentence = "better above ascent by at least 0.15 on utility"
    marked = replace(entry("npo"), withdrawn=(Withdrawal((sentence,), "The baseline was not tuned."),), pool="9 rows")
    monkeypatch.setattr("palimpsest.cli.show.entry", lambda name: marked)
    monkeypatch.setattr("palimpsest.cli.show.entries", lambda: [marked])
    flat = " ".join(called(capsys, "show", "npo")[1].split())
    assert f"withdrawn primary: {sentence} 0.503 [" in flat
    assert "withdrawn, see the next version: The baseline was not tuned." in flat
    assert "held 0 · weak 0 · refuted 1 · open 0 · void 0 · withdrawn 1" in flat
    assert "on these rows: every seed splits the same 9 rows anew" in flat
    assert "refuted 1 · withdrawn 1" in called(capsys, "show")[1]
    assert json.loads(called(capsys, "show", "npo", "--json")[1])["record"]["counts"]["withdrawn"] == 1


def test_a_record_older_than_its_code_says_so_in_show_and_lists(capsys, monkeypatch, claims, results):
    main(["run", "npo", "--export", "--workers", "1"])
    capsys.readouterr()
    line = "the code it reaches has changed since, and it is not verified at that code: palimpsest run npo --verify"
    assert line not in " ".join(called(capsys, "show", "npo")[1].split())
    monkeypatch.setattr("palimpsest.catalogue.papers.code_digest", lambda module: "another")
    assert line in " ".join(called(capsys, "show", "npo")[1].split())
    assert "refuted 1 · stale" in called(capsys, "show")[1]
    assert json.loads(called(capsys, "show", "npo", "--json")[1])["record"]["age"] == "changed"


def test_show_lists_amendments(capsys, monkeypatch, claims, results):
    main(["run", "npo", "--workers", "1"])
    monkeypatch.setattr("palimpsest.evidence.outcome.load_claim", lambda paper: claim(paper, third=better))
    assert main(["run", "npo", "--export", "--workers", "1", "--amend", "a third arm"]) == 0
    capsys.readouterr()
    out = called(capsys, "show", "npo")[1]
    assert f"amended on {json.loads((results / 'forget' / 'npo.json').read_text())['time'][:10]}: a third arm" in out


def test_show_says_that_the_ledger_was_altered(capsys, claims, results):
    main(["run", "npo", "--export", "--workers", "1"])
    capsys.readouterr()
    assert "changed from outside" not in called(capsys, "show", "npo")[1]
    with sqlite3.connect(home() / "evidence.sqlite") as other:
        other.execute("DROP TRIGGER ledger_no_update")
        other.execute("UPDATE ledger SET body = replace(body, 'refuted', 'held')")
    line = "evidence.sqlite was changed from outside: row 12 of the ledger does not follow from the one before it"
    assert "".join(line.split()) in "".join(called(capsys, "show", "npo")[1].split()), "a path is broken anywhere"


def test_a_record_that_was_changed_by_hand_is_called_broken(capsys, claims, results):
    main(["run", "npo", "--export", "--workers", "1"])
    path = results / "forget" / "npo.json"
    path.write_text(path.read_text().replace('"refuted"', '"held"'))
    capsys.readouterr()
    line = "the record of npo was changed after it was sealed: restore the file, or run the claim again"
    assert line in " ".join(called(capsys, "show", "npo")[1].split())
    assert "broken record" in called(capsys, "show")[1]
    code, _, err = called(capsys, "run", "npo", "--workers", "1", "--export")
    assert (code, err) == (0, f"palimpsest: {line}\n")
    assert called(capsys, "run", "npo", "--workers", "1")[2] == ""


def test_show_takes_names_of_several_words_and_offers_the_nearest(capsys):
    assert called(capsys, "show", "Gradient", "ascent")[1].startswith("grad_ascent ")
    code, out, err = called(capsys, "show", "simpno")
    assert (code, out) == (2, "")
    assert err == "palimpsest: nothing in the catalogue is called 'simpno': did you mean simnpo?\n"


def test_show_without_a_name_lists_all(capsys, results):
    out = called(capsys, "show")[1]
    for e in entries():
        assert f"\n  {e.id} " in out
    assert max(map(len, out.splitlines())) <= 80
    assert {e["id"] for e in json.loads(called(capsys, "show", "--json")[1])} == {e.id for e in entries()}


# --- run ----------------------------------------------------------------------------------------------------------


def test_run_prints_verdicts_table_and_report_and_goes_on_from_what_is_kept(capsys, claims, tmp_path):
    code, out, err = called(capsys, "run", "NPO", "--workers", "1")
    flat = " ".join(out.split())
    assert code == 0
    assert "better above ascent by at least 0.15 on utility (primary)" in flat
    assert "held 1 · weak 0 · refuted 1 · open 0 · void 0" in flat
    assert "ascent" in flat
    assert "10/10" in err
    report = tmp_path / "home" / "reports" / "npo.html"
    assert out.rstrip().endswith(f"report: {report}")
    assert "<html" in report.read_text()
    again = called(capsys, "run", "npo", "--workers", "1")
    assert again == (0, out, "")  # nothing was left to do


def test_run_as_json_is_one_claim_or_a_list(capsys, claims):
    code, out, _ = called(capsys, "run", "npo", "--json", "--workers", "1", "--seeds", "3")
    found = json.loads(out)
    assert code == 0
    assert found["counts"] == {"held": 1, "weak": 0, "refuted": 1, "open": 0, "void": 0}
    assert found["seeds"] == [100, 101, 102]
    assert found["standing"] == "preliminary"
    code, out, _ = called(capsys, "run", "--json", "--workers", "1", "--seeds", "1", "npo", "tofu", "npo")
    assert [one["paper"] for one in json.loads(out)] == ["npo", "tofu"]


def test_a_family_ends_in_a_summary_and_fills_a_folder_of_reports(capsys, claims, few, tmp_path):
    code, out, _ = called(capsys, "run", "--family", "forget", "--workers", "1", "--report", str(tmp_path / "pages"))
    papers = ["npo", "simnpo"]
    assert code == 0
    summary = out.rstrip().splitlines()[-len(papers) :]
    assert [line.split()[0] for line in summary] == papers
    assert all("held 1 · weak 0 · refuted 1 · open 0 · void 0" in line and "of record" in line for line in summary)
    assert {file.name for file in (tmp_path / "pages").iterdir()} == {f"{paper}.html" for paper in papers}


def test_run_all_runs_every_paper(capsys, claims, few):
    found = json.loads(called(capsys, "run", "--all", "--json", "--workers", "1", "--seeds", "1")[1])
    assert [one["paper"] for one in found] == ["hark", "npo", "simnpo"]


def test_the_report_of_one_claim_goes_to_a_file_or_into_a_folder(capsys, claims, tmp_path):
    for report, path in ((tmp_path / "page.html", tmp_path / "page.html"), (tmp_path, tmp_path / "npo.html")):
        out = called(capsys, "run", "npo", "--budget", "smoke", "--report", str(report))[1]
        assert out.rstrip().endswith(f"report: {path}")
        assert "<html" in path.read_text()
    code, out, err = called(capsys, "run", "npo", "tofu", "--budget", "smoke", "--report", str(tmp_path / "page.html"))
    assert (code, out) == (2, "")
    assert err == f"palimpsest: --report {tmp_path}/page.html is a file: several claims need a folder\n"


def test_export_writes_the_record(capsys, claims, results):
    code, out, _ = called(capsys, "run", "npo", "--export", "--workers", "1")
    path = results / "forget" / "npo.json"
    assert code == 0
    assert f"exported: {path}" in out
    assert json.loads(path.read_text())["verdicts"][1]["word"] == "held"
    assert "| [npo](forget/npo.json) | held | held 1 · refuted 1 | 5 |" in (results / "INDEX.md").read_text()


def test_rows_that_are_others_than_those_on_record_are_told_in_one_line(capsys, monkeypatch, claims, results):
    main(["run", "npo", "--export", "--workers", "1"])
    before = (results / "forget" / "npo.json").read_text()
    monkeypatch.setattr("palimpsest.evidence.Claim.other_world", "npo's is another world here")
    capsys.readouterr()
    code, out, err = called(capsys, "run", "npo", "--workers", "1")
    assert code == 0
    assert err.startswith("palimpsest: npo's is another world here\n")
    assert "exploratory: the claim, code that it reaches (unverified) or the rows of its world are not" in " ".join(
        out.split()
    )
    for flag in ("--export", "--verify"):
        assert called(capsys, "run", "npo", flag) == (2, "", "palimpsest: npo's is another world here\n")
    assert (results / "forget" / "npo.json").read_text() == before


def test_verify_runs_one_seed_of_every_arm_and_marks_the_record(capsys, monkeypatch, claims, results):
    code, out, err = called(capsys, "run", "npo", "--verify", "--workers", "1")
    assert (code, out) == (2, "")
    assert err == "palimpsest: there is nothing on record to verify: palimpsest run npo --export\n"
    main(["run", "npo", "--export", "--workers", "1"])
    monkeypatch.setattr("palimpsest.catalogue.papers.code_digest", lambda module: "another")
    monkeypatch.setattr("palimpsest.evidence.registration.code_digest", lambda module: "another")
    before = (results / "forget" / "npo.json").read_text()
    capsys.readouterr()
    code, out, _ = called(capsys, "run", "npo", "--verify", "--workers", "1")
    line = "seed 100 of every arm gives the values on record again, all 5"
    assert code == 0
    assert line in " ".join(out.split())
    shown = " ".join(called(capsys, "show", "npo")[1].split())
    assert "verified at code another on " in shown
    assert line in shown
    assert "the record of npo was changed" not in shown
    assert "refuted 1 · stale" not in called(capsys, "show")[1]
    assert "| verified 2" in (results / "INDEX.md").read_text()
    lines = [one for one in (results / "forget" / "npo.json").read_text().splitlines() if "rerun" not in one]
    assert len(lines) > len(before.splitlines())

    monkeypatch.setitem(globals(), "better", lambda seed, budget: {"utility": 0.6, "memorisation": 0.97, "steps": 60.0})
    code, out, _ = called(capsys, "run", "npo", "--verify", "--workers", "1")
    flat = " ".join(out.split())
    assert code == 1
    assert "seed 100 of every arm gives 1 of 5 values otherwise than on record: palimpsest run npo --verify" in flat
    assert "better · memorisation: 0.96 on record, 0.97 now" in flat
    assert "refuted 1 · differs" in called(capsys, "show")[1]
    found = json.loads(called(capsys, "run", "npo", "--verify", "--workers", "1", "--json")[1])
    (one,) = found["differences"]
    assert (one["arm"], one["metric"], one["recorded"], one["again"]) == ("better", "memorisation", 0.96, 0.97)

    monkeypatch.setitem(globals(), "better", failing)
    code, out, _ = called(capsys, "run", "npo", "--verify", "--workers", "1")
    assert code == 1
    assert "failed: better: RuntimeError: out of luck" in out
    assert "better · steps: 60 on record, nothing now" in out


@pytest.mark.slow
def test_a_changed_claim_is_exploratory_until_amended(capsys, monkeypatch, claims, results):
    called(capsys, "run", "npo", "--workers", "1")
    monkeypatch.setattr("palimpsest.evidence.outcome.load_claim", lambda paper: claim(paper, third=better))
    assert "exploratory: " in called(capsys, "run", "npo", "--workers", "1")[1]
    code, _, err = called(capsys, "run", "npo", "--workers", "1", "--export")
    assert code == 2
    assert "not exported" in err
    code, out, _ = called(capsys, "run", "npo", "--workers", "1", "--export", "--amend", "a third arm")
    assert code == 0
    assert "of record: " in out


def test_smoke_runs_every_arm_once_and_writes_nothing(capsys, claims, tmp_path):
    code, out, _ = called(capsys, "run", "npo", "--budget", "smoke")
    assert code == 0
    assert "smoke: " in out
    assert not (tmp_path / "home").exists()


def test_a_failed_job_is_shown_and_exits_with_1(capsys, monkeypatch):
    monkeypatch.setattr("palimpsest.evidence.outcome.load_claim", lambda paper: claim(paper, luckless=failing))
    code, out, _ = called(capsys, "run", "npo", "--workers", "1")
    assert code == 1
    assert "failed: luckless, seed 100: RuntimeError: out of luck" in " ".join(out.split())


def test_one_claim_that_cannot_run_leaves_the_others(capsys, monkeypatch):
    def load(paper):
        if paper == "tofu":
            raise UserError("no such data")
        return claim(paper)

    monkeypatch.setattr("palimpsest.evidence.outcome.load_claim", load)
    code, out, err = called(capsys, "run", "tofu", "npo", "--workers", "1")
    assert code == 2
    assert "palimpsest: tofu: no such data\n" in err
    assert "held 1 · weak 0 · refuted 1" in out
    assert out.rstrip().splitlines()[-1].split() == ["tofu", "not", "run", "no", "such", "data"]


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ("pipe", "not a file"),
        ("loop", "cannot be the name of a file"),
        ("file/r.html", "cannot be written there"),
        ("rows", "which is no report"),
    ],
)
@pytest.mark.parametrize("budget", ["full", "smoke"])
def test_a_report_that_cannot_be_written_is_refused_before_a_job_runs(
    monkeypatch, capsys, tmp_path, budget, report, words
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    (tmp_path / "rows").write_text("{}\n")
    before = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    unrun = claim(better=lambda seed, budget: pytest.fail("computed"))
    monkeypatch.setattr("palimpsest.evidence.outcome.load_claim", lambda paper: unrun)
    code, out, err = called(
        capsys, "run", "npo", "--workers", "1", "--budget", budget, "--report", str(tmp_path / report)
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "mark",
    [
        '<meta name="generator" content="palimpsest">',
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
    ],
)
def test_an_earlier_report_is_replaced_one_of_an_earlier_version_too(capsys, claims, tmp_path, mark):
    page = home() / "reports" / "npo.html"
    page.parent.mkdir(parents=True)
    page.write_text(f"<!doctype html>\n{mark}\n")
    assert called(capsys, "run", "npo", "--workers", "1")[0] == 0
    assert "Does it keep more than gradient ascent?" in page.read_text()


@pytest.mark.parametrize("argv", [["--report", "r.html"], ["--export"]])
def test_a_full_disk_leaves_no_half_of_a_report_or_a_record(monkeypatch, capsys, claims, tmp_path, argv):
    real = Path.write_text

    def full(path, text, **options):
        real(path, text[:10], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "write_text", lambda path, *a, **k: (full if _unfinished(path) else real)(path, *a, **k))
    code, _, err = called(capsys, "run", "npo", "--workers", "1", *argv)
    assert code == 2
    assert "palimpsest: no space is left to write" in err
    left = [path for path in tmp_path.rglob("*") if _unfinished(path)]
    assert not [path for path in left if "home" not in path.parts or "reports" in path.parts]


def _unfinished(path):
    """Whether it is what a file is written to before it has its name."""
    return path.name.endswith(".tmp") or path.name.startswith(".")


def test_a_damaged_record_is_named(capsys, claims, results):
    (results / "forget").mkdir(parents=True)
    for content in ("{", '{"history": []}', "[]"):
        (results / "forget" / "npo.json").write_text(content)
        for argv in (("show", "npo"), ("run", "npo", "--workers", "1")):
            code, out, err = called(capsys, *argv)
            assert (code, out) == (2, "")
            assert err.startswith(f"palimpsest: {results}/forget/npo.json is damaged: restore it")


def test_a_home_that_is_a_file_hinders_no_look_up(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("palimpsest.evidence.source._news", True)
    (tmp_path / "home").touch()
    assert called(capsys, "show", "npo")[0] == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "which claims"),
        (["npo", "--all"], "which claims"),
        (["--family", "forge"], "no family 'forge': there are audit, classify, contrast, forget"),
        (["nqo"], "did you mean npo"),
        (["kl"], "kl is a baseline and has no claim of its own"),
        (["npo", "--export", "--seeds", "3"], "--export"),
        (["npo", "--export", "--budget", "smoke"], "--export"),
        (["npo", "tofu", "--amend", "why not"], "--amend"),
        (["npo", "--verify", "--export"], "--verify"),
        (["npo", "--verify", "--seeds", "3"], "--verify"),
        (["npo", "--budget", "smoke", "--amend", "why not"], "--amend"),
        (["npo", "--seeds", "0"], "seeds must be at least 1"),
        (["npo", "--seeds", "9" * 20], "and at most 1000"),
        (["npo", "--workers", "0"], "workers must be at least 1"),
    ],
)
def test_run_refuses_what_makes_no_sense_before_it_starts(argv, words, capsys, claims):
    code, out, err = called(capsys, "run", *argv)
    assert (code, out) == (2, "")
    assert err.startswith("palimpsest: ")
    assert err.count("\n") == 1
    assert words in err


def test_the_record_that_show_reads_is_the_one_that_export_writes(results):
    """The fields that the catalogue relies on."""
    from palimpsest.evidence import export

    export(run_claim(claim(), workers=1, progress=False))
    from palimpsest.catalogue import record

    found = record(entry("npo"))
    assert {"question", "counts", "verdicts", "seeds", "time"} <= found.keys()
    assert {"word", "expectation", "estimate", "interval", "note", "precondition"} <= found["verdicts"][0].keys()


def test_search_keeps_to_papers_that_run_on_files_of_a_kind(capsys):
    code, out, _ = called(capsys, "search", "--runs-on", "table", "--json", "my classifier is overconfident")
    assert code == 0
    assert [hit["id"] for hit in json.loads(out)] == ["squentropy"]


def test_show_says_on_what_data_of_yours_a_claim_runs(capsys):
    said = " ".join(called(capsys, "show", "squentropy")[1].split())
    assert "palimpsest run squentropy --table mine.csv --target COLUMN" in said
    assert "no command applies it to models of your own" in called(capsys, "show", "model_evaluation")[1]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["squentropy", "--table", "TABLE"], "--table needs --target"),
        (["squentropy", "--table", "TABLE", "--target", "ripeness"], "ripe"),
        (["squentropy", "--table", "TABLE", "--target", "width"], "what is predicted is one class"),
        (["squentropy", "--table", "TABLE", "--target", "ripe", "--images", "x"], "one kind of data"),
        (["squentropy", "--table", "TABLE", "--target", "ripe", "--size", "9"], "--size is about --images"),
        (["squentropy", "--table", "TABLE", "--target", "ripe", "--each", "2"], "takes no --each with --table"),
        (["bic", "--table", "TABLE", "--target", "ripe"], "all is one task, 'no, yes': a stream needs two"),
        (["squentropy", "--table", "nowhere.csv", "--target", "ripe"], "nowhere.csv"),
        (["squentropy", "hark", "--table", "TABLE", "--target", "ripe"], "name one paper"),
        (["hark", "--table", "TABLE", "--target", "ripe"], "no data of yours"),
        (["eight_methods", "--rows", "TABLE", "--retain", "x", "--model", "x"], "no data of yours"),
        (["npo", "--table", "TABLE", "--target", "ripe"], "it takes --rows"),
        (
            ["squentropy", "--table", "TABLE", "--target", "ripe", "--export"],
            "a verdict on your data is not one of them",
        ),
        (["squentropy", "--target", "ripe"], "--target is about --table"),
        (["squentropy", "--table", "TABLE", "--target", "ripe", "--workers", "0"], "--workers must be at least 1"),
        (["squentropy", "--table", "TABLE", "--target", "ripe", "--steps", "0"], "steps must be at least 1"),
        (["squentropy", "--table", "TABLE", "--target", "ripe", "--scale-lr", "inf"], "scale_lr must be above 0"),
        (["squentropy", "--table", "TABLE", "--target", "ripe", "--retrain", "x"], "--retrain is about --rows"),
        (["squentropy", "--steps", "3"], "on what data? Give --table or --images or --pairs or --rows"),
        (["squentropy", "--table", "TABLE", "--target", "ripe", "--verify"], "--verify runs one seed"),
    ],
)
def test_a_claim_on_bad_files_is_refused_in_one_line(argv, why, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    file = tmp_path / "mine.csv"
    file.write_text("width,ripe\n" + "".join(f"{i / 7:.2f},{'yes' if i % 3 else 'no'}\n" for i in range(60)))
    code, out, err = called(capsys, "run", *(str(file) if word == "TABLE" else word for word in argv))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert why in err


def test_a_claim_on_a_table_shows_the_users_verdict(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    file = tmp_path / "mine.csv"
    ripe = ["yes" if i % 3 else "no" for i in range(60)]
    lines = [f"{i / 7:.2f},{each},{each}\n" for i, each in enumerate(ripe)]
    file.write_text("width,eaten,ripe\n" + "".join([*lines, "9.5,no,\n"]))
    asked = ["run", "squentropy", "--table", str(file), "--target", "ripe", "--budget", "smoke"]
    code, out, err = called(capsys, *asked)
    assert code == 0
    assert "palimpsest: 1 of 61 rows is left out" in err
    assert "palimpsest: column 'eaten' alone tells 'ripe'" in err
    assert "mnist_few on your data" not in out + err
    flat = " ".join(out.split())
    assert "The question of the claim of squentropy is put to mine.csv, 60 rows, ripe (2 classes). What it says" in flat
    assert (
        "of our world only, mnist_few (MNIST at 14 x 14 with 4 labels a class; 2,460 images more have none): " in flat
    )
    assert "have none): With four labels a class, is" in flat
    assert "your verdict, on your data" in " ".join(out.split())
    assert "mine.csv, 60 rows, ripe (2 classes)" in out
    found = json.loads(called(capsys, *asked, "--json")[1])
    assert found["standing"] == "yours"
    assert "asked is any gain" in found["yours"]["not asked"][0]


def test_a_claim_on_classes_that_arrive_is_put_to_a_table_in_groups(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    file = tmp_path / "mine.csv"
    file.write_text("width,kind\n" + "".join(f"{i % 4 + i / 99:.2f},{'abcd'[i % 4]}\n" for i in range(80)))
    code, out, err = called(capsys, "run", "bic", "--table", str(file), "--target", "kind", "--budget", "smoke")
    assert code == 0
    assert "palimpsest: tasks bring new classes: a, b, then c, d\n" in err
    flat = " ".join(out.split())
    assert "bic on your data: mine.csv, 80 rows, 4 classes in 2 tasks" in flat
    assert "central: bic above er by at least 10% of the room up to joint on average accuracy" in flat
    assert "not asked" not in flat
    assert "palimpsest run bic --images FOLDER" in " ".join(called(capsys, "show", "bic")[1].split())


def test_a_claim_that_another_process_puts_to_the_same_table_is_left_to_it(tmp_path, capsys, monkeypatch):
    from palimpsest.benches import yours
    from palimpsest.evidence import load_claim
    from palimpsest.locks import held

    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    file = tmp_path / "mine.csv"
    file.write_text("width,ripe\n" + "".join(f"{i / 7:.2f},{'yes' if i % 3 else 'no'}\n" for i in range(60)))
    folder = yours.ask(load_claim("squentropy"), "table", table=file, target=["ripe"]).folder
    asked = ["run", "squentropy", "--table", str(file), "--target", "ripe", "--budget", "smoke"]
    with held(folder / "claim", "puts it"):
        code, out, err = called(capsys, *asked)
    assert (code, out) == (2, "")
    assert f"another process ({os.getpid()}) puts a claim to mine.csv, 60 rows" in err
    assert called(capsys, *asked)[0] == 0
