"""A network that should stay able to learn: it is brought back towards its first weights before every task.

Source: shrink and perturb: Ash and Adams (2020), On warm-starting neural network training, arXiv 1910.08475.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from palimpsest.models.language import seeded
from palimpsest.retain.continual import Continual, Present, State, everything_of, put_back
from palimpsest.train.ranges import AtLeast, AtMost


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose layers have drawn their weights anew; one that draws nothing (without `reset_parameters`) keeps
    what it has."""

    def drawn() -> nn.Module:
        again = copy.deepcopy(model)
        for part in again.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        return again

    return seeded(seed, drawn)


@dataclass(frozen=True)
class Restart(Continual):
    """Every task is learned from the first weights: nothing is kept, and nothing of the ability to learn is lost."""

    def init(self, model: nn.Module, data: Present) -> State:
        return {"first": everything_of(model)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        put_back(model, state["first"])
        return state


@dataclass(frozen=True)
class ShrinkPerturb(Continual):
    """Before every task but the first the weights shrink, and noise is added: w <- keep w + noise e, e ~ N(0, I).

    Attributes:
        keep: what is left of the weights.
        noise: its standard deviation.
    """

    keep: Annotated[float, AtLeast(0), AtMost(1)] = 0.8
    noise: Annotated[float, AtLeast(0)] = 0.01

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if data.number:
            with torch.no_grad():
                for p in model.parameters():
                    if p.requires_grad:
                        drawn = torch.randn(p.shape, generator=data.generator).to(p)
                        p.mul_(self.keep).add_(drawn, alpha=self.noise)
        return state
