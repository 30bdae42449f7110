"""Whether a classifier answers too often with what it learned last."""

from __future__ import annotations

from jaxtyping import Bool, Int
from torch import Tensor


def old_new_bias(answers: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], new: Bool[Tensor, " classes"]) -> float:
    """The share of rows that are answered with a new class, less the share that is of one: 0 without a bias, negative
    where old classes are preferred.

    >>> import torch
    >>> old_new_bias(torch.tensor([2, 2, 0, 2]), torch.tensor([0, 1, 0, 2]), torch.tensor([False, False, True]))
    0.5
    """
    return float(new[answers].double().mean() - new[labels].double().mean())
