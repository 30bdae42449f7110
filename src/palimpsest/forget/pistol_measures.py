"""How far down the right tokens have gone among all, and the choice of a learning rate that the protocol asks for (Qiu
et al. 2024, arXiv 2406.16810)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int


def mean_reciprocal_rank(ranks: Sequence[Int[np.ndarray, " tokens"]]) -> float:
    """The mean over answers of the mean of 1 / rank of their tokens; 1 is the first rank.

    >>> import numpy as np
    >>> mean_reciprocal_rank([np.array([1, 2]), np.array([4])])
    0.5
    """
    return float(np.mean([np.mean(1 / row) for row in ranks if len(row)]))


def top_hit_ratio(ranks: Sequence[Int[np.ndarray, " tokens"]], cutoff: int = 100) -> float:
    """The mean over answers of the share of their tokens at rank `cutoff` or better (100 in the paper, whose models
    have vocabularies of tens of thousands; take less for a small one).

    >>> import numpy as np
    >>> top_hit_ratio([np.array([1, 200]), np.array([100])])
    0.75
    """
    return float(np.mean([np.mean(row <= cutoff) for row in ranks if len(row)]))


def choose_learning_rate(
    deviation: Callable[[float], float], rates: Sequence[float]
) -> tuple[float, dict[float, float]]:
    """The rate with the lowest deviation on the validation edge, and the deviation at each: the protocol's rule.

    Args:
        deviation: forgets the validation edge at a rate, and scores it.

    >>> choose_learning_rate(lambda rate: abs(rate - 2e-4), [1e-4, 4e-4])[0]
    0.0001
    """
    tried = {rate: deviation(rate) for rate in rates}
    return min(tried, key=tried.__getitem__), tried
