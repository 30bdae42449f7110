"""Attention entropy maximization for bags of instances (Zhang, Shui and others, 2024, arXiv 2406.15303).

A bag has one label and many instances, and of bags there are few: an attention soon rests on a handful of instances
that tell the training bags apart. One term is added to the bag's cross-entropy, the negative entropy of the attention,
so that it stays as spread as the labels allow:

    L = cross-entropy(bag logits) + lam sum_n a_n log a_n                                              (Eq. 4, 5)

Bags of different sizes are padded and masked; with several heads the term is their mean. What competes with it stands
here too: dropping instances at random, and hiding some of those with the highest scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast


def aem_loss(log_attention: Float[Tensor, "bags *heads n"], normalize: bool = False) -> Float[Tensor, ""]:
    """sum_n a_n log a_n, the negative entropy of each attention; the mean over bags and heads.

    Args:
        log_attention: the logarithms of attentions that sum to 1, -inf for an instance that is masked, which adds
            nothing and gets no gradient.
        normalize: divided by the logarithm of the number of instances, so in [-1, 0]; a bag of one gives 0.

    Raises:
        ValueError: attentions that do not sum to 1.

    >>> aem_loss(torch.tensor([[0.5, 0.5, 0.0]]).log())  # -log 2
    tensor(-0.6931)
    >>> aem_loss(torch.tensor([[0.5, 0.5, 0.0]]).log(), normalize=True)
    tensor(-1.)
    """
    log_a = log_attention.to(torch.promote_types(log_attention.dtype, torch.float32))
    there = log_a > -torch.inf
    total = log_a.detach().exp().sum(-1)
    if not bool(((total - 1).abs() < 1e-2).all()):
        raise ValueError(f"the attention of a bag must sum to 1, got {total.min():g} to {total.max():g}")
    # -inf is replaced before it is used: 0 * inf would make the gradient no number
    log_a = log_a.masked_fill(~there, 0.0)
    negative = (torch.where(there, log_a.exp(), 0.0) * log_a).sum(-1)
    if normalize:
        negative = negative / there.sum(-1).clamp(min=2).log()
    return negative.mean()


def subsample(mask: Bool[Tensor, "bags n"], ratio: float, generator: torch.Generator) -> Bool[Tensor, "bags n"]:
    """A mask in which a random share of each bag's instances is left, one at least.

    Raises:
        ValueError: a ratio that is not in (0, 1].

    >>> subsample(torch.ones(2, 6, dtype=torch.bool), 0.5, torch.Generator().manual_seed(0)).sum(1)
    tensor([3, 3])
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    draws = torch.rand(mask.shape, generator=generator).to(mask.device).masked_fill(~mask, 2.0)
    return mask & (draws.argsort(1).argsort(1) < (ratio * mask.sum(1, keepdim=True)).ceil())


def mask_top(
    scores: Float[Tensor, "bags n"], k: int = 10, share: float = 0.6, generator: torch.Generator | None = None
) -> Float[Tensor, "bags n"]:
    """Attention scores of which floor(k * share) of the k highest, drawn at random, are -inf: the competing remedy.

    Bags of at most k instances keep one at least.

    Raises:
        ValueError: a k below 1, or a share that is not in [0, 1].

    >>> mask_top(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), k=2, share=1.0)
    tensor([[1., 2., -inf, -inf]])
    """
    if k < 1 or not 0 <= share <= 1:
        raise ValueError(f"k must be 1 at least and share in [0, 1], got {k} and {share}")
    top = scores.topk(min(k, scores.shape[1])).indices
    many = min(int(k * share), scores.shape[1] - 1)
    drawn = torch.rand(top.shape, generator=generator).argsort(1)[:, :many].to(top.device)
    return scores.scatter(1, top.gather(1, drawn), -torch.inf)


@dataclass(frozen=True)
class AEM(Objective):
    """Cross-entropy of bags and the entropy of the attention.

    A batch has `instances` [bags, n, d] (or images), `mask` [bags, n] and `labels` [bags]; the model gives logits and
    the logarithm of its attention for them, as those of `bag_pooling` do.
    """

    lam: Annotated[float, AtLeast(0)] = 0.1
    """How much the entropy counts; the paper tries 0.001 to 0.5."""
    keep: Annotated[float, AtLeast(0)] = 1.0
    """The share of instances that is left in each step."""

    def loss(self, state: Any, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits, log_attention = model(batch["instances"], batch["mask"])
        return {
            "classification": F.cross_entropy(logits, batch["labels"]),
            "entropy": self.lam * aem_loss(log_attention),
        }

    def augment(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        if self.keep == 1:
            return dict(batch)
        return {**batch, "mask": subsample(batch["mask"], self.keep, generator)}


def concentration(
    log_attention: Float[Tensor, "bags n"], positive: Bool[Tensor, "bags n"] | None = None, top: int = 10
) -> dict[str, float]:
    """How spread attentions are: their mean entropy, the mean mass of the `top` largest, and where it is known which
    instances are positive, the chance that a positive one has more attention than another of its bag.

    >>> concentration(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[True, False, False]]), top=1)
    {'entropy': 1.0397207736968994, 'mass of the top': 0.5, 'positives above others': 1.0}
    """
    a = log_attention.exp()
    largest = a.topk(min(top, a.shape[1])).values.sum(1)
    found = {"entropy": -aem_loss(log_attention).item(), "mass of the top": largest.mean().item()}
    if positive is not None:
        there = log_attention > -torch.inf
        above = (a[:, :, None] > a[:, None]).double() + 0.5 * (a[:, :, None] == a[:, None])
        pairs = positive[:, :, None] & (~positive & there)[:, None]
        found["positives above others"] = above[pairs].mean().item() if pairs.any() else math.nan
    return found
