"""The rules against hypothesising after the results are known."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from palimpsest.audit import hark
from palimpsest.audit.hark import (
    GENESIS,
    Prereg,
    Row,
    TamperedLedger,
    amend,
    canonical_json,
    chain,
    digest,
    next_hash,
    verify_chain,
)
from palimpsest.audit.hark_measures import POLICIES, harking_rate, selective_report
from palimpsest.audit.tuning_ledger import TuningLedger, UnequalTuning
from palimpsest.audit.verdict_words import decide, verdict


def prereg(**changes):
    fields = {"hypothesis": "b beats a", "arms": ("a", "b"), "task": "t", "metric": "m", "direction": "above"}
    return Prereg(**{**fields, "margin": 0.1, **changes})


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": 1, "a": [1.5, None, True]}) == canonical_json({"a": (1.5, None, True), "b": 1})
    assert canonical_json(np.float64(0.5)) == canonical_json(0.5) == "0.5"
    assert canonical_json([math.inf, -math.inf, -0.0]) == '["inf","-inf",0.0]'
    assert canonical_json({"é": 1}) == '{"\\u00e9":1}'


@pytest.mark.parametrize("value", [{1, 2}, print, {"f": lambda: 0}, b"bytes"])
def test_canonical_json_refuses_what_has_no_text(value):
    with pytest.raises(TypeError, match="canonical JSON"):
        canonical_json(value)


def test_digest_changes_with_every_promise_and_with_nothing_else():
    same = prereg(arms=["a", "b"])
    assert digest(prereg()) == digest(same)
    for change in (
        {"hypothesis": "a beats b"},
        {"arms": ("b", "a")},
        {"metric": "n"},
        {"margin": 0.2},
        {"seeds": (200, 201, 202, 203, 204)},
        {"plan": {"lr": 0.1}},
        {"budget": {"a": 100}},
        {"stopping": "when it works"},
    ):
        assert digest(prereg(**change)) != digest(prereg()), change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seeds": (0, 1, 2, 3, 4)}, "0-99 are for tuning"),
        ({"seeds": (100, 101)}, "at least 5"),
        ({"seeds": (100, 100, 101, 102, 103)}, "distinct"),
        ({"arms": ("a", "a")}, "distinct"),
        ({"metric": " "}, "metric is empty"),
        ({"alpha": 1.0}, "alpha"),
    ],
)
def test_prereg_refuses(change, match):
    with pytest.raises(ValueError, match=match):
        prereg(**change)


def test_amendments_keep_their_trail():
    first = prereg()
    second = amend(first, "  too strict ", margin=0.05)
    third = amend(second, "back", margin=0.1)
    assert (second.version, second.amends, second.reason) == (2, digest(first), "too strict")
    assert third.amends == digest(second) != digest(first) == digest(third)
    with pytest.raises(ValueError, match="reason"):
        amend(first, " ", margin=0.05)
    with pytest.raises(ValueError, match="nothing to amend"):
        amend(first, "no change")


def test_decide_at_the_ends():
    assert decide(0.1, 0.2, 0.1, math.inf) == "held"
    assert decide(0.0, 0.1, 0.1, math.inf) == "open"
    assert decide(0.0, 0.0999, 0.1, math.inf) == "refuted"
    assert decide(-0.1, 0.1, -0.1, 0.1) == "held"
    assert decide(0.2, 0.3, -0.1, 0.1) == decide(-0.3, -0.2, -0.1, 0.1) == "refuted"
    assert decide(math.nan, math.nan, 0, 1) == "open"


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-0.5, 0.5))
def test_verdict_is_the_t_interval_against_the_margin(differences, margin):
    values = np.array(differences)
    if values.std() < 1e-6:
        return
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    if min(abs(low - margin), abs(high - margin)) < 1e-9:
        return
    expected = "held" if low > margin else "refuted" if high < margin else "open"
    assert verdict(differences, margin) == expected
    assert verdict(dict(enumerate(-values)), margin, "below") == expected


def test_verdict_edges():
    assert verdict([0.2] * 5, 0.2) == "held"
    assert verdict([0.2] * 5, 0.3) == "refuted"
    assert verdict([0.9]) == "open"
    assert verdict([0.9, math.nan, 0.9]) == "open"
    assert verdict([0.9] * 5, precondition=False) == "void"
    assert set(hark.PAPER_WORDS) == set(hark.WORDS)
    with pytest.raises(ValueError, match="direction"):
        verdict([1, 2], direction="up")


def test_tuning_ledger_counts_trials_and_guards_seeds():
    ledger = TuningLedger(["baseline", "method"])
    for lr, score in ((0.1, 0.5), (0.2, 0.9), (0.3, 0.7)):
        ledger.record("method", {"lr": lr}, seed=0, score=score)
    for lr in (0.1, 0.2):
        ledger.record("baseline", {"lr": lr}, seed=0, score=lr)
    for use in (ledger.check, lambda: ledger.best("method"), lambda: ledger.best("baseline")):
        with pytest.raises(UnequalTuning, match="baseline 2, method 3"):
            use()
    ledger.record("baseline", {"lr": 0.1}, seed=1, score=0.5)
    assert ledger.best("method") == {"lr": 0.2}
    assert ledger.best("baseline") == {"lr": 0.1}, "the mean over seeds counts: 0.3 beats 0.2"
    assert ledger.best("method", highest=False) == {"lr": 0.1}
    with pytest.raises(ValueError, match="seeds 0-99, got 100"):
        ledger.record("method", {}, seed=100, score=1.0)
    with pytest.raises(ValueError, match="no arm 'other'"):
        ledger.record("other", {}, seed=0, score=1.0)
    with pytest.raises(ValueError, match="finite"):
        ledger.record("method", {}, seed=0, score=math.nan)
    with pytest.raises(ValueError, match="two arms"):
        TuningLedger(["alone"])


def test_chain_is_sha256_over_the_previous_hash_and_the_body():
    row = chain(GENESIS, {"b": 2, "a": 1})
    assert row.body == '{"a":1,"b":2}'
    assert row.hash == next_hash(GENESIS, row.body) == hashlib.sha256((GENESIS + "\n" + row.body).encode()).hexdigest()


def test_verify_chain_notices_every_change():
    rows, head = [], GENESIS
    for number in range(5):
        rows.append(chain(head, {"number": number}))
        head = rows[-1].hash
    assert verify_chain(rows) == head
    assert verify_chain([]) == GENESIS
    assert verify_chain(rows[:3]) != head, "a ledger cut short has another head"
    edited = Row('{"number":9}', rows[2].previous, rows[2].hash)
    rehashed = chain(rows[2].previous, {"number": 9})
    for broken, where in (
        ([*rows[:2], edited, *rows[3:]], 3),
        ([*rows[:2], rehashed, *rows[3:]], 4),
        ([*rows[:2], *rows[3:]], 3),
        ([rows[1], rows[0], *rows[2:]], 1),
        (rows[1:], 1),
    ):
        with pytest.raises(TamperedLedger, match=f"row {where} "):
            verify_chain(broken)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_harking_rate_matches_simulation(k, rho):
    assert harking_rate(k, 0.05, rho) == pytest.approx(harking_rate(k, 0.05, rho, draws=100_000), abs=0.006)


def test_harking_rate_limits():
    assert harking_rate(20, 0.05) == pytest.approx(1 - 0.95**20)
    assert harking_rate(20, 0.05, 1.0) == pytest.approx(0.05)
    assert harking_rate(1, 0.01, 0.5) == pytest.approx(0.01, rel=1e-6)
    assert harking_rate(20, 0.05, 0.2) > harking_rate(20, 0.05, 0.6) > harking_rate(5, 0.05, 0.6) > 0.05
    # The largest of two equicorrelated normals, by SciPy's bivariate distribution.
    joint = stats.multivariate_normal([0, 0], [[1, 0.4], [0.4, 1]]).cdf([stats.norm.isf(0.05)] * 2)
    assert harking_rate(2, 0.05, 0.4) == pytest.approx(1 - joint, abs=1e-5)
    for bad in ({"k": 0}, {"k": 2, "alpha": 0.0}, {"k": 2, "rho": 1.1}):
        with pytest.raises(ValueError, match=r"must"):
            harking_rate(**bad)


def test_policies_report_what_they_say():
    rng = np.random.default_rng(3)
    study = rng.standard_normal((4, 3, 6))
    p = stats.ttest_1samp(study, 0, axis=-1, alternative="greater").pvalue

    everything = selective_report(study, "all")
    order = np.argsort(p[:, 0])
    holm = np.minimum(1, np.maximum.accumulate(p[order, 0] * np.arange(4, 0, -1)))
    assert [finding.variant for finding in everything.findings] == [0, 1, 2, 3]
    np.testing.assert_allclose([everything.findings[i].p for i in order], holm)

    (best,) = selective_report(study, "best_variant").findings
    assert best.variant == study[:, 0].mean(-1).argmax()
    assert best.p == pytest.approx(p[best.variant, 0])
    assert best.gain == pytest.approx(study[best.variant, 0].mean())

    (metric,) = selective_report(study, "best_metric").findings
    assert (metric.variant, metric.metric) == (0, p[0].argmin())

    (subset,) = selective_report(study, "best_seed_subset", least_seeds=3).findings
    kept = study[0, 0, list(subset.seeds)]
    assert kept.min() >= np.delete(study[0, 0], list(subset.seeds)).max(initial=-np.inf)
    assert subset.p == pytest.approx(stats.ttest_1samp(kept, 0, alternative="greater").pvalue)
    assert subset.p <= p[0, 0] + 1e-12

    (stopped,) = selective_report(study, "stop_when_significant", least_seeds=2).findings
    looks = [stats.ttest_1samp(study[0, 0, :n], 0, alternative="greater").pvalue for n in range(2, 7)]
    n = next((n for n, look in zip(range(2, 7), looks, strict=True) if look <= 0.05), 6)
    assert stopped.seeds == tuple(range(n))
    assert stopped.p == pytest.approx(looks[n - 2])


def test_bad_habits_find_what_is_not_there_and_the_good_one_does_not():
    rng = np.random.default_rng(0)
    found = dict.fromkeys(POLICIES, 0)
    studies = 300
    for _ in range(studies):
        study = rng.standard_normal((20, 3, 20)) - rng.standard_normal((1, 3, 20))
        for policy in POLICIES:
            found[policy] += bool(selective_report(study, policy, least_seeds=2).announced)
    rate = {policy: count / studies for policy, count in found.items()}
    assert rate["all"] <= 0.08
    assert rate["best_variant"] == pytest.approx(harking_rate(20, 0.05, 0.5), abs=0.09)
    assert rate["best_metric"] == pytest.approx(harking_rate(3, 0.05), abs=0.06)
    assert rate["best_seed_subset"] > 0.8
    assert rate["stop_when_significant"] >= 0.12


def test_real_gains_are_announced_by_the_good_habit():
    study = np.random.default_rng(1).standard_normal((5, 1, 10)) * 0.1
    study[2] += 1.0
    assert [finding.variant for finding in selective_report(study, "all").announced] == [2]


def test_constant_gains_are_decided_exactly():
    assert selective_report(np.ones((1, 5)), "best_variant").announced[0].p == 0
    assert not selective_report(np.zeros((2, 5)), "all").announced


@pytest.mark.parametrize(
    ("results", "options", "match"),
    [
        (np.ones(3), {}, "variants"),
        (np.ones((2, 1)), {}, "2 seeds"),
        (np.full((2, 4), np.nan), {}, "finite"),
        (np.ones((2, 4)), {"least_seeds": 5}, "least_seeds"),
    ],
)
def test_selective_report_refuses(results, options, match):
    with pytest.raises(ValueError, match=match):
        selective_report(results, "all", **options)
    with pytest.raises(ValueError, match="unknown policy"):
        selective_report(np.ones((2, 4)), "luck")
