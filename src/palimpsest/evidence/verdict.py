"""From the values of every arm on every seed to one of four words per expectation.

Each expectation is about one number per seed and says where its mean lies:

    above, below        d = method - times * baseline        d >= by (d > 0 if by is 0); d <= -by
    within              the same d                           -by <= d <= by
    at_least, at_most   the arm's value                      value >= by; value <= by
    rises, falls        (J - 1) * slope of the line through  rise >= by (> 0 if by is 0); rise <= -by
                        the J arms at positions 0..J-1

A trend is one of every step, too: where the line rises, and the mean of an arm lies below that of the arm before it (by
more than a negative `by` allows), the sentence is not held but open, and refuted where the 95% interval of that step
lies below as a whole. So a peak does not rise, though a line through it may.

The word compares the 95% t-interval of the mean over seeds with that region: **held** where the interval lies inside,
**refuted** where the two are disjoint, **open** otherwise; **void** for every expectation where a precondition is not
held. Inside at 95% is a one-sided test at 2.5% for each end of the region, for `within` as for the others: it is the
two one-sided tests (TOST) at 2.5% rather than the customary 5%, so that one word means one strength of evidence.

Holm: an expectation's p is 2 min(p_held, p_refuted), where p_held tests the region's complement (the larger of the
one-sided p-values of its ends) and p_refuted the region (the smaller one); p <= 0.05 exactly where the 95% interval
decides. The p-values of all expectations but preconditions and counts are adjusted by Holm's step-down procedure; an
interval that decides on its own but not at an adjusted p of 0.05 leaves the expectation open, with a note.

A count (`in_seeds(k)`) is held where the sentence is true of at least k single seeds and refuted where it cannot be any
more; it describes the seeds at hand, is not part of Holm's family, and its p is the sign test's.

Where seeds do not differ the interval is a point and decides exactly. One seed, a missing or NaN value leaves it open.
Infinite values decide where all seeds agree, else they leave it open: an arm that may diverge should report a finite
worst value. Numbers are compared up to 1e-12 of the values' size, so that 0.95 - 0.75 is at least 0.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from palimpsest.audit.significance import bootstrap_interval, friedman, holm
from palimpsest.audit.verdict_words import Word, decide
from palimpsest.evidence.claim import Claim, Expectation

Values = Mapping[str, Mapping[str, Mapping[int, float]]]
"""arm -> metric -> seed -> value"""

CONFIDENCE = 0.95
_NAN = (math.nan, math.nan)


@dataclass(frozen=True)
class Verdict:
    """What the numbers say about one expectation."""

    expectation: Expectation
    word: Word
    differences: Mapping[int, float]
    """seed -> the number that the expectation is about"""
    region: tuple[float, float]
    """where its mean should lie"""
    estimate: float = math.nan
    interval: tuple[float, float] = _NAN
    """95% t-interval of the mean over seeds"""
    bootstrap: tuple[float, float] = _NAN
    """95% percentile bootstrap interval, beside the other, for whoever distrusts normality"""
    effect: float = math.nan
    """Cohen's dz: mean over standard deviation of the differences (of the distances from the threshold)"""
    p: float = math.nan
    adjusted: float = math.nan
    """p after Holm's correction over the claim's expectations; NaN for preconditions and counts"""
    note: str = ""
    share: float = math.nan
    """the mean gain over the mean room, where the margin is a share of it"""
    look: int = 0
    """how many seeds the look had that this stands at; 0 where the rule has no looks"""

    @property
    def n(self) -> int:
        return len(self.differences)

    def to_dict(self) -> dict[str, Any]:
        shown = {f.name: getattr(self, f.name) for f in fields(self)} | {"n": self.n}
        return shown | {"expectation": str(self.expectation), **asdict(self.expectation)}


@dataclass(frozen=True)
class Cell:
    """One metric of one arm: its values by seed, their mean and its 95% t-interval (NaN with a single seed)."""

    values: Mapping[int, float]
    mean: float
    interval: tuple[float, float]


def judge_by_intervals(claim: Claim, values: Values, seeds: Sequence[int]) -> tuple[Verdict, ...]:
    """The verdicts of a claim, in the order of its expectations.

    >>> from palimpsest.evidence import expect
    >>> claim = Claim("c", "?", {"a": int, "b": int}, [expect("b").above("a", on="m", by=0.1)])
    >>> values = {"a": {"m": dict(enumerate([0.1, 0.2, 0.1]))}, "b": {"m": dict(enumerate([0.5, 0.7, 0.6]))}}
    >>> [verdict.word for verdict in judge_by_intervals(claim, values, [0, 1, 2])]
    ['held']
    """
    found = [alone(expectation, values, seeds, len(claim.seeds)) for expectation in claim.expects]
    family = [i for i, verdict in enumerate(found) if not (verdict.expectation.precondition or _is_count(verdict))]
    # An expectation without a p still counts in the family: it was promised.
    if family:
        adjusted = holm([1.0 if math.isnan(found[i].p) else found[i].p for i in family])
        for i, p in zip(family, adjusted, strict=True):
            found[i] = _after_holm(found[i], float(p))
    failed = [verdict for verdict in found if verdict.expectation.precondition and verdict.word != "held"]
    if failed:
        why = "precondition not held: " + "; ".join(str(verdict.expectation) for verdict in failed)
        found = [v if v.expectation.precondition else replace(v, word="void", note=_and(why, v.note)) for v in found]
    return tuple(found)


def cell(values: Mapping[int, float]) -> Cell:
    """Summarise a metric over seeds."""
    numbers = np.array(list(values.values()), float)
    if not np.isfinite(numbers).all():
        alike = len(set(numbers.tolist())) == 1
        return Cell(dict(values), float(numbers[0]) if alike else math.nan, _NAN)
    return Cell(dict(values), float(numbers.mean()), _interval(numbers) if len(numbers) > 1 else _NAN)


def omnibus(values: Values, metric: str) -> float:
    """Friedman's p over all arms that report the metric: does any differ? NaN for less than three or with gaps."""
    rows = [by_seed[metric] for by_seed in values.values() if metric in by_seed]
    if len(rows) < 3 or any(row.keys() != rows[0].keys() for row in rows) or len(rows[0]) < 2:
        return math.nan
    table = np.array([[row[seed] for row in rows] for seed in rows[0]])
    return friedman(table).p if np.isfinite(table).all() else math.nan


def alone(expectation: Expectation, values: Values, seeds: Sequence[int], registered: int) -> Verdict:
    """The verdict of one expectation before Holm and preconditions."""
    region = _region(expectation)
    found = [values.get(arm, {}).get(expectation.on, {}) for arm in expectation.arms]
    paired = {s: _quantity(expectation, [by_seed[s] for by_seed in found]) for s in seeds if all(s in f for f in found)}
    blank = Verdict(expectation, "open", paired, region)
    for arm, by_seed in zip(expectation.arms, found, strict=True):
        if not by_seed:
            return replace(blank, note=f"{arm} has no {expectation.on!r}")
    numbers = np.array(list(paired.values()), float)
    if np.isnan(numbers).any():
        spoiled = [seed for seed, number in paired.items() if math.isnan(number)]
        return replace(blank, note=f"NaN on seeds {_listed(spoiled)}")
    known = _with_numbers(blank, numbers)
    if missing := [seed for seed in seeds if seed not in paired]:
        return replace(known, p=math.nan, note=f"no result on seeds {_listed(missing)}")
    if _is_count(known):
        return _counted(known, numbers, max(registered, len(seeds)), _in_order(expectation, found, paired))
    if len(numbers) < 2:
        return replace(known, note="one seed decides nothing")
    if math.isnan(known.estimate):
        return replace(known, note="infinite on some seeds: no interval")
    strict_zero = expectation.by == 0 and expectation.kind in ("above", "below", "rises", "falls")
    if known.interval[0] == known.interval[1] == 0 and strict_zero:
        return replace(known, word="refuted", note="no difference on any seed")
    word = decide(*known.interval, *region)
    if word == "held" and expectation.kind in ("rises", "falls"):
        return stepped(known, found)
    return replace(known, word=word)


def stepped(verdict: Verdict, found: Sequence[Mapping[int, float]]) -> Verdict:
    """The verdict of a trend whose line is as it should be, from the steps between its arms."""
    expectation = verdict.expectation
    word, notes = "held", []
    for (first, before), (second, after) in pairwise(zip(expectation.arms, found, strict=True)):
        steps = np.array([_step(expectation, before[seed], after[seed]) for seed in verdict.differences])
        if not steps.mean() < 0:
            continue
        against = _interval(steps)[1] < 0
        word = "refuted" if against or word == "refuted" else "open"
        notes.append(f"from {first} to {second} it goes the other way{'' if against else ' on average'}")
    return replace(verdict, word=word, note="; ".join(notes))


def _step(expectation: Expectation, before: float, after: float) -> float:
    """How far a step of a trend goes its way; 0 within what a negative `by` allows, and within rounding."""
    step = after - before if expectation.kind == "rises" else before - after
    slack = max(0.0, -expectation.by) + 1e-12 * max(abs(before), abs(after))
    return step if step >= 0 else min(0.0, step + slack)


def _with_numbers(verdict: Verdict, numbers: np.ndarray) -> Verdict:
    """Estimate, intervals, effect and p of the numbers, as far as they have them."""
    least, most = verdict.region
    if not np.isfinite(numbers).all():
        if len(set(numbers.tolist())) > 1:
            return verdict
        point = float(numbers[0])
        return replace(verdict, estimate=point, interval=(point, point), bootstrap=(point, point), effect=point, p=0.0)
    if numbers.size == 0:
        return verdict
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return replace(verdict, estimate=mean)
    origin = verdict.expectation.by if len(verdict.expectation.arms) == 1 else 0.0
    if np.ptp(numbers) == 0:
        effect = math.copysign(math.inf, mean - origin) if mean != origin else 0.0
        return replace(verdict, estimate=mean, interval=(mean, mean), bootstrap=(mean, mean), effect=effect, p=0.0)
    scale = _scale(numbers)
    scaled = numbers / scale
    # p of "the mean is not above `least`", "not below `most`", and of the two opposites.
    inside, outside = [], []
    for end, into, out_of in ((least, "greater", "less"), (most, "less", "greater")):
        if math.isfinite(end):
            inside.append(float(stats.ttest_1samp(scaled, end / scale, alternative=into).pvalue))
            outside.append(float(stats.ttest_1samp(scaled, end / scale, alternative=out_of).pvalue))
    return replace(
        verdict,
        estimate=mean,
        interval=_interval(numbers),
        bootstrap=tuple(scale * end for end in bootstrap_interval(scaled, CONFIDENCE)),
        effect=float((scaled.mean() - origin / scale) / scaled.std(ddof=1)),
        p=min(1.0, 2 * min(max(inside), min(outside))),
    )


def _in_order(expectation: Expectation, found: Sequence[Mapping[int, float]], seeds: Iterable[int]) -> np.ndarray:
    """Of every seed, whether no step of a trend goes the other way; True for other sentences."""
    if expectation.kind not in ("rises", "falls"):
        return np.array([True for _ in seeds])
    return np.array([all(_step(expectation, a[s], b[s]) >= 0 for a, b in pairwise(found)) for s in seeds])


def _counted(verdict: Verdict, numbers: np.ndarray, seeds: int, in_order: np.ndarray) -> Verdict:
    least, most = verdict.region
    strict_zero = verdict.expectation.by == 0 and len(verdict.expectation.arms) > 1
    true = int(((least <= numbers) & (numbers <= most) & ~(strict_zero & (numbers == 0)) & in_order).sum())
    needed = verdict.expectation.seeds_needed
    word: Word = "held" if true >= needed else "refuted" if true + seeds - len(numbers) < needed else "open"
    p = float(stats.binomtest(true, len(numbers), 0.5, alternative="greater").pvalue)
    return replace(verdict, word=word, p=p, note=f"true of {true} of {len(numbers)} seeds")


def _after_holm(verdict: Verdict, adjusted: float) -> Verdict:
    if verdict.word in ("held", "refuted") and adjusted > 1 - CONFIDENCE:
        note = _and(verdict.note, f"{verdict.word} on its own, not after Holm's correction")
        return replace(verdict, word="open", adjusted=adjusted, note=note)
    return replace(verdict, adjusted=math.nan if math.isnan(verdict.p) else adjusted)


def _quantity(expectation: Expectation, values: Sequence[float]) -> float:
    """The number that an expectation is about; a computed one is freed from the noise of floating-point subtraction."""
    if expectation.kind in ("at_least", "at_most"):
        return values[0]
    if expectation.kind in ("rises", "falls"):
        positions = np.arange(len(values)) - (len(values) - 1) / 2
        finite = np.isfinite(values).all()
        slope = float(positions @ np.asarray(values) / (positions @ positions)) if finite else math.nan
        number = slope * (len(values) - 1)
    else:
        number = values[0] - expectation.times * values[1]
    if not math.isfinite(number):
        return number
    digits = 12 - math.ceil(math.log10(max(map(abs, values)) or 1.0))
    number = round(float(number), digits)  # NumPy's own floats overflow here where values are tiny
    near = [end for end in _region(expectation) if abs(number - end) <= 10.0**-digits]
    return near[0] if near else number


def _region(expectation: Expectation) -> tuple[float, float]:
    by = expectation.by
    if expectation.kind in ("above", "at_least", "rises"):
        return by, math.inf
    if expectation.kind == "within":
        return -by, by
    return -math.inf, by if expectation.kind == "at_most" else -by


def _interval(numbers: np.ndarray) -> tuple[float, float]:
    if np.ptp(numbers) == 0:
        return float(numbers[0]), float(numbers[0])
    scale = _scale(numbers)
    found = stats.ttest_1samp(numbers / scale, 0.0).confidence_interval(CONFIDENCE)
    return scale * float(found.low), scale * float(found.high)


def _scale(numbers: np.ndarray) -> float:
    """The power of two next to the largest number: squares of what is divided by it neither vanish nor overflow, and
    nothing is rounded."""
    return 2.0 ** (math.frexp(float(np.abs(numbers).max()))[1] - 1)


def _is_count(verdict: Verdict) -> bool:
    return verdict.expectation.seeds_needed > 0


def _and(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
