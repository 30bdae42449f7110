"""The catalogue is complete and true: what it names exists, and what exists is named."""

from __future__ import annotations

import ast
import importlib
import io
import math
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

import palimpsest
from palimpsest.catalogue import Parity, Withdrawal, age_of, entries, entry, hall, record, tiers
from palimpsest.catalogue.index import index, write_index
from palimpsest.catalogue.papers import _parity, record_file
from palimpsest.cli.show import in_short, left_out
from palimpsest.errors import UserError
from palimpsest.evidence import load_claim
from palimpsest.evidence.leaning import REMARKS, leaning
from palimpsest.evidence.source import code_digest, digest_of, reached
from palimpsest.family import FAMILIES as COMPARED
from palimpsest.family import family
from palimpsest.paths import records
from palimpsest.record_files import broken, marked, read, sealed, write

PACKAGE = Path(palimpsest.__file__).parent
TESTS = Path(__file__).parents[1]
ENTRIES = entries()
PAPERS = [e for e in ENTRIES if e.is_paper]
BASELINES = [e for e in ENTRIES if not e.is_paper]
FAMILIES = sorted({e.family for e in ENTRIES})
HOUSE = {
    "benches",
    "catalogue",
    "claims",
    "cli",
    "evidence",
    "losses",
    "metrics",
    "models",
    "tasks",
    "train",
    "results",
}
KINDS = {"method", "benchmark", "study", "survey", "theory", "application", "baseline"}


def by_id(entries):
    return pytest.mark.parametrize("e", entries, ids=lambda e: e.id)


@by_id(ENTRIES)
def test_what_an_entry_imports_exists_and_its_example_runs(e):
    assert e.imports
    for statement in e.imports:
        assert statement.startswith("from palimpsest.")
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec("\n".join((*e.imports, e.example)), {})
    assert printed.getvalue().strip(), "an example shows something"
    names = {alias.name for s in e.imports for alias in ast.parse(s).body[0].names}
    used = {node.id for node in ast.walk(ast.parse(e.example)) if isinstance(node, ast.Name)}
    assert names & used, "an example uses what it imports"


@by_id(PAPERS)
def test_every_paper_has_a_room_a_claim_and_tests(e):
    room = importlib.import_module(e.module)
    assert e.arxiv in room.__doc__, "a room's docstring cites its paper"
    assert importlib.import_module(e.claim).claim.paper == e.id
    assert (TESTS / e.family / f"test_{e.id}.py").is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_of_a_family_is_a_room_in_the_catalogue_or_declared_as_hall(family):
    modules = {file.stem for file in (PACKAGE / family).glob("*.py")} - {"__init__"}
    rooms = {e.id for e in PAPERS if e.family == family}
    assert modules - rooms == set(hall(family))
    assert {file.stem for file in (PACKAGE / "claims" / family).glob("*.py")} - {"__init__"} == rooms


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_exports_what_its_entries_import(family):
    package, home = importlib.import_module(f"palimpsest.{family}"), f"palimpsest.{family}."
    modules = {file.stem for file in (PACKAGE / family).glob("*.py")}
    named: dict[str, list] = {}
    for node in (ast.parse(s).body[0] for e in ENTRIES if e.family == family for s in e.imports):
        if node.module.startswith(home):
            for alias in node.names:
                named.setdefault(alias.name, []).append(getattr(importlib.import_module(node.module), alias.name))
    for name, found in named.items():
        # A module takes the name that it has in its package, so what is called as a module is imported from there.
        assert name in modules or getattr(package, name) in found, name
    assert set(package.__all__) & modules <= {"info_nce"}
    assert len(package.__all__) == len(set(package.__all__))


def test_every_method_of_the_command_line_is_exported_by_its_family():
    from palimpsest import forget

    assert all(getattr(forget, type(method).__name__) is type(method) for method in forget.METHODS.values())


def test_every_family_has_its_folder_in_the_catalogue():
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert packages - HOUSE == set(FAMILIES)
    assert not list((PACKAGE / "catalogue").glob("*.toml")), "an entry stands in the folder of its family"


@by_id(ENTRIES)
def test_every_entry_is_whole(e):
    assert e.kind in KINDS
    assert e.title
    assert e.solves
    assert e.limits
    assert 60 <= len(e.summary) <= 600
    assert e.summary.endswith(".")
    if e.arxiv:
        year, number = e.arxiv.split(".")
        assert len(year) == 4
        assert number.isdigit()
        assert 2000 + int(year[:2]) == e.year
    if e.code:
        assert e.code.count("/") == 1
    if e.is_paper:
        assert e.authors
        assert e.arxiv


@by_id(PAPERS)
def test_a_claim_can_be_put_to_what_its_entry_says(e):
    from palimpsest.benches.yours import kinds

    assert set(e.runs_on) <= set(kinds(load_claim(e.id)))


@by_id(BASELINES)
def test_a_baseline_is_an_arm_where_it_says_so(e):
    for paper in e.arm_of:
        assert e.id in load_claim(paper).arms


@by_id([e for e in ENTRIES if e.family in COMPARED and e.command])
def test_commands_name_a_method_of_the_command_line(e):
    words = e.command.split()
    assert words[:2] == ["palimpsest", e.family]
    method = words[words.index("--method") + 1]
    assert method in (e.id, *e.aliases)
    assert method in family(e.family).methods


@by_id(ENTRIES)
def test_code_and_commands_fit_a_terminal_of_80_columns(e):
    for text in (*e.imports, e.example, e.command or ""):
        assert max(map(len, text.splitlines()), default=0) <= 76


@pytest.mark.parametrize("name", COMPARED)
def test_every_method_of_the_command_line_is_in_the_catalogue(name):
    methods = family(name).methods
    missing = set(methods) - {n for e in ENTRIES if e.family == name for n in (e.id, *e.aliases)}
    # A paper's entry comes with its record; until then its room is declared beside the hall.
    assert {type(methods[one]).__module__.split(".")[-1] for one in missing} <= set(hall(name))


@pytest.mark.parametrize("name", COMPARED)
def test_what_a_command_offers_by_name_is_not_said_to_have_no_command(name):
    known = {n for e in ENTRIES for n in (e.id, *e.aliases)}
    found = {method: tiers(entry(method), None)["yours"] for method in family(name).methods if method in known}
    assert [method for method, said in found.items() if f"palimpsest {name} " not in said] == []


def verdict(sentence, word="held", **fields):
    """What a record has of it, and what its registration has."""
    promise = {name: fields.pop(name, default) for name, default in PROMISE.items()}
    return {"expectation": sentence, "word": word, "interval": [0.02, 0.03], **fields}, promise


PROMISE = {"precondition": False, "kind": "above", "by": 0.01}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """`kept(verdicts)` is the record of npo on disk."""
    monkeypatch.setattr("palimpsest.catalogue.papers.records", lambda: tmp_path)

    def keep(*verdicts, code="", modules=(), **changed):
        shown, promised = [v for v, _ in verdicts], [p for _, p in verdicts]
        found = {"paper": "npo", "verdicts": shown, "time": ""}
        named = {"modules": list(modules)} if modules else {}
        found["registration"] = {"code": code, "seeds": list(range(20)), **named, "plan": {"expectations": promised}}
        write(tmp_path / "forget" / "npo.json", sealed(found, None) | changed)

    return keep


def test_the_record_of_a_paper_is_what_was_exported(kept):
    assert record(entry("npo")) is None
    kept(verdict("a above b on m"), verdict("a above c on m", "open"), verdict("d", "held", precondition=True))
    found = record(entry("npo"))
    assert found["counts"] == {"held": 1, "weak": 0, "refuted": 0, "open": 1, "void": 0}
    assert found["broken"] == ""
    assert [v["remarks"] for v in found["verdicts"]] == [[], [UNSURE], []]


def test_the_age_of_a_record_that_names_its_modules_is_theirs(kept):
    modules = ["palimpsest.errors", "palimpsest.paths"]
    kept(verdict("a above b on m"), code=digest_of(modules), modules=modules)
    assert record(entry("npo"))["age"] == "recorded"
    kept(verdict("a above b on m"), code=digest_of(modules[:1]), modules=modules)
    assert record(entry("npo"))["age"] == "changed"


def test_a_record_that_was_changed_is_broken_and_half_a_file_is_refused(kept, tmp_path):
    kept(verdict("a above b on m"), time="today")
    assert record(entry("npo"))["broken"].startswith("the record of npo was changed after it was sealed: ")
    (tmp_path / "forget" / "npo.json").write_text('{"counts": {')
    with pytest.raises(UserError, match="damaged: restore it, or palimpsest run npo --export"):
        record(entry("npo"))


def test_withdrawn_verdicts_and_checks_of_definitions_are_marked_and_not_counted(kept):
    e = replace(entry("npo"), withdrawn=(Withdrawal(("first", "second"), "floors."),), definitions=("third",))
    kept(verdict("first"), verdict("second", "refuted"), verdict("third"), verdict("fourth"))
    found = record(e)
    assert found["counts"] == {"held": 1, "weak": 0, "refuted": 0, "open": 0, "void": 0, "withdrawn": 2}
    assert [v["word"] for v in found["verdicts"]] == ["held", "refuted", "held", "held"]
    assert [v["counted"] for v in found["verdicts"]] == [False, False, False, True]
    assert found["verdicts"][0]["remarks"] == ["withdrawn, see the next version: floors."]
    assert "definition" in found["verdicts"][2]["remarks"][0]


SMALLER = "there is a difference of that sign, but it is smaller than 0.01"
UNSURE = "there is a difference of that sign; whether it is as large as asked is open"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"word": "refuted", "interval": [0.005, 0.009]}, SMALLER),
        ({"word": "refuted", "interval": [-0.009, 0.009]}, None),
        ({"word": "open", "interval": [0.005, 0.019]}, UNSURE),
        ({"word": "refuted", "interval": [-0.009, -0.005], "kind": "below"}, SMALLER),
        ({"word": "refuted", "interval": [0.3, 0.4], "kind": "within"}, None),
        ({"word": "refuted", "interval": [-0.4, -0.3], "by": -0.01}, None),
        ({"word": "open", "interval": ["nan", "nan"]}, None),
        ({"word": "open", "interval": [0.02, 0.03], "look": 5, "estimate": 0.025}, REMARKS["held"]),
        ({"word": "open", "interval": [-0.03, -0.01], "look": 10, "estimate": -0.02}, REMARKS["refuted"]),
        ({"word": "open", "interval": [0.005, 0.009], "look": 5, "estimate": 0.007}, REMARKS["weak"]),
        ({"word": "open", "interval": [0.005, 0.019], "look": 20, "estimate": 0.007}, UNSURE),
    ],
)
def test_a_gain_that_is_not_surely_what_was_asked_is_said_beside_the_word(fields, told, kept):
    kept(verdict("a above b by at least 0.01 on m", **fields))
    remarks = record(entry("npo"))["verdicts"][0]["remarks"]
    assert remarks == ([told] if told else [])


@pytest.mark.parametrize(
    ("code", "rerun", "age", "said"),
    [
        ("now", None, "recorded", ""),
        (
            "then",
            None,
            "changed",
            "has changed since, and it is not verified at that code: palimpsest run npo --verify",
        ),
        ("then", ("now", 0), "verified", "verified at code now on 2026-11-30: seed 100 of every arm gives"),
        ("then", ("now", 2), "differs", "not verified at code now on 2026-11-30: seed 100 of every arm gives 2 of 60"),
        ("now", ("now", 2), "differs", "gives 2 of 60 values otherwise than on record: palimpsest run npo --verify"),
        (
            "then",
            ("between", 0),
            "changed",
            "(at earlier code, on 2026-11-30, it was verified): palimpsest run npo --verify",
        ),
        (
            "then",
            ("between", 2),
            "changed",
            "not verified at that code (at earlier code, on 2026-11-30, 2 of 60 values ",
        ),
        ("now", ("between", 0), "recorded", ""),
    ],
)
def test_a_record_says_whether_its_code_changed_and_whether_that_was_verified(
    kept, monkeypatch, code, rerun, age, said
):
    monkeypatch.setattr("palimpsest.catalogue.papers.code_digest", lambda module: "now")
    mark = rerun and {"code": rerun[0], "differ": rerun[1], "values": 60, "seed": 100, "time": "2026-11-30T01:02:03"}
    kept(verdict("a above b on m"), code=code)
    file = record_file(entry("npo"))
    write(file, marked(read(file), rerun=mark))
    found = record(entry("npo"))
    assert found["broken"] == "", "the mark is not under the seal"
    assert found["age"] == age
    assert said in age_of(found)
    assert bool(said) == bool(age_of(found))


def test_a_room_that_was_divided_is_verified_at_the_modules_that_were_run(kept):
    before, after = ["palimpsest.errors"], ["palimpsest.errors", "palimpsest.paths"]
    mark = {"code": digest_of(after), "differ": 0, "values": 60, "seed": 100, "time": "2026-11-30", "modules": after}
    kept(verdict("a above b on m"), code="then", modules=before)
    file = record_file(entry("npo"))
    write(file, marked(read(file), rerun=mark))
    assert record(entry("npo"))["age"] == "verified"
    write(file, marked(read(file), rerun={**mark, "modules": before}))
    assert record(entry("npo"))["age"] == "changed"


def test_a_rerun_that_was_written_by_hand_or_for_another_record_verifies_nothing(kept, monkeypatch):
    monkeypatch.setattr("palimpsest.catalogue.papers.code_digest", lambda module: "now")
    mark = {"code": "now", "differ": 2, "values": 60, "seed": 100, "time": "2026-11-30T01:02:03"}
    file = record_file(entry("npo"))

    def age(rerun):
        write(file, {**read(file), "rerun": rerun})
        return record(entry("npo"))["age"]

    kept(verdict("a above b on m"), code="then")
    found = marked(read(file), rerun=mark)["rerun"]
    assert age(found) == "differs"
    assert age({**found, "differ": 0}) == age({**mark, "differ": 0}) == "changed"
    kept(verdict("a above b on m", "refuted"), code="then")
    assert age(found) == "changed"


def test_the_code_that_is_compared_is_the_claim_s(kept):
    kept(verdict("a above b on m"), code=code_digest(entry("npo").claim))
    assert record(entry("npo"))["age"] == "recorded"


def test_a_record_that_differs_says_how_far_in_the_spread_of_its_seeds():
    rerun = {"code": "0123456789ab", "seed": 100, "time": "2026-11-30", "values": 60, "differ": 2, "spreads": 1.4}
    found = {"age": "differs", "paper": "npo", "rerun": rerun}
    assert "on record, the farthest by 1.4 standard deviations of the seeds: palimpsest run npo" in age_of(found)
    assert "deviations" not in age_of({**found, "rerun": {**rerun, "spreads": None}})


@by_id([e for e in PAPERS if e.withdrawn or e.definitions])
def test_what_an_entry_withdraws_is_in_its_record(e):
    sentences = {v["expectation"] for v in record(e)["verdicts"]}
    assert {s for w in e.withdrawn for s in w.sentences} | set(e.definitions) <= sentences
    assert all(w.why.endswith(".") for w in e.withdrawn)


@by_id(PAPERS)
def test_a_record_has_the_withdrawals_of_the_catalogue(e):
    marks = [{"sentences": list(w.sentences), "why": w.why} for w in e.withdrawn]
    assert record(e).get("withdrawn", []) == marks, "python -m palimpsest.catalogue.index writes them"


def test_the_index_of_the_results_is_true():
    shown = (records() / "INDEX.md").read_text(encoding="utf-8")
    assert shown == index(), "python -m palimpsest.catalogue.index writes it"
    assert shown.count("\n| [") == len(PAPERS)


def test_the_index_is_written_from_the_records_and_brings_withdrawals_into_them(kept, tmp_path, monkeypatch):
    monkeypatch.setattr("palimpsest.catalogue.index.records", lambda: tmp_path)
    monkeypatch.setattr("palimpsest.catalogue.papers.code_digest", lambda module: "now")
    shelf = [replace(entry("npo"), withdrawn=(Withdrawal(("first",), "floors."),)), entry("tofu")]
    monkeypatch.setattr("palimpsest.catalogue.index.entries", lambda: shelf)
    registration = {"code": "now", "version": 2, "plan": {"expectations": [PROMISE, PROMISE]}}
    kept(verdict("first"), verdict("second"))
    found = read(tmp_path / "forget" / "npo.json") | {
        "seeds": [100, 101],
        "time": "2026-11-21T",
        "registration": registration,
    }
    write(tmp_path / "forget" / "npo.json", sealed(found, None))
    write_index()
    line = "| [npo](forget/npo.json) | withdrawn | held 1 · withdrawn 1 | 2 | 2026-11-21 | 2 | as recorded |"
    assert (tmp_path / "INDEX.md").read_text().splitlines()[-1] == line, "tofu has no record"
    again = read(tmp_path / "forget" / "npo.json")
    assert again["withdrawn"] == [{"sentences": ["first"], "why": "floors."}]
    assert broken(again) == ""
    shelf[0] = replace(entry("npo"), withdrawn=())
    write_index()
    assert "withdrawn" not in read(tmp_path / "forget" / "npo.json")
    assert "| held | held 2 |" in (tmp_path / "INDEX.md").read_text()
    for code, differ, shown in (
        ("now", 0, "verified 2026-11-30"),
        ("now", 2, "differs 2026-11-30"),
        ("then", 0, "as recorded"),
    ):
        mark = {"code": code, "differ": differ, "values": 60, "seed": 100, "time": "2026-11-30T01:02:03"}
        write(tmp_path / "forget" / "npo.json", marked(read(tmp_path / "forget" / "npo.json"), rerun=mark))
        assert index().endswith(f"| {shown} |\n")
    monkeypatch.setattr("palimpsest.catalogue.papers.code_digest", lambda module: "later")
    assert index().endswith("| changed since: verified 2026-11-30 |\n")


def test_the_tiers_of_evidence_are_four_and_say_what_there_is():
    e = replace(entry("npo"), parity=Parity("a/b", "0123abc", "nine losses", 2e-8, "It rounds."), command="x")
    e = replace(e, runs_on=("table",))
    found = tiers(e, {"counts": {"held": 2, "refuted": 0, "open": 1}, "seeds": [100, 101]})
    assert found == {
        "formula": "nine losses: they differ by 2e-08 at most from https://github.com/a/b at 0123abc. It rounds.",
        "miniature": "held 2 · open 1, on 2 seeds",
        "yours": "x\npalimpsest run npo --table mine.csv --target COLUMN",
        "at scale": "not tried at scale",
    }
    bare = tiers(replace(e, id="a_study", aliases=(), parity=None, command=None, runs_on=()), None)
    assert bare["formula"] == "not compared with the authors' code"
    assert bare["miniature"] == "not measured yet"
    assert bare["yours"].startswith("no command")
    assert tiers(replace(e, parity="none published"), None)["formula"] == "none published"


@by_id(PAPERS)
def test_a_claim_says_that_its_seeds_split_one_pool(e):
    claim = importlib.import_module(e.claim).claim
    if claim.sequential:  # a bench's seeds have test rows of their own
        assert not e.pool
    else:
        assert ("palimpsest.tasks.digits" in reached(e.claim)) == bool(e.pool)


WHOLE = {"repo": "a/b", "commit": "0123abc", "what": "the loss on 9 tensors", "largest_difference": 2e-8}


def test_parity_is_a_word_or_a_whole_table():
    assert _parity("npo", None) is None
    assert _parity("npo", "none published") == "none published"
    assert _parity("npo", WHOLE) == Parity("a/b", "0123abc", "the loss on 9 tensors", 2e-8)
    assert _parity("npo", WHOLE | {"differs": "it rounds"}).differs == "it rounds"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        7,
        {name: value for name, value in WHOLE.items() if name != "what"},
        WHOLE | {"note": "x"},
        WHOLE | {"repo": "https://github.com/a/b"},
        WHOLE | {"commit": "main"},
        WHOLE | {"what": " "},
        WHOLE | {"largest_difference": "2e-8"},
        WHOLE | {"largest_difference": -1.0},
        WHOLE | {"largest_difference": float("nan")},
        WHOLE | {"differs": 3},
    ],
)
def test_a_parity_that_is_neither_is_refused_by_the_entry_s_name(wrong):
    with pytest.raises(ValueError, match="parity of npo: "):
        _parity("npo", wrong)


def test_references_between_shelfresolve():
    papers = {e.id for e in PAPERS}
    for e in ENTRIES:
        assert set(e.uses) <= papers - {e.id}
        assert set(e.arm_of) <= papers


def test_ids_and_aliases_are_unambiguous():
    assert len({e.id for e in ENTRIES}) == len(ENTRIES)
    for e in ENTRIES:
        for name in (e.id, e.title, *e.aliases):
            assert entry(name) is e, name


def test_names_are_found_whatever_their_case_and_signs():
    assert entry("SimNPO").id == entry("sim-npo").id == entry("simnpo").id == "simnpo"
    assert entry("Gradient ascent").id == entry("GRAD_ASCENT").id == "grad_ascent"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("simmpo", "did you mean simnpo"), ("halk", "did you mean hark"), ("qqqqqq", "palimpsest search"), ("", "search")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, hint):
    with pytest.raises(UserError, match=hint):
        entry(name)


def test_a_list_that_is_changed_leaves_the_catalogue_alone():
    entries().clear()
    assert len(entries()) == len(ENTRIES)


@pytest.mark.parametrize(
    ("fields", "interval", "share", "word"),
    [
        ({"kind": "above", "by": 0.0, "share": -0.1}, (-0.01, 0.03), 0.05, "held"),  # a tenth of 0.2 may be lost
        ({"kind": "above", "by": 0.0, "share": -0.1}, (-0.05, -0.03), -0.2, "refuted"),
        ({"kind": "below", "by": 0.01, "share": 0.0}, (-0.03, -0.02), math.nan, "held"),
        ({"kind": "below", "by": 0.01, "share": 0.0}, (-0.009, -0.005), math.nan, "weak"),
        ({"kind": "at_least", "by": -1.3, "share": 0.0}, (-1.2, -0.1), math.nan, "held"),
        ({"kind": "at_most", "by": -1.3, "share": 0.0}, (-1.2, -0.1), math.nan, "refuted"),
        ({"kind": "within", "by": 0.1, "share": 0.0}, (-0.05, 0.09), math.nan, "held"),
        ({"kind": "within", "by": 0.1, "share": 0.0}, (0.05, 0.2), math.nan, ""),
        ({"kind": "within", "by": 0.1, "share": 0.0}, (0.11, 0.2), math.nan, "refuted"),
        ({"kind": "above", "by": 0.0, "share": 0.0}, (-0.1, 0.2), math.nan, ""),
        (
            {"kind": "above", "by": 0.0, "share": 0.1},
            (-0.0185, 0.0114),
            -0.025,
            "less",
        ),  # a tenth of the room is 0.0142
        ({"kind": "above", "by": 0.0, "share": 0.1}, (math.nan, math.nan), math.nan, ""),
    ],
)
def test_an_open_sentence_leans_where_its_interval_lies(fields, interval, share, word):
    assert leaning(fields, sum(interval) / 2, interval, share) == word


CENTRAL = {"role": "central", "on": "m", "arms": ["a", "b"], "floor": "f", "ceiling": "c", "leaning": "", "by": 0.0}


def shown(kind="above", leaning="", word="open", given="held", **values):
    central = {**CENTRAL, "kind": kind, "leaning": leaning, "word": word, "precondition": False}
    before = {"word": given, "precondition": True, "expectation": "c above b on m"}
    arms = {"a": 0.6, "b": 0.5, "f": 0.1, "c": 0.9, **values}
    settings = {arm: {"bench": "authors"} for arm in arms}
    return {
        "verdicts": [before, central],
        "values": {arm: {"m": [value]} for arm, value in arms.items()},
        "seeds": [200, 201],
        "registration": {"seeds": list(range(20)), "plan": {"settings": settings}},
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (shown(), "open: a 0.6 against b 0.5 on m (f 0.1, c 0.9), 2 of at most 20 seeds"),
        (shown("below"), "open: a 0.6 against b 0.5 on m (lower is better, f 0.1, c 0.9), 2 of at most 20 seeds"),
        (shown(leaning="less"), "open (surely less than asked): a 0.6 against"),
        (shown(leaning="held"), "open (leans to held): a 0.6 against"),
        (shown(given="open"), "2 of at most 20 seeds; not settled that c above b on m"),
    ],
)
def test_the_short_line_says_what_one_decides_by(found, said):
    assert said in in_short(found)


def test_an_arm_of_the_bench_that_a_claim_leaves_out_is_named_where_it_is_better(tmp_path, monkeypatch):
    values = {"a": 0.6, "b": 0.4, "b, again": 0.95, "r": 0.8, "poor": 0.3, "c": 0.9}
    measured = {"bench": "authors", "again": "b, again", "values": {arm: {"m": [v]} for arm, v in values.items()}}
    monkeypatch.setattr("palimpsest.cli.show._measured", lambda found: measured)
    assert left_out(shown()) == "not in it: r has 0.8 on pilot seeds, where b has 0.4: palimpsest bench authors"
    assert (
        left_out(shown("below")) == "not in it: poor has 0.3 on pilot seeds, where b has 0.4: palimpsest bench authors"
    )
    assert left_out(shown(r=0.7)) == "", "it is in the claim, and what is not is worse than both arms"
    monkeypatch.setattr("palimpsest.cli.show._measured", lambda found: {})
    assert left_out(shown()) == ""
