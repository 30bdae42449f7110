"""Losses that rank what a user took above what they did not."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def bpr(positive: Float[Tensor, " n"], negatives: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Bayesian personalised ranking: each positive against each of its negatives.

        mean_ij -log sigmoid(s_i - s_ij)

    Args:
        positive: scores s_i of what should be ranked first.
        negatives: scores s_ij of what should come after it.

    Raises:
        ValueError: the shapes do not go together.

    >>> bpr(torch.zeros(2), torch.zeros(2, 3))
    tensor(0.6931)

    Source: Rendle et al. (2009), arXiv 1205.2618.
    """
    _check(positive, negatives)
    return F.softplus(negatives - positive[:, None]).mean()


def sampled_softmax(positive: Float[Tensor, " n"], negatives: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Each positive against all of its negatives at once: the cross-entropy of choosing it among them.

        mean_i [log(e^s_i + sum_j e^s_ij) - s_i]

    Args:
        positive: scores s_i of what should be chosen.
        negatives: scores s_ij of what it is chosen from.

    Raises:
        ValueError: the shapes do not go together.

    >>> sampled_softmax(torch.zeros(2), torch.zeros(2, 3))
    tensor(1.3863)

    Source: Jean et al. (2015), arXiv 1412.2007.
    """
    _check(positive, negatives)
    return (torch.cat([positive[:, None], negatives], 1).logsumexp(1) - positive).mean()


def _check(positive: Tensor, negatives: Tensor) -> None:
    if positive.ndim != 1 or negatives.ndim != 2 or len(positive) != len(negatives) or not negatives.numel():
        raise ValueError(
            f"positive must be [n] and negatives [n, k], got {list(positive.shape)} and {list(negatives.shape)}"
        )
