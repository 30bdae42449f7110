"""Two models on the same items: what changed from the one to the other, how surely, and what could not have been seen.

Every measure is one number an item. The difference of an item is its value after minus its value before; the interval
and the test are those of these differences, never of two separate means, whose variances the pairing takes out.

References: McNemar 1947; Schuirmann 1987 (two one-sided tests); Yan et al. 2021, arXiv 2011.09161 (negative flips).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from palimpsest.audit.significance import bootstrap_interval, mcnemar, paired_t

ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Change:
    """How one measure changed between two models, over items.

    Attributes:
        measure: its name.
        items: how many items have it of both models.
        before, after: the means.
        difference: after minus before.
        low, high: of the 95% interval of the difference: percentile bootstrap over items. Where no item differs, what
            a measure of 0 and 1 allows by the exact binomial; None otherwise, for nothing is known of the spread.
        test: McNemar, or the paired t test.
        p: two-sided; None where one item, or no spread, allows no test.
        seen: the smallest difference that 80% of such comparisons would find at the 5% level, by the spread of these
            items; None where nothing is known of it.
        margin: asked for, within which the two count as equal; None where it was not.
        p_equal: of the two one-sided tests that the difference is within the margin.
        higher_is_better: whether a rise is a gain.
        better, worse: items whose value is better, and worse, after; of a measure of 0 and 1 the positive and the
            negative flips.
        binary: whether all values are 0 or 1.
    """

    measure: str
    items: int
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None
    test: str
    p: float | None
    seen: float | None
    margin: float | None
    p_equal: float | None
    higher_is_better: bool
    better: int
    worse: int
    binary: bool

    @property
    def word(self) -> str:
        """better, worse, equal (within the margin), or open."""
        equal = self.p_equal is not None and self.p_equal < ALPHA
        if (self.low is not None and self.low > 0) or (self.high is not None and self.high < 0):
            gain = (self.difference > 0) == self.higher_is_better
            return ("better" if gain else "worse") + (", within the margin" if equal else "")
        return "equal" if equal else "open"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"word": self.word}


def change(
    measure: str,
    before: ArrayLike,
    after: ArrayLike,
    *,
    higher_is_better: bool = True,
    margin: float | None = None,
    seed: int = 0,
) -> Change:
    """What became of a measure.

    Args:
        before, after: a value an item, the same items in the same order.
        margin: within which the two count as equal, in the measure's own units.

    >>> found = change("accuracy", [1, 1, 1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1, 0, 1])
    >>> found.difference, found.better, found.worse, found.test, found.p
    (0.0, 1, 1, 'McNemar', 1.0)

    Raises:
        ValueError: no items, rows that do not pair, a value that is not finite, or a margin that is not above 0.
    """
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"{measure}: the same items are needed before and after, got shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{measure}: values must be finite")
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"{measure}: a margin must be above 0, got {margin}")
    differences = b - a
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    low, high = interval(differences, binary, seed)
    p = None
    if binary:
        p = mcnemar(b, a).p
    elif len(a) > 1 and low is not None:
        p = paired_t(b, a).p
    return Change(
        measure=measure,
        items=len(a),
        before=float(a.mean()),
        after=float(b.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        test="McNemar" if binary else "paired t",
        p=p,
        seen=smallest_seen(differences, binary),
        margin=margin,
        p_equal=None if margin is None else equal_within(a, b, margin, binary),
        higher_is_better=higher_is_better,
        better=int((differences > 0).sum() if higher_is_better else (differences < 0).sum()),
        worse=int((differences < 0).sum() if higher_is_better else (differences > 0).sum()),
        binary=binary,
    )


def interval(
    differences: Float[np.ndarray, " items"], binary: bool, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """The 95% interval of the mean difference.

    A bootstrap of equal differences has width 0, which is no knowledge: where no item of 0 and 1 differs, the share of
    all items that do is below 1 - 0.025^(1/n), by the exact binomial.

    >>> low, high = interval(np.zeros(100), binary=True)
    >>> round(low, 4), round(high, 4)
    (-0.0362, 0.0362)
    """
    if not _constant(differences):
        return bootstrap_interval(differences, seed=seed)
    if not binary:
        return None, None
    most = 1 - (ALPHA / 2) ** (1 / len(differences))
    value = float(differences[0])
    return (-most, most) if value == 0 else (max(-1.0, value - most), min(1.0, value + most))


def equal_within(
    before: Float[np.ndarray, " items"], after: Float[np.ndarray, " items"], margin: float, binary: bool
) -> float | None:
    """p of two one-sided paired t tests that the mean difference is within +-margin; where no item of 0 and 1
    differs, (1 - margin)^n, the chance of that if as many differed as the margin; None where nothing is known of the
    spread.

    >>> round(equal_within(np.ones(300), np.ones(300), 0.01, binary=True), 4)
    0.049
    """
    if not _constant(after - before):
        return float(ttost_paired(after, before, -margin, margin)[0])
    if binary and (after == before).all():
        return float(max(0.0, 1 - margin) ** len(before))
    return None


def smallest_seen(differences: Float[np.ndarray, " items"], binary: bool) -> float | None:
    """The smallest true difference that 80% of comparisons on as many items would find at 5%, two-sided.

    By the power of the paired t test at the spread of these differences; of a measure of 0 and 1 not below what
    McNemar's exact test needs where all flips go one way, six of them.

    >>> round(smallest_seen(np.zeros(100), binary=True), 3), round(smallest_seen(np.zeros(1000), binary=True), 4)
    (0.078, 0.0079)
    """
    n = len(differences)
    spread = None if _constant(differences) or n < 3 else float(differences.std(ddof=1))
    found = None
    if spread is not None:
        size = TTestPower().solve_power(effect_size=None, nobs=n, alpha=ALPHA, power=POWER, alternative="two-sided")
        found = spread * float(np.ravel(size)[0])
    if not binary:
        return found
    needed = next(k for k in range(1, 64) if 2 * 0.5**k < ALPHA)
    if n <= needed:
        return None
    exact = optimize.brentq(lambda share: stats.binom.sf(needed - 1, n, share) - POWER, 1e-12, 1 - 1e-12)
    return max(float(exact), found or 0.0)


def _constant(values: Float[np.ndarray, " items"]) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))
