"""The rule of decision: its words on plain numbers; by simulation, how often it is wrong and how often it decides."""

import math

import numpy as np
import pytest

from palimpsest.evidence.decision import LOOKS, decide, look_at, weigh


def word(numbers, **asked):
    [(found, _)] = decide([weigh(numbers, **asked)], len(numbers))
    return found


def around(mean, spread, seeds=20):
    """Numbers with exactly this mean and standard deviation."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(seeds)
    return mean + spread * (numbers - numbers.mean()) / numbers.std(ddof=1)


@pytest.mark.parametrize(
    ("mean", "found"), [(0.3, "held"), (0.12, "open"), (0.05, "weak"), (0.01, "open"), (-0.1, "refuted")]
)
def test_the_words_of_a_gain_of_at_least_a_tenth(mean, found):
    assert word(around(mean, 0.06), margin=0.1) == found
    room = np.full(20, 2.0)
    assert word(around(mean, 0.06), share=0.05, room=room) == found


def test_not_worse_than_by_a_tenth():
    assert [word(around(mean, 0.06), margin=-0.1) for mean in (0.0, -0.1, -0.2)] == ["held", "open", "refuted"]


def test_not_worse_than_by_a_tenth_of_the_room():
    """A loss that is surely there and surely within the tenth is what was asked, and no refutation."""
    room = np.full(20, 2.0)
    found = [word(around(mean, 0.005), share=-0.1, room=room) for mean in (0.0, -0.12, -0.2, -0.3)]
    assert found == ["held", "held", "open", "refuted"]


def test_a_share_is_of_the_rooms_mean_and_knows_its_spread():
    gains = around(0.1, 0.01)
    assert word(gains, share=0.05, room=around(1.0, 0.01)) == "held"
    assert word(gains, share=0.05, room=around(1.0, 6.0)) == "open"
    assert weigh(gains, share=0.05, room=np.full(20, 0.5)).share == pytest.approx(0.2)


def test_early_looks_decide_only_what_is_plain():
    assert [look_at(n) for n in (0, 4, 5, 9, 10, 19, 20, 100)] == [0, 0, 5, 5, 10, 10, 20, 20]
    numbers = around(0.1, 0.08, 5)
    assert 0.001 < weigh(numbers).p <= 0.05
    assert word(numbers) == "open"
    assert word(around(1.0, 0.1, 5)) == "held"
    assert word(around(1.0, 0.001, 4)) == "open"
    assert sum(LOOKS.values()) == pytest.approx(0.05)


def test_equal_values_decide_only_exact_measures():
    found = weigh([0.25] * 20)
    assert (found.leaning, found.note) == ("open", "equal on every seed: no estimate of a spread")
    assert word([0.25] * 20, exact=True) == "held"
    assert word([0.0] * 20, exact=True) == "open"  # neither a gain nor surely none: it is the margin itself
    assert word([-0.25] * 20, exact=True) == "refuted"


@pytest.mark.parametrize("numbers", [[], [0.1], [0.1, math.nan] * 5, [0.1, math.inf] * 5])
def test_what_cannot_be_weighed_stays_open(numbers):
    assert word(numbers) == "open"


def test_size_does_not_matter():
    for factor in (1e-300, 1e300):
        assert word(factor * around(0.3, 0.06), margin=0.1 * factor) == "held"


def told(rng, gain, margin, sentences=1):
    """The final words of one simulated claim, looked at until all are decided."""
    numbers = gain + rng.standard_normal((sentences, 20))
    final = ["open"] * sentences
    for seeds in LOOKS:
        found = decide([weigh(row[:seeds], margin=margin) for row in numbers], seeds)
        final = [word if before == "open" else before for before, (word, _) in zip(final, found, strict=True)]
    return final


@pytest.mark.slow
@pytest.mark.parametrize("sentences", [1, 4])
def test_where_nothing_is_gained_few_claims_say_otherwise(sentences):
    rng = np.random.default_rng(1)
    wrong = np.mean([any(w in ("held", "weak") for w in told(rng, 0.0, 0.5, sentences)) for _ in range(200)])
    assert wrong <= 0.05
    at_the_margin = np.mean(["held" in told(rng, 0.5, 0.5, sentences) for _ in range(200)])
    assert at_the_margin <= 0.05


@pytest.mark.slow
def test_a_gain_that_is_there_is_found():
    """20 seeds find a gain of 0.9 standard deviations above the margin, and a small one is called weak."""
    rng = np.random.default_rng(2)
    assert np.mean([told(rng, 1.2, 0.5) == ["held"] for _ in range(200)]) >= 0.75
    assert np.mean([told(rng, 1.0, 2.0) == ["weak"] for _ in range(200)]) >= 0.75
    assert np.mean([told(rng, -0.8, 0.5) == ["refuted"] for _ in range(200)]) >= 0.75
