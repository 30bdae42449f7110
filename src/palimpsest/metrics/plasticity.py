"""Whether a network can still learn: units that do nothing, ranks of what it computes, the size and the curvature.

Sources: dormant units: Sokar et al. (2023), arXiv 2302.12902; feature rank: Lyle, Rowland and Dabney (2022), arXiv
2204.09560; loss of plasticity and what goes with it: Lyle et al. (2023), arXiv 2303.01486, and Dohare et al. (2024),
arXiv 2306.13812. The effective rank is `palimpsest.metrics.probes.effective_rank`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


@torch.no_grad()
def dormant_units(activations: Float[Tensor, "n units"], threshold: float = 0.0) -> float:
    """The share of units whose mean absolute activation is at most `threshold` times the layer's.

    s_i = mean |h_i| / mean over units of mean |h|;   at threshold 0: units that are 0 on every row ("dead").

    >>> dormant_units(torch.tensor([[1.0, 0.0, 0.1, 0.9], [1.0, 0.0, 0.1, 0.9]])), dormant_units(torch.zeros(2, 4))
    (0.25, 1.0)
    """
    _check(activations, "activations")
    if threshold < 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    scores = activations.abs().double().mean(0)
    return float((scores <= threshold * scores.mean()).double().mean())


@torch.no_grad()
def stable_rank(matrix: Float[Tensor, "n d"]) -> float:
    """|A|_F^2 / sigma_1^2: how many directions count, from 1 to the rank; 0 for a matrix of zeros.

    >>> round(stable_rank(torch.eye(4)), 6), round(stable_rank(torch.ones(3, 3)), 6)
    (4.0, 1.0)
    """
    _check(matrix, "matrix")
    values = torch.linalg.svdvals(matrix.double())
    return float(values.square().sum() / values[0].square()) if values[0] > 0 else 0.0


@torch.no_grad()
def feature_rank(features: Float[Tensor, "n d"], share: float = 0.01) -> int:
    """How many singular values are above `share` of the largest.

    >>> feature_rank(torch.diag(torch.tensor([1.0, 0.5, 0.001])))
    2
    """
    _check(features, "features")
    values = torch.linalg.svdvals(features.double())
    return int((values > share * values[0]).sum())


@torch.no_grad()
def weight_growth(now: nn.Module, first: Mapping[str, Tensor]) -> float:
    """The norm of all parameters over that of the first ones.

    Args:
        first: the parameters by name, as `dict(model.named_parameters())` had them.

    >>> layer = nn.Linear(2, 1)
    >>> weight_growth(layer, {name: p / 2 for name, p in layer.named_parameters()})
    2.0
    """
    parameters = dict(now.named_parameters())
    if missing := sorted(first.keys() ^ parameters.keys()):
        raise ValueError(f"first must have the model's parameters, {missing[0]!r} is only in one of them")
    norms = [
        torch.sqrt(sum(p.double().square().sum() for p in values)) for values in (parameters.values(), first.values())
    ]
    return float(norms[0] / norms[1])


def sharpness(
    loss: Callable[[], Float[Tensor, ""]],
    parameters: Sequence[nn.Parameter],
    *,
    iterations: int = 100,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> float:
    """The eigenvalue of the loss's Hessian that is largest in size, by power iteration on its products with vectors.

    Args:
        loss: computed anew at every call, on the same rows.
        parameters: with respect to which.
        iterations: at most so many; each is a gradient of a gradient.
        tolerance: the relative change at which it stops.
        seed: of the first vector.

    >>> w = nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> round(sharpness(lambda: (torch.tensor([3.0, 1.0]) * w.square()).sum() / 2, [w]), 3)
    3.0
    """
    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]
    value = 0.0
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
        pairs = [(g, p) for g, p in zip(gradients, parameters, strict=True) if g is not None and g.requires_grad]
        if not pairs:  # a loss that is linear in all
            return 0.0
        vector = [v for v, g in zip(vector, gradients, strict=True) if g is not None and g.requires_grad]
        for _ in range(iterations):
            norm = torch.sqrt(sum(v.double().square().sum() for v in vector))
            if not norm > 0:
                return 0.0
            vector = [v / norm.to(v) for v in vector]
            along = sum((g * v).sum() for (g, _), v in zip(pairs, vector, strict=True))
            product = torch.autograd.grad(along, [p for _, p in pairs], retain_graph=True, materialize_grads=True)
            found = float(sum((h.double() * v.double()).sum() for h, v in zip(product, vector, strict=True)))
            if abs(found - value) <= tolerance * abs(found):
                return found
            value, vector = found, list(product)
    return value


def _check(matrix: Tensor, name: str) -> None:
    if matrix.ndim != 2 or not matrix.numel():
        raise ValueError(f"{name} must be [n, d] with at least one row, got {list(matrix.shape)}")
