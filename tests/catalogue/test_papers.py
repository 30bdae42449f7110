"""The catalogue is complete and true: what it names exists, and what exists is named."""

from __future__ import annotations

import ast
import importlib
import io
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

import palimpsest
from palimpsest.catalogue import Parity, Withdrawal, entries, entry, hall, record
from palimpsest.catalogue.papers import _parity
from palimpsest.errors import UserError
from palimpsest.evidence import load_claim
from palimpsest.evidence.source import code_digest, reached
from palimpsest.records import sealed, write

PACKAGE = Path(palimpsest.__file__).parent
TESTS = Path(__file__).parents[1]
ENTRIES = entries()
PAPERS = [e for e in ENTRIES if e.is_paper]
BASELINES = [e for e in ENTRIES if not e.is_paper]
FAMILIES = sorted({e.family for e in ENTRIES})
HOUSE = {"catalogue", "claims", "cli", "evidence", "losses", "metrics", "models", "tasks", "train", "results"}
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


def test_every_family_has_its_file_in_the_catalogue():
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert packages - HOUSE == set(FAMILIES)


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


@by_id(BASELINES)
def test_a_baseline_is_an_arm_where_it_says_so(e):
    for paper in e.arm_of:
        assert e.id in load_claim(paper).arms


@by_id([e for e in ENTRIES if e.family == "forget" and e.command])
def test_commands_name_a_method_of_the_command_line(e):
    from palimpsest.forget.methods import METHODS

    words = e.command.split()
    assert words[:3] == ["palimpsest", "forget", "MODEL"]
    method = words[words.index("--method") + 1]
    assert method in (e.id, *e.aliases)
    assert method in METHODS


@by_id(ENTRIES)
def test_code_and_commands_fit_a_terminal_of_80_columns(e):
    for text in (*e.imports, e.example, e.command or ""):
        assert max(map(len, text.splitlines()), default=0) <= 76


def test_every_method_of_the_command_line_is_in_the_catalogue():
    from palimpsest.forget.methods import METHODS

    assert set(METHODS) <= {name for e in ENTRIES if e.family == "forget" for name in (e.id, *e.aliases)}


def verdict(sentence, word="held", **fields):
    return {"expectation": sentence, "word": word, "precondition": False, "kind": "above", "by": 0.01} | {
        "interval": [0.02, 0.03],
        **fields,
    }


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """`kept(verdicts)` is the record of npo on disk."""
    monkeypatch.setattr("palimpsest.catalogue.papers.records", lambda: tmp_path)

    def keep(*verdicts, **changed):
        counts = dict.fromkeys(("held", "refuted", "open", "void"), 0)
        found = sealed({"paper": "npo", "counts": counts, "verdicts": list(verdicts)}, None)
        write(tmp_path / "forget" / "npo.json", found | changed)

    return keep


def test_the_record_of_a_paper_is_what_was_exported(kept):
    assert record(entry("npo")) is None
    kept(verdict("a above b on m"), verdict("a above c on m", "open"), verdict("d", "held", precondition=True))
    found = record(entry("npo"))
    assert found["counts"] == {"held": 1, "refuted": 0, "open": 1, "void": 0}
    assert found["broken"] == ""
    assert [v["remarks"] for v in found["verdicts"]] == [[], [], []]


def test_a_record_that_was_changed_is_broken_and_half_a_file_is_refused(kept, tmp_path):
    kept(verdict("a above b on m"), counts={"held": 9})
    assert record(entry("npo"))["broken"].startswith("the record of npo was changed after it was sealed: ")
    (tmp_path / "forget" / "npo.json").write_text('{"counts": {')
    with pytest.raises(UserError, match="damaged: restore it, or palimpsest run npo --export"):
        record(entry("npo"))


def test_withdrawn_verdicts_and_checks_of_definitions_are_marked_and_not_counted(kept):
    e = replace(entry("npo"), withdrawn=(Withdrawal(("first", "second"), "floors."),), definitions=("third",))
    kept(verdict("first"), verdict("second", "refuted"), verdict("third"), verdict("fourth"))
    found = record(e)
    assert found["counts"] == {"held": 1, "refuted": 0, "open": 0, "void": 0, "withdrawn": 2}
    assert [v["word"] for v in found["verdicts"]] == ["held", "refuted", "held", "held"]
    assert [v["counted"] for v in found["verdicts"]] == [False, False, False, True]
    assert found["verdicts"][0]["remarks"] == ["withdrawn, see the next version: floors."]
    assert "definition" in found["verdicts"][2]["remarks"][0]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"word": "refuted", "interval": [0.005, 0.009]}, True),
        ({"word": "refuted", "interval": [-0.009, 0.009]}, False),
        ({"word": "open", "interval": [0.005, 0.019]}, False),
        ({"word": "refuted", "interval": [-0.009, -0.005], "kind": "below"}, True),
        ({"word": "refuted", "interval": [0.3, 0.4], "kind": "within"}, False),
        ({"word": "refuted", "interval": [-0.4, -0.3], "by": -0.01}, False),
        ({"word": "open", "interval": ["nan", "nan"]}, False),
    ],
)
def test_a_refuted_margin_that_was_a_gain_all_the_same_says_so(fields, told, kept):
    kept(verdict("a above b by at least 0.01 on m", **fields))
    remarks = record(entry("npo"))["verdicts"][0]["remarks"]
    assert remarks == (["there is a difference of that sign, but it is smaller than 0.01"] if told else [])


def test_a_record_older_than_the_code_it_reaches_is_marked(kept):
    kept(verdict("a above b on m"), registration={"code": code_digest(entry("npo").claim)})
    assert record(entry("npo"))["changed"] is False
    kept(verdict("a above b on m"), registration={"code": "0" * 64})
    assert record(entry("npo"))["changed"] is True


@by_id([e for e in PAPERS if e.withdrawn or e.definitions])
def test_what_an_entry_withdraws_is_in_its_record(e):
    sentences = {v["expectation"] for v in record(e)["verdicts"]}
    assert {s for w in e.withdrawn for s in w.sentences} | set(e.definitions) <= sentences
    assert all(w.why.endswith(".") for w in e.withdrawn)


@by_id(PAPERS)
def test_a_claim_says_that_its_seeds_split_one_pool(e):
    importlib.import_module(e.claim)
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


def test_references_between_entries_resolve():
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
