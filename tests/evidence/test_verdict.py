"""The four words, against SciPy's and statsmodels' own tests, by invariance and by simulation."""

import math
import sys

import numpy as np
import pytest
from hypothesis import assume, example, settings
from hypothesis import given as forall
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from palimpsest.evidence import Claim, expect, given, judge, verdict
from palimpsest.evidence.verdict import cell, omnibus

SEEDS = (100, 101, 102, 103, 104)
A = (0.91, 0.88, 0.93, 0.90, 0.89)
B = (0.70, 0.75, 0.69, 0.74, 0.71)


def table(**arms):
    """arm -> {"m": values} -> as `judge` wants it."""
    return {arm: {"m": dict(zip(SEEDS, values, strict=False))} for arm, values in arms.items()}


def words(values, *expects, seeds=SEEDS):
    return judge(Claim("p", "?", dict.fromkeys(values, int), expects), values, seeds)


def word(values, expectation, seeds=SEEDS):
    return words(values, expectation, seeds=seeds)[0].word


def test_above_is_the_paired_t_interval():
    (found,) = words(table(a=A, b=B), expect("a").above("b", on="m", by=0.1))
    t = stats.ttest_rel(A, B)
    assert found.estimate == pytest.approx(np.subtract(A, B).mean())
    assert found.interval == pytest.approx(tuple(t.confidence_interval(0.95)))
    p = stats.ttest_1samp(np.subtract(A, B), 0.1).pvalue
    assert found.p == found.adjusted == pytest.approx(p), "with a half-line it is the two-sided p against the margin"
    assert found.effect == pytest.approx(np.subtract(A, B).mean() / np.subtract(A, B).std(ddof=1))
    assert found.word == "held"
    assert dict(found.differences) == pytest.approx(dict(zip(SEEDS, np.subtract(A, B), strict=True)))
    assert found.interval[0] < found.bootstrap[0] < found.estimate < found.bootstrap[1] < found.interval[1]


def test_within_is_tost_at_two_and_a_half_percent():
    near = np.add(B, (0.01, -0.01, 0.02, 0.0, -0.005))
    for by in (0.01, 0.016, 0.018, 0.02, 0.05):
        (found,) = words(table(a=near, b=B), expect("a").within("b", on="m", by=by))
        tost = ttost_paired(near, np.array(B), -by, by)[0]
        assert (found.word == "held") == (tost <= 0.025), by
        if found.word == "held":
            assert found.p == pytest.approx(2 * tost)
    assert word(table(a=A, b=B), expect("a").within("b", on="m", by=0.1)) == "refuted"
    assert word(table(a=A, b=B), expect("b").within("a", on="m", by=0.1)) == "refuted"
    assert word(table(a=A, b=B), expect("a").within("b", on="m", by=0.18)) == "open"


def test_thresholds_and_factors():
    values = table(a=A, b=B)
    assert word(values, expect("a").at_least(0.85, on="m")) == "held"
    assert word(values, expect("a").at_least(0.95, on="m")) == "refuted"
    assert word(values, expect("a").at_least(0.9, on="m")) == "open"
    assert word(values, expect("a").at_most(0.95, on="m")) == "held"
    assert word(values, expect("a").at_most(0.85, on="m")) == "refuted"
    (found,) = words(values, expect("b").below("a", on="m", times=0.9))
    assert found.word == "held"
    assert found.interval == pytest.approx(tuple(stats.ttest_rel(B, 0.9 * np.array(A)).confidence_interval(0.95)))
    assert word(values, expect("b").below("a", on="m", times=0.85)) == "open"
    assert word(values, expect("b").below("a", on="m", times=0.7)) == "refuted"
    assert word(values, expect("b").above("a", on="m", by=-0.3)) == "held"
    assert word(values, expect("b").above("a", on="m", by=-0.1)) == "refuted"
    assert word(values, expect("a").below("b", on="m", by=-0.3)) == "held"
    (found,) = words(values, expect("a").at_least(0.85, on="m"))
    assert found.effect == pytest.approx((np.mean(A) - 0.85) / np.std(A, ddof=1))


def test_trend_is_the_total_rise_of_each_seeds_line():
    rng = np.random.default_rng(0)
    rows = np.array([0.1, 0.3, 0.4, 0.8])[:, None] + 0.05 * rng.standard_normal((4, 5))
    values = table(**dict(zip("wxyz", rows, strict=True)))
    rises = [3 * np.polyfit(range(4), rows[:, i], 1)[0] for i in range(5)]
    (found,) = words(values, expect.trend("wxyz").rises(on="m", by=0.3))
    assert list(found.differences.values()) == pytest.approx(rises)
    assert found.word == "held"
    assert word(values, expect.trend("wxyz").rises(on="m", by=2)) == "refuted"
    assert word(values, expect.trend("zyxw").falls(on="m", by=0.3)) == "held"
    assert word(values, expect.trend("zyxw").rises(on="m")) == "refuted"
    assert word(values, expect.trend("zyxw").rises(on="m", by=-2)) == "held"


def test_seeds_that_agree_decide_exactly():
    values = table(a=(0.95, 0.9, 0.85, 0.8, 0.75), b=(0.75, 0.7, 0.65, 0.6, 0.55))
    (found,) = words(values, expect("a").above("b", on="m", by=0.2))
    assert (found.word, found.interval, found.p) == ("held", (0.2, 0.2), 0.0), "0.95 - 0.75 is 0.2 but for rounding"
    assert word(values, expect("a").above("b", on="m", by=0.2000001)) == "refuted"
    assert word(values, expect("a").within("b", on="m", by=0.2)) == "held"
    same = table(a=A, b=A)
    assert word(same, expect("a").within("b", on="m", by=0)) == "held"
    for expectation in (
        expect("a").above("b", on="m"),
        expect("a").below("b", on="m"),
        expect("a").above("b", on="m").in_seeds(1),
    ):
        (found,) = words(same, expectation)
        assert found.word == "refuted", "an arm is not above itself"
    assert word(same, expect("a").above("b", on="m", by=-0.01)) == "held"
    assert word(table(a=[1.0] * 5), expect("a").at_least(1, on="m")) == "held"


def test_too_little_is_open_with_a_note():
    one = words(table(a=A, b=B), expect("a").above("b", on="m"), seeds=[100])[0]
    assert (one.word, one.n, one.note) == ("open", 1, "one seed decides nothing")
    failed = words(table(a=A, b=B[:3]), expect("a").above("b", on="m"))[0]
    assert (failed.word, failed.note) == ("open", "no result on seeds 103, 104")
    assert math.isnan(failed.p)
    assert failed.estimate == pytest.approx(np.subtract(A[:3], B[:3]).mean())
    absent = words({"a": {"m": dict(zip(SEEDS, A, strict=True))}, "b": {}}, expect("a").above("b", on="m"))[0]
    assert (absent.word, absent.note, absent.n) == ("open", "b has no 'm'", 0)


def test_nan_is_open_and_infinity_decides_where_seeds_agree():
    (found,) = words(table(a=A, b=(*B[:4], math.nan)), expect("a").above("b", on="m"))
    assert (found.word, found.note) == ("open", "NaN on seeds 104")
    diverged = table(a=A, b=[-math.inf] * 5)
    assert word(diverged, expect("a").above("b", on="m", by=9)) == "held"
    assert word(diverged, expect("b").above("a", on="m")) == "refuted"
    assert word(diverged, expect("a").within("b", on="m", by=9)) == "refuted"
    assert word(diverged, expect("b").at_most(0, on="m")) == "held"
    (mixed,) = words(table(a=A, b=(*B[:4], -math.inf)), expect("a").above("b", on="m"))
    assert (mixed.word, mixed.note) == ("open", "infinite on some seeds: no interval")
    (both,) = words(table(a=[math.inf] * 5, b=[math.inf] * 5), expect("a").above("b", on="m"))
    assert both.word == "open"
    (trend,) = words(table(a=A, b=B, c=[math.inf] * 5), expect.trend("abc").rises(on="m"))
    assert trend.word == "open"


def test_counts_describe_seeds():
    values = table(a=(1, 1, 1, 1, 0), b=(0, 0, 0, 0, 1))
    (found,) = words(values, expect("a").above("b", on="m").in_seeds(4))
    assert (found.word, found.note) == ("held", "true of 4 of 5 seeds")
    assert found.p == pytest.approx(6 / 32), "the sign test's"
    assert word(values, expect("a").above("b", on="m").in_seeds(5)) == "refuted"
    assert word(values, expect("a").above("b", on="m").in_seeds(4), seeds=SEEDS[:3]) == "open"
    assert word(values, expect("b").above("a", on="m").in_seeds(3), seeds=SEEDS[:3]) == "refuted"
    assert word(values, expect("a").at_least(1, on="m").in_seeds(4)) == "held"
    assert math.isnan(found.adjusted), "not part of Holm's family"


def test_holm_over_the_expectations():
    rng = np.random.default_rng(5)
    arms = {name: rng.normal(mean, 0.1, 5) for name, mean in (("a", 0.0), ("b", 0.17), ("c", 0.5), ("d", 0.03))}
    promises = [expect(name).above("a", on="m") for name in "bcd"]
    found = words(
        table(**arms), *promises, given("c").at_least(0.1, on="m"), expect("c").above("a", on="m").in_seeds(4)
    )
    p = [v.p for v in found[:3]]
    np.testing.assert_allclose([v.adjusted for v in found[:3]], multipletests(p, method="holm")[1])
    assert math.isnan(found[3].adjusted), "a precondition is no expectation"
    assert found[1].word == "held"


def test_an_interval_that_clears_alone_may_not_survive_holm():
    d = np.array([0.1, 0.3, 0.2, 0.35, 0.05])
    values = table(a=[0.0] * 5, b=d, c=np.array([0.1, -0.1, 0.0, 0.05, -0.04]), e=[0.1, -0.1, 0, 0.02, 0])
    alone = words(values, expect("b").above("a", on="m"))[0]
    assert alone.word == "held"
    assert 0.05 / 3 < alone.p < 0.05
    among = words(values, *(expect(name).above("a", on="m") for name in "bce"))[0]
    assert (among.word, among.note) == ("open", "held on its own, not after Holm's correction")
    assert among.interval == alone.interval
    assert among.adjusted == pytest.approx(3 * alone.p)


def test_an_expectation_without_results_still_counts_in_holm():
    d = np.array([0.1, 0.3, 0.2, 0.35, 0.05])
    values = {**table(a=[0.0] * 5, b=d), "c": {}}
    found = words(values, expect("b").above("a", on="m"), expect("c").above("a", on="m"))
    assert found[0].adjusted == pytest.approx(2 * found[0].p)


@pytest.mark.parametrize("threshold", [0.85, 0.9, 0.95])
def test_a_precondition_that_is_not_held_voids_the_rest(threshold):
    gate = given("a").at_least(threshold, on="m")
    found = words(table(a=A, b=B), expect("a").above("b", on="m"), gate, expect("b").above("a", on="m"))
    if threshold == 0.85:
        assert [v.word for v in found] == ["held", "held", "refuted"]
    else:
        assert [v.word for v in found] == ["void", "open" if threshold == 0.9 else "refuted", "void"]
        assert found[0].note == f"precondition not held: a at least {threshold} on m"
        assert found[0].estimate == pytest.approx(np.subtract(A, B).mean()), "the numbers stay in sight"


values = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=5, max_size=5)


@settings(max_examples=40, deadline=None)
@forall(values, values, st.floats(-5, 5), st.sampled_from((0.0, 0.5, -1.0)), st.permutations(range(5)))
@example(list(A), list(B), 3.0, 0.5, [4, 3, 2, 1, 0])
@example([0.0] * 5, [0.0] * 4 + [1.0], sys.float_info.min, 0.0, [0, 1, 2, 3, 4])
def test_invariances(a, b, shift, by, order):
    d = np.subtract(a, b)
    if np.ptp(d):
        low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
        assume(min(abs(low - by), abs(high - by), abs(low), abs(high)) > 1e-6)
    plain = words(table(a=a, b=b), expect("a").above("b", on="m", by=by))[0]
    moved = words(table(a=np.add(a, shift), b=np.add(b, shift)), expect("a").above("b", on="m", by=by))[0]
    mixed = words(table(a=[a[i] for i in order], b=[b[i] for i in order]), expect("a").above("b", on="m", by=by))[0]
    swapped = words(table(a=b, b=a), expect("a").below("b", on="m", by=by))[0]
    assert plain.word == moved.word == mixed.word == swapped.word
    assert moved.interval == pytest.approx(plain.interval, abs=1e-8)
    assert mixed.p == pytest.approx(plain.p, abs=1e-8)
    assert (-swapped.interval[1], -swapped.interval[0]) == pytest.approx(plain.interval, abs=1e-8)


@settings(max_examples=30, deadline=None)
@forall(values, values, st.floats(0.1, 3))
def test_a_wider_margin_never_unmakes_an_equivalence(a, b, by):
    order = ["refuted", "open", "held"]
    narrow = word(table(a=a, b=b), expect("a").within("b", on="m", by=by))
    wide = word(table(a=a, b=b), expect("a").within("b", on="m", by=2 * by))
    assert order.index(wide) >= order.index(narrow)


@pytest.mark.slow
def test_false_words_are_rare_where_the_truth_is_on_the_margin(monkeypatch):
    """The truth at the margin is the worst case: each word is wrong in at most 2.5%, by simulation within its error."""
    monkeypatch.setattr(verdict, "bootstrap_interval", lambda *_: (0.0, 0.0))
    rng, runs = np.random.default_rng(0), 700
    above, within = {"held": 0, "refuted": 0, "open": 0}, 0
    for _ in range(runs):
        shared = rng.standard_normal(5)
        values = table(a=shared + 0.3 + rng.normal(0, 0.1, 5), b=shared)
        found = words(values, expect("a").above("b", on="m", by=0.3))[0]
        above[found.word] += 1
        within += word(values, expect("a").within("b", on="m", by=0.3)) == "held"
    limit = 0.025 + 3 * math.sqrt(0.025 * 0.975 / runs)
    assert above["held"] / runs <= limit
    assert above["refuted"] / runs <= limit
    assert above["held"] + above["refuted"] > 0.02 * runs, "nor is it so timid that it never speaks"
    assert within / runs <= limit


@pytest.mark.slow
def test_false_words_are_rare_over_a_whole_claim(monkeypatch):
    monkeypatch.setattr(verdict, "bootstrap_interval", lambda *_: (0.0, 0.0))
    rng, runs, wrong = np.random.default_rng(1), 250, 0
    promises = [expect(name).above("a", on="m") for name in "bcdefg"]
    for _ in range(runs):
        values = table(**{name: rng.standard_normal(5) for name in "abcdefg"})
        wrong += any(v.word != "open" for v in words(values, *promises))
    assert wrong / runs <= 0.06


def test_cells_and_the_omnibus():
    shown = cell(dict(zip(SEEDS, A, strict=True)))
    assert shown.interval == pytest.approx(tuple(stats.ttest_1samp(A, 0).confidence_interval(0.95)))
    assert math.isnan(cell({100: 1.0}).interval[0])
    assert cell({100: 1.0, 101: 1.0}).interval == (1.0, 1.0)
    assert math.isnan(cell({100: 1.0, 101: math.nan}).mean)
    assert cell({100: -math.inf, 101: -math.inf}).mean == -math.inf
    values = table(a=A, b=B, c=np.add(B, 0.3))
    assert omnibus(values, "m") == pytest.approx(stats.friedmanchisquare(A, B, np.add(B, 0.3)).pvalue)
    assert math.isnan(omnibus(table(a=A, b=B), "m"))
    assert math.isnan(omnibus(table(a=A, b=B, c=B[:3]), "m"))


# --- tiny and huge numbers, peaks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-158, 1.0, 1e150, 1e200])
def test_words_and_effects_do_not_depend_on_the_unit(scale):
    near = table(a=np.multiply(A, scale), b=np.multiply(B, scale))
    (found,) = words(near, expect("a").above("b", on="m"))
    (plain,) = words(table(a=A, b=B), expect("a").above("b", on="m"))
    assert found.word == plain.word == "held"
    assert found.effect == pytest.approx(plain.effect, rel=1e-6)
    assert found.p == pytest.approx(plain.p, rel=1e-6)
    assert found.interval == pytest.approx(tuple(scale * end for end in plain.interval), rel=1e-6, abs=0)
    assert found.bootstrap == pytest.approx(tuple(scale * end for end in plain.bootstrap), rel=1e-6, abs=0)
    (summary,) = (cell(dict(enumerate(np.multiply(A, scale)))),)
    assert summary.interval == pytest.approx(
        tuple(scale * end for end in cell(dict(enumerate(A))).interval), rel=1e-6, abs=0
    )


def test_tiny_numbers_against_a_margin_that_is_not():
    tiny = table(a=np.multiply(A, 1e-200), b=np.multiply(B, 1e-200))
    assert word(tiny, expect("a").above("b", on="m", by=0.1)) == "refuted"
    assert word(tiny, expect("a").within("b", on="m", by=0.1)) == "held"
    assert word(tiny, expect("a").at_most(0.5, on="m")) == "held"


NOISE = np.array([0.01, -0.01, 0.0, 0.005, -0.005])


@pytest.mark.parametrize(
    ("levels", "by", "expected"),
    [
        ((0.1, 0.5, 0.9), 0.0, "held"),
        ((0.10, 0.93, 0.15), 0.0, "refuted"),
        ((0.10, 0.93, 0.15), 0.02, "refuted"),
        ((0.1, 0.5, 0.499, 0.9), 0.0, "open"),
        ((0.1, 0.5, 0.5, 0.9), 0.0, "held"),
        ((0.9, 0.5, 0.1), 0.0, "refuted"),
        ((0.5, 0.48, 0.5), -0.1, "held"),
        ((0.5, 0.2, 0.5), -0.1, "refuted"),
    ],
)
def test_a_peak_is_no_trend(levels, by, expected):
    jitter = [NOISE * (1 if i % 2 else -1) if len(set(levels)) == len(levels) else NOISE for i in range(len(levels))]
    values = table(**{arm: level + noise for arm, level, noise in zip("wxyz", levels, jitter, strict=False)})
    fallen = table(**{arm: 1 - level - noise for arm, level, noise in zip("wxyz", levels, jitter, strict=False)})
    arms = list(values)
    assert word(values, expect.trend(arms).rises(on="m", by=by)) == expected
    assert word(fallen, expect.trend(arms).falls(on="m", by=by)) == expected


def test_a_peak_is_no_trend_on_a_single_seed_either():
    values = table(a=[0.1, 0.1, 0.1, 0.1, 0.1], b=[0.9, 0.9, 0.3, 0.3, 0.3], c=[0.2, 0.2, 0.5, 0.5, 0.5])
    (found,) = words(values, expect.trend("abc").rises(on="m").in_seeds(3))
    assert (found.word, found.note) == ("held", "true of 3 of 5 seeds")
    assert word(values, expect.trend("abc").rises(on="m").in_seeds(4)) == "refuted"
