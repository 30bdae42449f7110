"""Weights that are held to how first weights are spread, wherever each of them goes.

Source: Lewandowski, Kumar, Schuurmans, Gyorgy and Machado (2024), Learning continually by spectral regularization,
first version, arXiv 2406.06811v1.

A penalty on the way from the first weights keeps a network able to learn, but ties each weight to its place. This one
only knows the distribution: with W0 a fresh draw of each parameter as its layer draws it,

    R = sum over parameters of |sort(W) - sort(W0)|^2

the squared 2-Wasserstein distance between their entries, times the number of entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.retain.continual import Continual, Present, State, cross_entropy
from palimpsest.retain.renewal import redrawn
from palimpsest.train.ranges import AtLeast


@dataclass(frozen=True)
class WassersteinInit(Continual):
    """Learns each task by its cross-entropy, with the entries of each parameter held to how first weights are spread.

    Attributes:
        strength: weight of the regularizer.
        redraw: draw W0 anew after every update; False keeps the first draw.
    """

    strength: Annotated[float, AtLeast(0)] = 1e-3
    redraw: bool = False

    def init(self, model: nn.Module, data: Present) -> State:
        seed = int(torch.randint(2**62, (), generator=data.generator))
        return {"fresh": fresh(model, seed), "seed": seed}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        far = [(p.flatten().sort().values - state["fresh"][n]).square().sum() for n, p in model.named_parameters()]
        return {"new": cross_entropy(model, batch), "spread": self.strength * torch.stack(far).sum()}

    def after_step(self, state: State, model: nn.Module) -> None:
        if self.redraw:
            state["seed"] += 1
            state["fresh"] = fresh(model, state["seed"])


def fresh(model: nn.Module, seed: int) -> dict[str, Float[Tensor, " entries"]]:
    """The entries of each parameter as its layer would draw them at first, in order of size."""
    return {n: p.detach().flatten().sort().values for n, p in redrawn(model, seed).named_parameters()}
