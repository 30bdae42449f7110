"""One word for an interval held against a margin (Gencoglu et al. 2019, arXiv 1904.07633)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import stats

Word = Literal["held", "weak", "refuted", "open", "void"]
WORDS: tuple[Word, ...] = ("held", "weak", "refuted", "open", "void")
PAPER_WORDS: dict[Word, str] = {
    "held": "supported",
    "weak": "supported, but smaller than asked",
    "refuted": "refuted",
    "open": "inconclusive",
    "void": "says nothing",
}


def decide(low: float, high: float, least: float, most: float) -> Word:
    """Held where the interval [low, high] lies inside [least, most], refuted where the two are disjoint, else open.

    >>> decide(0.2, 0.4, 0.1, math.inf), decide(-0.2, 0.05, 0.1, math.inf), decide(0.0, 0.2, 0.1, math.inf)
    ('held', 'refuted', 'open')
    """
    if math.isnan(low) or math.isnan(high):
        return "open"
    if least <= low and high <= most:
        return "held"
    return "refuted" if high < least or low > most else "open"


def verdict(
    differences: Sequence[float] | Mapping[int, float],
    margin: float = 0.0,
    direction: Literal["above", "below"] = "above",
    *,
    alpha: float = 0.05,
    precondition: bool = True,
) -> Word:
    """One of the four words, from the differences (method - baseline) paired by seed.

    The (1 - alpha) t-interval of the mean difference is held against the margin: at least `margin` (above) or at most
    `-margin` (below). `PAPER_WORDS` translates to supported, refuted, inconclusive, failed precondition.

    >>> verdict([0.31, 0.28, 0.33, 0.30, 0.29], 0.1), verdict([0.31, -0.2, 0.1, 0.4, 0.0], 0.1)
    ('held', 'open')
    """
    values = np.array(list(differences.values() if isinstance(differences, Mapping) else differences), float)
    if direction not in ("above", "below"):
        raise ValueError(f"direction must be above or below, got {direction!r}")
    if not precondition:
        return "void"
    if values.size < 2 or not np.isfinite(values).all():
        return "open"
    half = stats.t.ppf(1 - alpha / 2, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size)
    least, most = (margin, math.inf) if direction == "above" else (-math.inf, -margin)
    return decide(values.mean() - half, values.mean() + half, least, most)
