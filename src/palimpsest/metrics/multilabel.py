"""Measures of what is said of rows with several labels each."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from sklearn.metrics import average_precision_score
from torch import Tensor


def average_precisions(scores: Float[Tensor, "rows classes"], targets: Tensor) -> Float[Tensor, " classes"]:
    """The average precision of each class, ranked by its scores; nan where a class has no positive.

    Raises:
        ValueError: shapes that differ, no two dimensions, or scores that are no numbers.

    >>> average_precisions(torch.tensor([[3.0, 0.0], [2.0, 1.0], [1.0, 2.0]]), torch.tensor([[0, 0], [1, 0], [0, 0]]))
    tensor([0.5000,    nan], dtype=torch.float64)
    """
    scores, targets = _checked(scores, targets)
    each = [
        float(average_precision_score(y.numpy(), score.numpy())) if y.any() else torch.nan
        for score, y in zip(scores.T, targets.T, strict=True)
    ]
    return torch.tensor(each, dtype=torch.float64)


def mean_average_precision(scores: Float[Tensor, "rows classes"], targets: Tensor) -> float:
    """The mean over the classes that have a positive of their average precision; nan where none has.

    Raises:
        ValueError: as for `average_precisions`.

    >>> mean_average_precision(torch.tensor([[3.0, 0.0], [2.0, 1.0]]), torch.tensor([[0, 0], [1, 0]]))
    0.5
    """
    return average_precisions(scores, targets).nanmean().item()


def f1_of_labels(
    scores: Float[Tensor, "rows classes"],
    targets: Tensor,
    threshold: float | Float[Tensor, " classes"] = 0.5,
    average: Literal["micro", "macro", "none"] = "macro",
) -> Float[Tensor, "..."]:
    """2 TP / (2 TP + FP + FN) of the decisions scores > threshold; 0 where a class has only wrong ones, 1 where it has
    neither positives nor decisions for it.

    Args:
        threshold: one for all classes or one each; of logits 0 where it is 0.5 of probabilities.
        average: "micro" counts all classes' decisions together, "macro" is the mean over classes, "none" gives each.

    Raises:
        ValueError: shapes that differ, thresholds that do not fit, or an unknown average.

    >>> p, y = torch.tensor([[0.9, 0.8], [0.4, 0.7]]), torch.tensor([[1, 0], [1, 1]])
    >>> f1_of_labels(p, y, average="none"), f1_of_labels(p, y, average="micro")
    (tensor([0.6667, 0.6667], dtype=torch.float64), tensor(0.6667, dtype=torch.float64))
    """
    scores, targets = _checked(scores, targets)
    threshold = torch.as_tensor(threshold, dtype=scores.dtype)
    if threshold.shape not in ((), scores.shape[1:]) or average not in ("micro", "macro", "none"):
        raise ValueError(
            f"need a threshold or [{scores.shape[1]}] of them, got {list(threshold.shape)}, and an average that is "
            f"micro, macro or none, got {average!r}"
        )
    said = scores > threshold
    right, wrong = (said & targets).sum(0).double(), (said ^ targets).sum(0).double()
    if average == "micro":
        right, wrong = right.sum(), wrong.sum()
    f1 = torch.where(right + wrong > 0, 2 * right / (2 * right + wrong), 1.0)
    return f1.mean() if average == "macro" else f1


def best_thresholds(scores: Float[Tensor, "rows classes"], targets: Tensor) -> Float[Tensor, " classes"]:
    """The threshold of each class at which `f1_of_labels` is largest on these rows, halfway between two scores; of
    equals the highest. Choose it on rows that nothing else is measured on.

    Raises:
        ValueError: as for `average_precisions`.

    >>> best_thresholds(torch.tensor([[0.9], [0.4], [0.2]]), torch.tensor([[1], [1], [0]]))
    tensor([0.3000], dtype=torch.float64)
    """
    scores, targets = _checked(scores, targets)
    ordered, order = scores.sort(dim=0, descending=True)
    right = targets.gather(0, order).double().cumsum(0)
    said = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]
    f1 = 2 * right / (said + right[-1])
    below = torch.cat([ordered[1:], ordered[-1:] - 1])
    f1 = f1.masked_fill(below == ordered, -1)  # no threshold parts equal scores
    best = f1.argmax(0, keepdim=True)
    return ((ordered.gather(0, best) + below.gather(0, best)) / 2)[0]


def _checked(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if scores.ndim != 2 or targets.shape != scores.shape or not len(scores):
        raise ValueError(f"need scores and targets [rows, classes], got {list(scores.shape)} and {list(targets.shape)}")
    if not bool(scores.isfinite().all()):
        raise ValueError("scores must be finite")
    return scores.detach().cpu().double(), targets.cpu() > 0.5
