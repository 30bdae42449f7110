"""New features mapped onto old ones by a learned layer: the loss, the layers, and what became of them.

The loss is that of backward feature projection (`palimpsest.retain.bfp`): Gu et al. (2023), arXiv 2303.14595.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Distance = Literal["norm", "squared", "rmse", "cosine"]
Kind = Literal["linear", "identity", "mlp"]
Start = Literal["random", "identity"]
LAYERS = {"identity": 0, "linear": 1, "mlp": 2}


def bfp_loss(
    projected: Float[Tensor, "batch features"], old: Float[Tensor, "batch features"], distance: Distance = "norm"
) -> Float[Tensor, ""]:
    """How far projected new features are from the old ones.

    Args:
        projected: A h + a; rows that are at their goal have no gradient.
        old: features of the same rows by the old model, a constant.
        distance: "norm": mean |projected - old|_2 / sqrt(d); "squared": the mean square; "rmse": its root; "cosine":
            1 - the mean cosine.

    >>> bfp_loss(torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), torch.zeros(2, 4))
    tensor(1.2500)
    """
    if projected.shape != old.shape or projected.ndim != 2:
        raise ValueError(f"features must be [batch, d] alike, got {list(projected.shape)} and {list(old.shape)}")
    old = old.detach()
    match distance:
        case "norm":
            return torch.linalg.vector_norm(projected - old, dim=1).mean() / sqrt(old.shape[1])
        case "squared":
            return F.mse_loss(projected, old)
        case "rmse":
            return torch.linalg.vector_norm(projected - old) / sqrt(old.numel())
        case "cosine":
            return 1 - F.cosine_similarity(projected, old, dim=1).mean()
    raise ValueError(f"distance must be norm, squared, rmse or cosine, got {distance!r}")


def project(features: Float[Tensor, "batch d"], layers: Sequence[Tensor]) -> Float[Tensor, "batch d"]:
    """Features through linear layers, weight and bias of each in turn, with relu between them; without any as they are.

    >>> project(torch.tensor([[1.0, 2.0]]), [torch.eye(2).flip(0), torch.tensor([0.0, 1.0])])
    tensor([[2., 2.]])
    """
    for number, (weight, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        features = F.linear(features.relu() if number else features, weight, bias)
    return features


def new_projection(d: int, kind: Kind, generator: torch.Generator, *, start: Start = "random") -> list[Tensor]:
    """Weight [d, d] and bias [d] of every layer of a new projection.

    Args:
        kind: "linear", "mlp" (two layers), or "identity" (none).
        start: "random", uniform within 1 / sqrt(d), as linear layers begin; or the "identity", of a linear projection.

    >>> [layer.shape for layer in new_projection(3, "mlp", torch.Generator())] == [(3, 3), (3,)] * 2
    True
    """
    if kind == "linear" and start == "identity":
        return [torch.eye(d), torch.zeros(d)]
    shapes = [(d, d), (d,)] * LAYERS[kind]
    return [(2 * torch.rand(shape, generator=generator) - 1) / sqrt(d) for shape in shapes]


def ignored_directions(weight: Float[Tensor, "d d"], below: float = 0.1) -> tuple[Float[Tensor, " d"], int]:
    """The singular values of a projection, the largest first, and how many directions of the new features it all but
    ignores, which are free for what is new.

    >>> ignored_directions(torch.diag(torch.tensor([0.05, 2.0])))
    (tensor([2.0000, 0.0500]), 1)
    """
    values = torch.linalg.svdvals(weight)
    return values, int((values < below).sum())
