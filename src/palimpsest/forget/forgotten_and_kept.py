"""What a model has forgotten and what it has kept, as shares of what it knew before.

    forgotten = 1 - mean of after / before over {probability, ROUGE-L recall, extraction strength} on the forget rows
    kept      = mean of after / before over {probability, ROUGE-L recall} on the retain rows, and of before / after of
                the perplexity of general text, where there is some
    balance   = harmonic mean of forgotten and kept

where each ratio is of means over rows and counts as 1 at most; a measure below 0.01 before has nothing to lose and is
left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.forget.tofu_measures import RowScores

FORGOTTEN_BY = ("probability", "rouge", "extraction_strength")
KEPT_BY = ("probability", "rouge")
LEAST = 0.01  # what is below it before has nothing to lose


def mean(scores: RowScores, name: str) -> float:
    """The mean over rows of one of the columns; NaN entries (rows without wrong answers) are left out."""
    values = np.asarray(getattr(scores, name))
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def measurable(before: RowScores, names: Sequence[str]) -> list[str]:
    """The named columns that had something to lose: those with a mean of at least 0.01."""
    return [name for name in names if mean(before, name) >= LEAST]


def left(before: RowScores, after: RowScores, names: Sequence[str], *more: float) -> float:
    """The mean of after / before over the named columns that had something to lose, and of `more`, each at most 1; NaN
    where there is none."""
    ratios = [mean(after, name) / mean(before, name) for name in measurable(before, names)]
    return float(np.mean(np.minimum([*ratios, *more], 1.0))) if ratios or more else float("nan")


def share_kept(before: RowScores | None, after: RowScores | None, before_text: float, after_text: float) -> float:
    """The share of the retain rows and of general text that is left, by their scores and perplexities before and after;
    None and NaN stand for what there is not, and NaN is returned where there is neither."""
    spoken = [] if np.isnan(before_text) else [before_text / after_text]
    return left(before, after, KEPT_BY if before is not None else (), *spoken)


def balance(forgotten: float, kept: float) -> float:
    """The harmonic mean of both; 0 where either is, NaN where either cannot be had.

    >>> balance(1.0, 0.5), balance(1.0, 0.0)
    (0.6666666666666666, 0.0)
    """
    if np.isnan(forgotten) or np.isnan(kept):
        return float("nan")
    return 2 * forgotten * kept / (forgotten + kept) if forgotten > 0 and kept > 0 else 0.0
