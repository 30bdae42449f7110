"""The cross-entropy that is expected under Gaussians, bounded in closed form, and the margins that it comes to.

Source: Yao and Chang (2024), Adaptive margin global classifier for exemplar-free class-incremental learning, arXiv
2409.13275.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def margins(
    spread: Float[Tensor, "rows d"] | Float[Tensor, "rows d d"],
    weight: Float[Tensor, "classes d"],
    labels: Int[Tensor, " rows"],
) -> Float[Tensor, "rows classes"]:
    """1/2 v^T S v of each row with v = w_j - w_label: 0 for the row's own class, and never negative.

    Args:
        spread: the covariance of each row, or its diagonal.
        weight: of the last layer.

    >>> margins(torch.ones(1, 2), torch.eye(2), torch.tensor([0]))
    tensor([[0., 1.]])
    """
    v = weight - weight[labels][:, None]
    moved = v * spread[:, None] if spread.ndim == 2 else v @ spread
    return (moved * v).sum(2) / 2


def enlarged(
    spread: Float[Tensor, "rows d"] | Float[Tensor, "rows d d"], enlarge: float
) -> Float[Tensor, "rows d"] | Float[Tensor, "rows d d"]:
    """S + enlarge diag(S).

    >>> enlarged(torch.tensor([[[1.0, 0.5], [0.5, 2.0]]]), 1.0)
    tensor([[[2.0000, 0.5000],
             [0.5000, 4.0000]]])
    """
    return (
        spread * (1 + enlarge) if spread.ndim == 2 else spread + enlarge * spread.diagonal(dim1=1, dim2=2).diag_embed()
    )


def db_loss(
    means: Float[Tensor, "rows d"],
    spread: Float[Tensor, "rows d"] | Float[Tensor, "rows d d"],
    weight: Float[Tensor, "classes d"],
    bias: Float[Tensor, " classes"],
    labels: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """The mean over classes of a bound on the cross-entropy of features from N(mean, spread).

    Args:
        labels: of the means; None: one of each class, in order.

    >>> db_loss(torch.eye(2), torch.zeros(2, 2), torch.eye(2), torch.zeros(2))  # no spread: plain cross-entropy
    tensor(0.3133)
    """
    labels = torch.arange(len(means), device=means.device) if labels is None else labels
    return F.cross_entropy(means @ weight.T + bias + margins(spread, weight, labels), labels)


def amarx_loss(
    features: Float[Tensor, "rows d"],
    labels: Int[Tensor, " rows"],
    weight: Float[Tensor, "classes d"],
    bias: Float[Tensor, " classes"],
    variance: Float[Tensor, "rows d"],
    enlarge: float,
) -> Float[Tensor, ""]:
    """Softmax cross-entropy with an adaptive margin, what enlarged variances alone come to.

    >>> amarx_loss(torch.eye(2), torch.arange(2), torch.eye(2), torch.zeros(2), torch.ones(2, 2), 0.0)
    tensor(0.3133)
    """
    return db_loss(features, enlarge * variance, weight, bias, labels)


def shaped(noise: Float[Tensor, "rows d"], spread: Tensor) -> Float[Tensor, "rows d"]:
    """Standard normal draws with the spread of each row."""
    if spread.ndim == 2:
        return spread.sqrt() * noise.to(spread)
    return (torch.linalg.cholesky(spread) @ noise.to(spread)[:, :, None])[:, :, 0]
