"""Losses on preference pairs (Rafailov et al. 2023, "Direct preference optimization", arXiv 2305.18290)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def dpo_loss(
    chosen_logratio: Float[Tensor, "batch"], rejected_logratio: Float[Tensor, "batch"], beta: float = 0.1
) -> Float[Tensor, ""]:
    """-mean log sigmoid(beta (chosen - rejected)): log 2 where the model has not moved from the reference.

    Args:
        chosen_logratio: log pi(y_chosen|x) - log pi_ref(y_chosen|x), summed over tokens, in nats.
        rejected_logratio: the same of the rejected answer.
        beta: inverse temperature, above 0: the larger, the closer the optimum to the reference.

    Raises:
        ValueError: if the shapes differ or beta is not above 0.

    >>> import torch
    >>> round(dpo_loss(torch.zeros(2), torch.zeros(2)).item(), 4)
    0.6931
    """
    if chosen_logratio.ndim != 1 or chosen_logratio.shape != rejected_logratio.shape:
        shapes = tuple(chosen_logratio.shape), tuple(rejected_logratio.shape)
        raise ValueError(f"log-ratios must be [batch] each, got {shapes[0]} and {shapes[1]}")
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    return -F.logsigmoid(beta * (chosen_logratio - rejected_logratio)).mean()
