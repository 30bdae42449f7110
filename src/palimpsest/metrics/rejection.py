"""What is gained by not answering: curves over the share of rows that are answered, and what a choice of it costs.

Rows are answered from the highest score down. Rows of one score are answered together: between two scores a curve is
the straight line that answering a random part of them gives.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def risk_coverage(
    scores: Float[Tensor, " n"], errors: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """(coverage, risk): the share of rows that is answered and the mean error of these, for each distinct score.

    Args:
        scores: high where the answer is trusted.
        errors: of each row; 0 and 1, or any loss.

    Raises:
        ValueError: no row, not as many scores as errors, or a score that is not a number.

    >>> coverage, risk = risk_coverage(torch.tensor([3.0, 1.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> coverage.tolist(), risk.tolist()
    ([0.25, 0.5, 1.0], [0.0, 0.5, 0.5])
    """
    scores, errors = _checked(scores, errors)
    order = scores.argsort(descending=True, stable=True)
    last = torch.cat([scores[order].diff() != 0, torch.ones(1, dtype=torch.bool, device=scores.device)])
    answered = torch.arange(1, len(scores) + 1, device=scores.device)[last]
    return answered / len(scores), errors[order].cumsum(0)[last] / answered


def risk_coverage_area(scores: Float[Tensor, " n"], errors: Float[Tensor, " n"]) -> float:
    """The mean over k = 1..n of the risk of the k rows with the highest scores (Geifman et al. 2018), where rows of one
    score come in random order: the expected value of it.

    >>> risk_coverage_area(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]))  # (0 + 1/2) / 2
    0.25
    """
    scores, errors = _checked(scores, errors)
    _, place, size = torch.unique(-scores, return_inverse=True, return_counts=True)  # the highest first
    means = torch.zeros(len(size), dtype=errors.dtype, device=errors.device).index_add_(0, place, errors) / size
    risk = means.repeat_interleave(size).cumsum(0) / torch.arange(1, len(scores) + 1, device=scores.device)
    return float(risk.mean())


def excess_risk_coverage_area(scores: Float[Tensor, " n"], errors: Float[Tensor, " n"]) -> float:
    """The area above that of the ideal order, in which the errors come last: 0 for a perfect rejector.

    >>> excess_risk_coverage_area(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))  # 3/4 - 1/4
    0.5
    """
    return risk_coverage_area(scores, errors) - risk_coverage_area(-errors.double(), errors)


def accuracy_rejection_area(scores: Float[Tensor, " n"], right: Bool[Tensor, " n"]) -> float:
    """The area under the accuracy of the answered rows over the share that is rejected, 1 less that of the risk.

    >>> accuracy_rejection_area(torch.tensor([2.0, 1.0]), torch.tensor([True, False]))
    0.75
    """
    return 1 - risk_coverage_area(scores, (~right.bool()).double())


def rejection_scores(rejected: Bool[Tensor, " n"], right: Bool[Tensor, " n"], cost: float = 0.5) -> dict[str, float]:
    """What a choice of rejected rows is worth (Condessa et al. 2017, arXiv 1504.02763).

    Args:
        rejected: the rows that are not answered.
        right: the rows whose answer is right, or would be.
        cost: of a rejected row, in units of an error.

    Returns:
        "accuracy" of the answered rows (nan where none is); "classification quality", the share of rows that are
        answered rightly, or rejected and wrong; "rejection quality", the odds of wrong to right among the rejected
        over those among all rows (nan where none is rejected, or none wrong; inf where no right one is rejected);
        "cost", errors and rejections a row; "coverage".

    Raises:
        ValueError: no row, or not as many of the one as of the other.

    >>> scores = rejection_scores(torch.tensor([True, False, True, False]), torch.tensor([False, True, True, True]))
    >>> scores["accuracy"], scores["classification quality"], scores["rejection quality"], scores["cost"]
    (1.0, 0.75, 3.0, 0.25)
    """
    if rejected.shape != right.shape or rejected.ndim != 1 or not len(right):
        raise ValueError(f"rejected and right must be as many, at least one, got {rejected.shape} and {right.shape}")
    rejected, right = rejected.bool(), right.bool()
    n, kept = len(right), int((~rejected).sum())
    kept_right, gone_right = int((right & ~rejected).sum()), int((right & rejected).sum())
    gone_wrong, wrong = n - kept - gone_right, n - int(right.sum())
    quality = float("nan")
    if wrong and n > kept:
        quality = float("inf") if not gone_right else gone_wrong / gone_right / (wrong / max(n - wrong, 1))
    return {
        "accuracy": kept_right / kept if kept else float("nan"),
        "classification quality": (kept_right + gone_wrong) / n,
        "rejection quality": quality,
        "cost": (kept - kept_right + cost * (n - kept)) / n,
        "coverage": kept / n,
    }


def _checked(scores: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    if scores.shape != errors.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(
            f"scores and errors must be as many, at least one, got {list(scores.shape)} and {list(errors.shape)}"
        )
    if bool(scores.isnan().any()):
        raise ValueError("scores must be numbers, got NaN")
    return scores.double(), errors.double()
