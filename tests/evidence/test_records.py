"""Every word of every record follows from its raw values and its registration; what is changed by hand is noticed."""

import copy
import itertools
import json
import math

import pytest

from palimpsest.audit.hark import Prereg, digest
from palimpsest.errors import UserError
from palimpsest.evidence import Claim, judge
from palimpsest.evidence.sentences import registered
from palimpsest.paths import records
from palimpsest.record_files import broken, numbers, read, read_history, registration, rerun_of, sealed, write_history

FILES = sorted(records().glob("*/*.json"))


def same(a, b):
    """Numbers to the last digits, which differ between versions of SciPy; the rest exactly."""
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, str) or isinstance(b, str):
        return a == b or (_number(a) is not None and same(_number(a), _number(b)))
    return a == b or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def faults(found):
    """What in a record does not follow from its raw values and its registration."""
    prereg = Prereg(**registration(found))
    if digest(prereg) != found["registration"]["digest"]:
        yield "the registration is not the one of its digest"
    promised = prereg.plan["expectations"]
    expects = [registered(promise) for promise in promised]
    claim = Claim(found["paper"], found["question"], dict.fromkeys(prereg.arms, int), expects, seeds=prereg.seeds)
    if (prereg.metric, prereg.direction, prereg.margin) != (claim.primary.on, claim.primary.kind, claim.primary.by):
        yield "the primary expectation"
    if found["seeds"] != list(prereg.seeds[: len(found["seeds"])]):
        yield "the seeds are not the first of those registered"
    for line, verdict in zip(found["verdicts"], judge(claim, numbers(found), found["seeds"]), strict=True):
        sentence = str(verdict.expectation)
        shown = {"precondition": False, "note": "", **line}
        expected = {"word": verdict.word, "expectation": sentence, "note": verdict.note}
        expected["precondition"] = verdict.expectation.precondition
        for name, value in expected.items():
            if shown[name] != value:
                yield f"{name} of {sentence}"
        for name in ("estimate", "interval", *({"share", "look"} & line.keys())):
            if not same(line[name], getattr(verdict, name)):
                yield f"{name} of {sentence}"


def faults_beside(found, rows):
    """What in a record's history does not fit the record."""
    entries = [row for row in rows if row["kind"] in ("registration", "amendment")]
    own = found["registration"]
    last = {"kind": entries[-1]["kind"], "paper": found["paper"], "digest": own["digest"], "time": own["time"]}
    if entries[-1] != {**last, "prereg": registration(found)}:
        yield "the registration is not the last of the history"
    amendments = [(e["prereg"]["version"], e["time"], e["prereg"]["reason"]) for e in entries[1:]]
    if amendments != [(a["version"], a["time"], a["reason"]) for a in found.get("amendments", [])]:
        yield "the amendments"
    for before, after in itertools.pairwise(entries):
        if after["prereg"]["amends"] != before["digest"]:
            yield "an amendment of something else than what was registered before"
    for entry in entries:
        if digest(Prereg(**entry["prereg"])) != entry["digest"]:
            yield "a registration is not the one of its digest"
    said = [row for row in rows if row["kind"] == "verdict"][-1]["verdicts"]
    if [(v["word"], v["expectation"]) for v in said] != [(v["word"], v["expectation"]) for v in found["verdicts"]]:
        yield "the words of the last verdict in the history"
    for row in rows:
        if row["kind"] == "curve" and not (row["arm"] in found["values"] and row["seed"] in found["seeds"]):
            yield "a curve of no arm or seed"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_number_and_word_of_a_record_follows_from_its_raw_values(file):
    found = read(file)
    assert broken(found) == ""
    assert found.get("rerun") == rerun_of(found), "a rerun's mark is written by palimpsest run --verify"
    assert list(faults(found)) == []
    assert list(faults_beside(found, read_history(file, found))) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_record_is_laid_out_for_reading(file):
    """The verdicts first, a line for each; a line for every metric; the rest is read as it was written."""
    found, lines = read(file), file.read_text(encoding="utf-8").splitlines()
    assert list(found)[:4] == ["paper", "family", "question", "verdicts"]
    assert [json.loads(line.rstrip(",")) for line in lines[5 : 5 + len(found["verdicts"])]] == found["verdicts"]
    for metrics in found["values"].values():
        for metric, row in metrics.items():
            assert len(row) == len(found["seeds"])
            written = f"   {json.dumps(metric, ensure_ascii=False)}: {json.dumps(row)}"
            assert written in lines or f"{written}," in lines
            assert all(v is None or isinstance(v, str) or v == float(f"{v:.7g}") for v in row)


def test_an_installed_package_without_the_history_knows_what_is_registered(tmp_path):
    found = read(records() / "contrast" / "amcl.json")
    whole = read_history(records() / "contrast" / "amcl.json", found)
    (alone,) = read_history(tmp_path / "amcl.json", found)
    assert alone == [row for row in whole if row["kind"] in ("registration", "amendment")][-1]
    assert alone["prereg"]["version"] == found["registration"]["version"] > 1


def test_a_history_that_was_changed_is_refused(tmp_path):
    found = read(records() / "forget" / "npo.json")
    rows = read_history(records() / "forget" / "npo.json", found)
    assert write_history(tmp_path / "npo.json", rows) == found["history"]
    beside = tmp_path / "npo.history.jsonl"
    beside.write_text(beside.read_text().replace('"held"', '"open"', 1))
    with pytest.raises(UserError, match=r"npo.history.jsonl was changed after its record was sealed: restore"):
        read_history(tmp_path / "npo.json", found)


def test_there_are_records():
    assert len(FILES) > 40


def changed(found, *path, to):
    """A copy with one thing changed, as by an editor."""
    found = copy.deepcopy(found)
    *way, last = path
    where = found
    for step in way:
        where = where[step]
    assert (where.get(last) if isinstance(where, dict) else where[last]) != to
    where[last] = to
    return found


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("values", "npo", "model utility", 0), 0.2),
        (("verdicts", 1, "word"), "refuted"),
        (("verdicts", 1, "expectation"), "gold above grad_diff by at least 0.05 on model utility"),
        (("verdicts", 1, "interval"), [0.1, 0.2]),
        (("verdicts", 1, "estimate"), 0.5),
        (("verdicts", 2, "note"), "fine"),
        (("verdicts", 0, "precondition"), False),
        (("registration", "margin"), 0.01),
        (("registration", "plan", "expectations", 1, "by"), 0.01),
        (("registration", "plan", "expectations", 1, "times"), 2.0),
        (("registration", "plan", "settings", "npo", "start"), "gold"),
        (("verdicts", 4, "share"), 0.5),
        (("verdicts", 4, "look"), 20),
        (("question",), "Is it?"),
        (("seeds", 0), 230),
    ],
    ids=lambda value: "/".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_change_by_hand_breaks_the_seal_and_the_arithmetic(path, to):
    found = changed(read(records() / "forget" / "npo.json"), *path, to=to)
    assert "was changed after it was sealed" in broken(found)
    resealed = sealed(found, None)
    assert broken(resealed) == ""
    assert list(faults(resealed))


def test_a_record_without_a_seal_or_with_half_a_one_is_broken():
    found = read(FILES[0])
    assert "has no seal" in broken({k: v for k, v in found.items() if k != "seal"})
    assert "has no seal" in broken({**found, "seal": {"chain": None}})
    assert "was changed" in broken(changed(found, "seal", "chain", to="0" * 64))
