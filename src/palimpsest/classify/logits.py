"""What the losses of one label a row ask of logits and labels."""

from __future__ import annotations

import torch
from torch import Tensor


def checked(logits: Tensor, labels: Tensor, classes: int = 2) -> Tensor:
    """The logits [batch, classes] in float32 at least.

    Raises:
        ValueError: shapes that do not fit, fewer classes than are needed, no row, or a label that is no class.

    >>> checked(torch.zeros(1, 3), torch.tensor([3]))
    Traceback (most recent call last):
    ValueError: labels must be in [0, 3), got 3 to 3
    """
    if logits.ndim != 2 or logits.shape[1] < classes or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"need logits [batch, {classes} classes or more] and labels [batch], got {list(logits.shape)} and "
            f"{list(labels.shape)}"
        )
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"labels must be in [0, {logits.shape[1]}), got {low} to {high}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the label's logit is above the largest other, row by row.

    >>> margins(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([0]))
    tensor([-2.])
    """
    logits = checked(logits, labels)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None])[:, 0] - others.max(1).values
