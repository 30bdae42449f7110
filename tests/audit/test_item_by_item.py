"""Two models item by item: the numbers of the tests, what is said where nothing differs, and conditions in words."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from palimpsest.audit.fail_conditions import Value, parse
from palimpsest.audit.item_by_item import change, smallest_seen
from palimpsest.errors import UserError


def flipped(n, gained, lost):
    """n items of which some were gained and some lost; the others are half right, half wrong."""
    before = np.r_[np.zeros(gained), np.ones(lost), np.arange(n - gained - lost) % 2]
    after = np.r_[np.ones(gained), np.zeros(lost), np.arange(n - gained - lost) % 2]
    return before, after


def test_right_and_wrong_items_meet_mcnemar():
    found = change("accuracy", *flipped(200, gained=4, lost=19))
    assert (found.better, found.worse, found.test) == (4, 19, "McNemar")
    assert found.difference == pytest.approx(-15 / 200)
    assert found.p == pytest.approx(mcnemar([[0, 4], [19, 0]], exact=True).pvalue)
    assert found.low < found.difference < found.high < 0
    assert found.word == "worse"
    assert change("errors", *flipped(200, 4, 19), higher_is_better=False).word == "better"


def test_numbers_meet_the_paired_t_test_and_two_one_sided_ones():
    generator = np.random.default_rng(1)
    before = generator.normal(size=400)
    after = before + generator.normal(0.02, 0.1, size=400)
    found = change("score", before, after, margin=0.05)
    assert found.p == pytest.approx(stats.ttest_rel(after, before).pvalue, rel=1e-6)
    d = after - before
    t = [(d.mean() + 0.05) / stats.sem(d), (d.mean() - 0.05) / stats.sem(d)]
    assert found.p_equal == pytest.approx(max(stats.t.sf(t[0], 399), stats.t.cdf(t[1], 399)))
    assert found.word == "better, within the margin"
    half = stats.t.interval(0.95, 399, d.mean(), stats.sem(d))
    assert (found.low, found.high) == pytest.approx(half, abs=0.002)


def test_where_no_item_differs_little_is_known():
    same = np.ones(50)
    found = change("accuracy", same, same, margin=0.05)
    assert found.p == 1
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 50)) == -found.low
    assert found.p_equal == pytest.approx(0.95**50)
    assert found.word == "open"
    assert change("accuracy", np.ones(300), np.ones(300), margin=0.05).word == "equal"
    constant = change("loss", same + 1, same + 1.5, margin=0.1)
    assert constant.low is constant.high is constant.p is constant.seen is constant.p_equal is None


def test_the_smallest_difference_is_found_in_80_percent_of_comparisons():
    generator = np.random.default_rng(2)
    size = smallest_seen(generator.normal(0, 1, size=100), binary=False)
    assert size == pytest.approx(2.83 / 10, rel=0.15)  # (1.96 + 0.84) / sqrt(n) standard deviations
    found = [stats.ttest_1samp(generator.normal(size, 1, size=100), 0).pvalue < 0.05 for _ in range(1000)]
    assert 0.74 < np.mean(found) < 0.88
    assert smallest_seen(np.zeros(6), binary=True) is None
    flips = smallest_seen(np.zeros(500), binary=True)
    lost = generator.binomial(500, flips, size=4000)
    assert np.mean(2 * 0.5 ** lost.astype(float) < 0.05) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("before", "after", "margin", "words"),
    [
        ([], [], None, "same items"),
        ([1], [1, 0], None, "same items"),
        ([1.0], [np.nan], None, "finite"),
        ([1], [1], 0, "margin"),
    ],
)
def test_bad_values(before, after, margin, words):
    with pytest.raises(ValueError, match=words):
        change("m", before, after, margin=margin)


ACCURACY = Value(0.80, 0.82, -0.035, -0.005)
LOSS = Value(2.2, 2.0, 0.1, 0.3, higher_is_better=False)


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("accuracy drops by 0.02", ACCURACY, True),
        ("accuracy drops by 0.021", ACCURACY, False),
        ("possibly accuracy drops by 0.03", ACCURACY, True),
        ("possibly accuracy drops by 0.04", ACCURACY, False),
        ("surely accuracy drops by 0.01", ACCURACY, False),
        ("surely accuracy drops", ACCURACY, True),
        ("accuracy rises", ACCURACY, False),
        ("accuracy drops by 2%", ACCURACY, True),
        ("accuracy drops by 3%", ACCURACY, False),
        ("accuracy worsens by .02", ACCURACY, True),
        ("accuracy improves", ACCURACY, False),
        ("accuracy below 0.81", ACCURACY, True),
        ("surely accuracy below 0.81", ACCURACY, False),
        ("surely accuracy below 0.816", ACCURACY, True),
        ("text loss rises by 10%", LOSS, True),
        ("text loss worsens by 0.2", LOSS, True),
        ("surely text loss worsens by 0.2", LOSS, False),
        ("text loss improves", LOSS, False),
        ("drift above 0.1", Value(0.2, None, 0.05, 0.3), True),
        ("surely drift above 0.1", Value(0.2, None, 0.05, 0.3), False),
        ("accuracy drops", Value(0.5, 0.5, -0.1, 0.1), False),
    ],
)
def test_conditions(text, value, met):
    assert parse(text).met(value) is met


@pytest.mark.parametrize(
    "text", ["", "accuracy", "drops by 0.1", "accuracy drops by", "accuracy drops 0.1", "a drops by x"]
)
def test_conditions_that_are_none(text):
    with pytest.raises(UserError, match="is not understood"):
        parse(text)


def test_conditions_that_cannot_be_decided():
    with pytest.raises(UserError, match="ask above or below"):
        parse("drift rises").met(Value(0.1))
    with pytest.raises(UserError, match="no interval"):
        parse("surely loss drops").met(Value(1.0, 2.0))
