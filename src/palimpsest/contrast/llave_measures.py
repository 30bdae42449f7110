"""What hardness weights do: whom the gradient falls on, and how far positives and hard negatives are told apart (Lan et
al. 2025, LLaVE, arXiv 2503.04812; the loss is in `palimpsest.contrast.llave`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.contrast.distributed import gather_rows
from palimpsest.contrast.input_checks import check_finite, check_pairs, one_scale, unit_rows
from palimpsest.contrast.llave import SCALE, checked_scale
from palimpsest.contrast.precision import widened
from palimpsest.renamed import renamed


@renamed(q="query", k="key")
@torch.no_grad()
def gradient_share(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    scale: float | None = None,
    alpha: float = 9.0,
    hardest: float = 0.1,
    *,
    temperature: float | None = None,
    normalize: bool = False,
) -> tuple[float, float]:
    """How much of the negatives' gradient falls on each query's hardest negatives: without and with weighting.

    The gradient of l_i by the score of negative j is its probability, so that the share is

        sum_{j hardest} e^{a c_ij} / sum_{j != i} e^{a c_ij},     a = s without and s + alpha with weighting,

    averaged over the queries. (With the model as its own reward model the second is the share that InfoNCE has at the
    scale s + alpha.)

    Args:
        query, key: unit-norm, row by row a pair, two or more.
        scale, alpha, temperature, normalize: as in `hardness_nce`.
        hardest: which share of the negatives is meant, above 0, at most 1; at least one negative.

    >>> z = F.normalize(torch.randn(40, 4), dim=1)
    >>> plain, weighted = gradient_share(z, z, scale=5.0)
    >>> plain < weighted < 1
    True
    """
    check_pairs(least=2, query=query, key=key)
    scale = checked_scale(one_scale(scale, temperature, SCALE), alpha)
    query, key = unit_rows(normalize, query=query, key=key)
    if not 0 < hardest <= 1:
        raise ValueError(f"hardest must be above 0 and at most 1, got {hardest}")
    cosines = negatives(widened(query), widened(key))
    count = max(1, round(hardest * cosines.shape[1]))
    shares = [(a * cosines).softmax(1).topk(count, dim=1).values.sum(1).mean().item() for a in (scale, scale + alpha)]
    return shares[0], shares[1]


@renamed(q="query", k="key")
def negatives(query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"]) -> Float[Tensor, "batch batch-1"]:
    """Each query's dot products with the other queries' keys.

    >>> negatives(torch.eye(3), torch.eye(3)).sum().item()
    0.0
    """
    n = len(query)
    others = ~torch.eye(n, dtype=torch.bool, device=query.device)
    return (query @ key.T)[others].reshape(n, n - 1)


def gather(shards: Sequence[Float[Tensor, "rows d"]] | Float[Tensor, "rows d"], group: Any = None) -> Tensor:
    """The rows of all ranks, with gradient, so that each rank has the negatives of the joint batch.

    Args:
        shards: this rank's rows, gathered over `group`; or a list with the rows of every rank, in one process.

    >>> gather([torch.zeros(2, 3), torch.ones(2, 3)]).shape
    torch.Size([4, 3])
    """
    if isinstance(shards, Tensor):
        return gather_rows(shards, group)
    if not shards:
        raise ValueError("shards is empty: give the rows of at least one rank")
    return torch.cat(list(shards))


def overlap(
    pos: Float[Tensor, " n"],
    neg: Float[Tensor, " m"],
    bins: int = 50,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> float:
    """The area that the histograms of positive and of hardest-negative similarities have in common: 0 to 1.

    Args:
        pos, neg: similarities; what lies outside of the limits counts in the outermost bin.
        bins: equally wide, over the limits.

    >>> overlap(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.8]))
    0.5
    """
    if bins < 1 or not -math.inf < limits[0] < limits[1] < math.inf:
        raise ValueError(f"bins must be at least 1 and limits finite and rising, got {bins} and {limits}")
    areas = []
    for name, values in (("pos", pos), ("neg", neg)):
        if values.ndim != 1 or not len(values):
            raise ValueError(f"{name} must be [n] with at least one similarity, got {list(values.shape)}")
        check_finite(values, name)
        place = (values.detach().double() - limits[0]) / (limits[1] - limits[0]) * bins
        areas.append(torch.bincount(place.long().clamp(0, bins - 1), minlength=bins) / len(values))
    return torch.minimum(*areas).sum().item()
