"""Every word of every record follows from its raw values and its registration; what is changed by hand is noticed."""

import copy
import json
import math

import pytest

from palimpsest.audit.hark import WORDS, Prereg, canonical_json, digest
from palimpsest.evidence import Claim, Expectation, judge
from palimpsest.evidence.verdict import cell
from palimpsest.paths import records
from palimpsest.records import broken, sealed

FILES = sorted(records().glob("*/*.json"))
SENTENCE = ("kind", "arms", "on", "by", "times", "precondition", "seeds_needed")
NUMBERS = ("estimate", "interval", "bootstrap", "effect", "p", "adjusted", "region", "differences")


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def same(a, b):
    """Numbers to the last digits, which differ between versions of SciPy; the rest exactly."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
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
    registered = {k: v for k, v in found["registration"].items() if k not in ("digest", "code")}
    prereg = Prereg(**registered)
    if digest(prereg) != found["registration"]["digest"]:
        yield "the registration is not the one of its digest"
    expects = [
        Expectation(**{name: tuple(v[name]) if name == "arms" else v[name] for name in SENTENCE})
        for v in found["verdicts"]
    ]
    promised = [{**e, "arms": tuple(e["arms"])} for e in prereg.plan["expectations"]]
    if promised != [{name: getattr(e, name) for name in SENTENCE} for e in expects]:
        yield "the expectations are not the registered ones"
    if sorted(found["seeds"]) != sorted(prereg.seeds):
        yield "the seeds are not the registered ones"
    raw = {
        arm: {metric: {int(seed): float(v) for seed, v in kept["values"].items()} for metric, kept in row.items()}
        for arm, row in found["arms"].items()
    }
    for arm, row in raw.items():
        for metric, values in row.items():
            kept, again = found["arms"][arm][metric], cell(values)
            if not same(kept["mean"], again.mean) or not same(kept["interval"], list(again.interval)):
                yield f"the summary of {metric} of {arm}"
    claim = Claim(found["paper"], found["question"], dict.fromkeys(prereg.arms, int), expects, seeds=prereg.seeds)
    again = judge(claim, raw, found["seeds"])
    for kept, verdict in zip(found["verdicts"], again, strict=True):
        fresh = json.loads(canonical_json(verdict.to_dict()))
        for name in ("word", "expectation", "note", "n"):
            if kept[name] != fresh[name]:
                yield f"{name} of {fresh['expectation']}"
        for name in NUMBERS:
            if not same(kept[name], fresh[name]):
                yield f"{name} of {fresh['expectation']}"
    words = [v.word for v in again if not v.expectation.precondition]
    if found["counts"] != {word: words.count(word) for word in WORDS}:
        yield "the counts"
    last = [entry for entry in found["history"] if entry["kind"] == "verdict"][-1]
    if [v["word"] for v in last["verdicts"]] != [v.word for v in again]:
        yield "the words of the last verdict in the history"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_number_and_word_of_a_record_follows_from_its_raw_values(file):
    found = read(file)
    assert broken(found) == ""
    assert list(faults(found)) == []


def test_there_are_records():
    assert len(FILES) > 40


def changed(found, *path, to):
    """A copy with one thing changed, as by an editor."""
    found = copy.deepcopy(found)
    *way, last = path
    where = found
    for step in way:
        where = where[step]
    assert where[last] != to
    where[last] = to
    return found


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("arms", "npo-rt", "model utility", "values", "100"), 0.2),
        (("arms", "npo-rt", "model utility", "mean"), 0.2),
        (("verdicts", 1, "word"), "refuted"),
        (("verdicts", 1, "by"), 0.01),
        (("verdicts", 1, "times"), 2.0),
        (("verdicts", 1, "interval"), [0.1, 0.2]),
        (("verdicts", 1, "p"), 0.5),
        (("verdicts", 2, "note"), "fine"),
        (("verdicts", 0, "precondition"), False),
        (("counts", "held"), 5),
        (("registration", "margin"), 0.01),
        (("registration", "plan", "expectations", 1, "by"), 0.01),
        (("seeds", 0), 99),
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
