"""Spectral regularization: a network stays able to learn where no layer stretches what it is given by more than 1.

Source: Lewandowski, Bortkiewicz, Kumar, Gyorgy, Schuurmans, Ostaszewski and Machado (2024), Learning continually by
spectral regularization, arXiv 2406.06811. Its first version's other regularizer is in `wasserstein_init`.

At the start the singular values of a layer are such that gradients of different rows differ, and training lets the
largest grow. With sigma_1 the largest of a weight matrix (a kernel is [out, in x height x width]), b its bias, and
gamma, beta the scale and shift of a norm layer, this is added to the loss:

    R = sum over layers of (sigma_1^k - 1)^2 + |b|^(2k)   +   sum over norms of |gamma - 1|^(2k) + |beta|^(2k)

sigma_1 is |W^T u|, with u kept from step to step and brought closer to the first left singular vector after each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.metrics.plasticity import stable_rank
from palimpsest.retain.continual import Continual, Present, State, cross_entropy
from palimpsest.train.ranges import AtLeast


def matrices(model: nn.Module) -> Iterator[tuple[str, Float[Tensor, "out in"]]]:
    """The weights with two axes and more, by name, as matrices."""
    return ((name, p.flatten(1)) for name, p in model.named_parameters() if p.ndim > 1)


def sigma_1(weight: Float[Tensor, "out in"], u: Float[Tensor, " out"]) -> Float[Tensor, ""]:
    """|W^T u|: the largest singular value where u is its left singular vector, and never more; u has no gradient.

    >>> float(sigma_1(torch.diag(torch.tensor([3.0, 1.0])), torch.tensor([1.0, 0.0])))
    3.0
    """
    return torch.linalg.vector_norm(weight.T @ u)


@torch.no_grad()
def closer(u: Float[Tensor, " out"], weight: Float[Tensor, "out in"], iterations: int = 1) -> None:
    """Steps of power iteration, in place: u <- W W^T u, made a unit vector again."""
    for _ in range(iterations):
        u.copy_(F.normalize(weight @ (weight.T @ u), dim=0))


def spectrum(model: nn.Module) -> dict[str, dict[str, float]]:
    """The largest and the smallest singular value and the stable rank of every weight matrix, by name.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.diag(torch.tensor([2.0, 1.0])))
    >>> spectrum(layer)
    {'weight': {'sigma_max': 2.0, 'sigma_min': 1.0, 'stable rank': 1.25}}
    """
    found = {}
    for name, weight in matrices(model):
        values = torch.linalg.svdvals(weight.detach().double())
        found[name] = {
            "sigma_max": float(values[0]),
            "sigma_min": float(values[-1]),
            "stable rank": stable_rank(weight),
        }
    return found


@dataclass(frozen=True)
class SpectralReg(Continual):
    """Learns each task by its cross-entropy, with all layers held to a largest singular value of 1.

    Attributes:
        strength: weight of the regularizer.
        k: power.
        which: the "largest" singular value of each layer, or the mean over "all", by a decomposition at every step.
        iterations: steps of power iteration after an update.
    """

    strength: Annotated[float, AtLeast(0)] = 1e-3
    k: Annotated[int, AtLeast(1)] = 2
    which: Literal["largest", "all"] = "largest"
    iterations: Annotated[int, AtLeast(1)] = 1

    def init(self, model: nn.Module, data: Present) -> State:
        vectors = {}
        for name, weight in matrices(model):
            vectors[name] = torch.randn(len(weight), generator=data.generator).to(weight)
            closer(vectors[name], weight, 10 * self.iterations)
        return {"vectors": vectors}

    def regularizer(self, state: State, model: nn.Module) -> Float[Tensor, ""]:
        """R, for the weights as they are."""
        terms = []
        for name, weight in matrices(model):
            largest = self.which == "largest"
            values = sigma_1(weight, state["vectors"][name]) if largest else torch.linalg.svdvals(weight)
            terms.append((values**self.k - 1).square().mean())
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                if p.ndim == 1:  # biases and shifts, and the scales of norms
                    terms.append((p - float(name == "weight")).square().sum() ** self.k)
        return torch.stack(terms).sum()

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"new": cross_entropy(model, batch), "spectral": self.strength * self.regularizer(state, model)}

    def after_step(self, state: State, model: nn.Module) -> None:
        """Brings the singular vectors along."""
        for name, weight in matrices(model):
            closer(state["vectors"][name], weight, self.iterations)
