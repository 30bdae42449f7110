"""Whether predicted probabilities are right as often as they say."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def expected_calibration_error(
    probabilities: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], bins: int = 15
) -> float:
    """sum over bins of (rows in the bin / n) |accuracy - mean confidence|, with the confidence, which is the largest
    probability of a row, in bins of equal width. A perfect model of few rows has more than 0 by chance.

    Guo et al. (2017, arXiv 1706.04599), equation 3.

    Args:
        probabilities: of each class, row by row.
        labels: the true classes.
        bins: at least 1.

    Raises:
        ValueError: shapes that do not fit, no rows, values out of [0, 1], fewer than one bin.

    >>> p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    >>> round(expected_calibration_error(p, torch.tensor([0, 1, 1])), 4)  # (2 |0.5 - 0.9| + |1 - 0.6|) / 3
    0.4
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"need probabilities [n, classes] and labels [n], got {list(probabilities.shape)} and {list(labels.shape)}"
        )
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ValueError("probabilities must be in [0, 1]")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, predicted = probabilities.double().max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, place, (predicted == labels).double() - confidence)
    return float(gaps.abs().sum() / len(labels))
