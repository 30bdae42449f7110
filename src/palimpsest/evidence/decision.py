"""How a sentence about two arms is decided: three looks, five words, and a margin that may be a share of the room.

The numbers of a sentence are differences paired by seed, oriented so that more is better for the method:

    gain_s    method_s - baseline_s
    beyond_s  gain_s - margin, or gain_s - share * (ceiling_s - baseline_s): what is gained above what was asked

    held      the whole interval of `beyond` lies above 0: the gain is surely what was asked
    weak      that of `gain` lies above 0 and that of `beyond` below: a gain, surely smaller than asked
    refuted   that of `gain` lies below 0, or at it: surely no gain
    open      none of these; and the claim makes it `void` where a precondition does not hold

The seeds are looked at when there are 5, 10 and 20 of them. At the first two looks a sentence is decided only where
its p, after Holm's correction over the claim's sentences, is at most 0.001; at the last where it is at most 0.048. The
three levels sum to 5%, so that whatever the looks do to each other, at most 5% of the claims in which nothing is gained
get a word that says otherwise. p is twice the one-sided p of a word's t-tests, as for a 95% interval.

Values that are equal on every seed are no estimate of a spread: they decide nothing, but where the measure is exact (a
count of parameters, say).

Sources: O'Brien and Fleming 1979 and Haybittle 1971 for stopping early at a level so small that the last look keeps
nearly all of its own; Holm 1979; Schuirmann 1987 for equivalence by two one-sided tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from palimpsest.audit.significance import holm

Decision = Literal["held", "weak", "refuted", "open"]
LOOKS: dict[int, float] = {5: 0.001, 10: 0.001, 20: 0.048}
"""seeds -> the level at which that look decides"""


@dataclass(frozen=True)
class Evidence:
    """What the seeds so far say about one sentence, before Holm's correction.

    Attributes:
        leaning: the word that the numbers lean to.
        p: of that word.
        gain, interval: the mean gain and its 95% t-interval; NaN for one seed.
        share: the mean gain over the mean room; NaN where no room is given.
        note: why nothing can be decided.
    """

    leaning: Decision
    p: float
    gain: float
    interval: tuple[float, float]
    share: float = math.nan
    note: str = ""


def look_at(seeds: int) -> int:
    """The last look that this many seeds complete; 0 before the first.

    >>> look_at(4), look_at(5), look_at(13), look_at(20), look_at(40)
    (0, 5, 10, 20, 20)
    """
    return max((look for look in LOOKS if look <= seeds), default=0)


def weigh(
    gain: Sequence[float],
    *,
    margin: float = 0.0,
    share: float = 0.0,
    room: Sequence[float] | None = None,
    exact: bool = False,
) -> Evidence:
    """The evidence of the seeds' gains for one of the words.

    Args:
        gain: by how much the method is better than the baseline, seed by seed.
        margin: the gain that was asked for, in the measure's own unit. A negative one says: not worse than by so much.
        share, room: or as a share of the room, ceiling minus baseline, of every seed; a negative one likewise.
        exact: equal values decide, because the measure has no spread to estimate.

    >>> weigh([0.30, 0.31, 0.29, 0.33, 0.30], margin=0.1).leaning
    'held'
    >>> weigh([0.30, 0.31, 0.29, 0.33, 0.30], share=0.5, room=[1.0, 0.9, 1.0, 1.1, 1.0]).leaning
    'weak'
    """
    gains = np.asarray(gain, float)
    asked = np.full_like(gains, margin) if room is None else share * np.asarray(room, float)
    beyond = gains - asked
    mean = float(gains.mean()) if len(gains) else math.nan
    of_room = math.nan if room is None or not np.mean(room) else mean / float(np.mean(room))
    if not np.isfinite(gains).all() or not np.isfinite(asked).all():
        return Evidence("open", 1.0, mean, (math.nan, math.nan), of_room, "not finite on some seeds")
    if len(gains) < 2:
        return Evidence("open", 1.0, mean, (math.nan, math.nan), of_room, "one seed decides nothing")
    if _constant(gains) and not exact:
        return Evidence("open", 1.0, mean, (mean, mean), of_room, "equal on every seed: no estimate of a spread")
    least = np.minimum(0.0, asked)  # where less than nothing is asked, a loss within it is no refutation
    above = {"held": _above(beyond), "gain": _above(gains - least)}
    below = {"weak": _above(-beyond), "refuted": _above(least - gains)}
    words: dict[Decision, float] = {"held": above["held"], "refuted": below["refuted"]}
    if (least == 0).all() and (asked > 0).any():
        words["weak"] = max(above["gain"], below["weak"])
    leaning = min(words, key=words.__getitem__)
    return Evidence(leaning, min(1.0, 2 * words[leaning]), mean, _interval(gains), of_room)


def weigh_within(difference: Sequence[float], margin: Sequence[float], *, exact: bool = False) -> Evidence:
    """The evidence that two arms differ by no more than the margin: two one-sided tests (TOST), or that they differ by
    more in one direction.

    Args:
        difference: method minus baseline, seed by seed.
        margin: at least 0, seed by seed: the same everywhere, or a share of every seed's room.

    >>> weigh_within([0.01, -0.01, 0.02, 0.0, -0.02], [0.1] * 5).leaning
    'held'
    """
    differences, margins = np.asarray(difference, float), np.asarray(margin, float)
    mean = float(differences.mean()) if len(differences) else math.nan
    if not (np.isfinite(differences).all() and np.isfinite(margins).all()):
        return Evidence("open", 1.0, mean, (math.nan, math.nan), note="not finite on some seeds")
    if len(differences) < 2:
        return Evidence("open", 1.0, mean, (math.nan, math.nan), note="one seed decides nothing")
    if _constant(differences) and not exact:
        return Evidence("open", 1.0, mean, (mean, mean), note="equal on every seed: no estimate of a spread")
    inside = max(_above(differences + margins), _above(margins - differences))
    outside = min(_above(differences - margins), _above(-margins - differences))
    leaning: Decision = "held" if inside <= outside else "refuted"
    return Evidence(leaning, min(1.0, 2 * min(inside, outside)), mean, _interval(differences))


def decide(sentences: Sequence[Evidence], seeds: int) -> list[tuple[Decision, float]]:
    """Each sentence's word at the present look, and its p after Holm's correction over all of them.

    >>> strong, none = weigh([0.30, 0.31, 0.29, 0.33, 0.30], margin=0.1), weigh([0.1, -0.1, 0.2, -0.3, 0.1])
    >>> [word for word, p in decide([strong, none], seeds=5)]
    ['held', 'open']
    """
    if not sentences:
        return []
    adjusted = [float(p) for p in holm([each.p for each in sentences])]
    level = LOOKS.get(look_at(seeds), 0.0)
    return [(each.leaning if p <= level else "open", p) for each, p in zip(sentences, adjusted, strict=True)]


def detectable(spread: float, seeds: int, *, power: float = 0.8) -> float:
    """The true gain above what was asked that a look finds *held* with this probability.

    Args:
        spread: the standard deviation of the gains over seeds.
        seeds: of the look, 5, 10 or 20.

    >>> [round(detectable(1.0, seeds), 2) for seeds in (5, 10, 20)]
    [4.77, 1.87, 0.67]
    """
    if not spread > 0:
        return 0.0 if spread == 0 else math.nan
    freedom, needed = seeds - 1, float(stats.t.isf(LOOKS[seeds] / 2, seeds - 1))
    shift = optimize.brentq(lambda shift: stats.nct.sf(needed, freedom, shift) - power, 0.0, 100.0)
    return spread * float(shift) / math.sqrt(seeds)


def _constant(numbers: np.ndarray) -> bool:
    return math.isclose(np.ptp(numbers), 0, abs_tol=1e-12 * np.abs(numbers).max())


def _above(numbers: np.ndarray) -> float:
    """The one-sided p of "the mean is not above 0"; of equal numbers 0 or 1."""
    scale = np.abs(numbers).max()
    if scale == 0:
        return 1.0
    if np.ptp(numbers) <= 1e-12 * scale:
        return 0.0 if numbers[0] > 0 else 1.0
    return float(stats.ttest_1samp(numbers / scale, 0.0, alternative="greater").pvalue)


def _interval(numbers: np.ndarray) -> tuple[float, float]:
    if np.ptp(numbers) == 0:
        return float(numbers[0]), float(numbers[0])
    scale = float(np.abs(numbers).max())
    found = stats.ttest_1samp(numbers / scale, 0.0).confidence_interval(0.95)
    return scale * float(found.low), scale * float(found.high)
