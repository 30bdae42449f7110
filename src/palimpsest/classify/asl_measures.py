"""How hard asymmetric loss pulls a negative, by how probable it is said to be, and a focus that sets itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.classify.asl import asymmetric_loss
from palimpsest.losses.multilabel import alike
from palimpsest.train.ranges import AtLeast, check_fields


def negative_gradient(
    p: Float[Tensor, "..."], g_neg: float = 4.0, clip: float = 0.05, detach_focus: bool = False
) -> Float[Tensor, "..."]:
    """dL- / dz of a negative with probability p (the paper's figure 3): none for easy ones, and less again for those
    near 1, which are likely missing labels.

    >>> negative_gradient(torch.tensor([0.04, 0.5]), g_neg=0.0, clip=0.0)  # p, as in binary cross-entropy
    tensor([0.0400, 0.5000])
    """
    z = p.logit().reshape(1, -1).requires_grad_()
    with torch.enable_grad():
        loss = asymmetric_loss(z, torch.zeros_like(z), g_neg, 0.0, clip, detach_focus, "sum")
    return torch.autograd.grad(loss, z)[0].view_as(p)


@dataclass(frozen=True)
class AdaptiveGamma:
    """g_neg that is moved after every batch until positives are surer than negatives by `target`:
    gap = mean p of positives - mean (1 - p) of negatives, g_neg <- max(0, g_neg + rate (target - gap))   (Eq. 8, 9).

    >>> AdaptiveGamma()(4.0, torch.zeros(1, 2), torch.tensor([[1, 0]]))  # 4 + 0.05 * 0.1
    4.005
    """

    target: float = 0.1
    """The gap that is wanted."""
    rate: Annotated[float, AtLeast(0)] = 0.05
    """How far a step goes."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, g_neg: float, logits: Tensor, targets: Tensor) -> float:
        """The next g_neg; a batch without positives, or without negatives, leaves it."""
        logits, targets = alike(logits.detach(), targets)
        p, positive = logits.sigmoid(), targets > 0.5
        if not positive.any() or positive.all():
            return g_neg
        gap = (p[positive].mean() - (1 - p[~positive]).mean()).item()
        return max(0.0, g_neg + self.rate * (self.target - gap))
