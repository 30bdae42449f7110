"""Gradient episodic memory: no step may raise the loss of any earlier task's memory.

Source: Lopez-Paz and Ranzato (2017), Gradient episodic memory for continual learning, arXiv 1706.08840.

A few rows of every task are kept, not to be learned again but to ask them: the gradient g of the batch may point
against none of the gradients g_k of the earlier tasks' memories. If it does, the nearest vector that does
not takes its place; its problem has as many unknowns as there are earlier tasks:

    g + G^T v,    v = argmin_{v >= margin} 1/2 v^T G G^T v + (G g)^T v,    G = [g_1, ..., g_{t-1}]

A-GEM asks the mean of the memories alone (`palimpsest.retain.replay.AGEM`). The projection by itself is
`palimpsest.train.gradients.gem`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.retain.buffers import Buffer, ring
from palimpsest.retain.continual import Continual, Present, State, cross_entropy
from palimpsest.train.gradients import flat_gradient, gem, gradient_of, set_gradient
from palimpsest.train.ranges import AtLeast


@dataclass(frozen=True)
class GEM(Continual):
    """Gradient episodic memory; the settings are those of the authors' code.

    Attributes:
        size: rows of the memory; every task of the stream has an equal part of it, the last rows that passed by.
        margin: the least weight of every earlier task once one is in conflict; above 0 it favours them.
        eps: added to the diagonal of G G^T.
        relative: eps counts in the mean of that diagonal; else it outweighs small gradients.
    """

    size: Annotated[int, AtLeast(1)] = 200
    margin: Annotated[float, AtLeast(0)] = 0.5
    eps: Annotated[float, AtLeast(0)] = 1e-3
    relative: bool = False

    def init(self, model: nn.Module, data: Present) -> State:
        if self.size < len(data.allowed):
            raise UserError(
                f"size must be at least 1 for each of the stream's {len(data.allowed)} tasks, got {self.size}"
            )
        return {"buffer": Buffer(capacity=self.size), "asked": 0, "violated": 0}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        return {**batch, "memory": state["buffer"].columns} if len(state["buffer"]) else batch

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        state["memory"] = batch.get("memory")  # until the gradient of the batch stands at the parameters
        return {"new": cross_entropy(model, batch)}

    def gradients(self, state: State, model: nn.Module) -> None:
        """Turns what stands at the parameters away from all conflicts, and counts the steps that had one."""
        if (memory := state.pop("memory", None)) is None:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        g, G = flat_gradient(trained), memory_gradients(model, memory, trained)
        state["asked"] += 1
        if (G @ g).min() < 0:
            state["violated"] += 1
            set_gradient(trained, gem(g, G, margin=self.margin, eps=self.eps, relative=self.relative))

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        kept = ring(state["buffer"], data.shuffled(), self.size // len(data.allowed))
        return {"buffer": kept, "asked": state["asked"], "violated": state["violated"]}


def memory_gradients(
    model: nn.Module, memory: Mapping[str, Tensor], parameters: list[nn.Parameter]
) -> Float[Tensor, "tasks parameters"]:
    """The gradient of the mean cross-entropy of each task's rows, a task a row, in the order of their numbers."""
    rows = [memory["task"] == task for task in memory["task"].unique()]
    parts = [{name: value[of_task] for name, value in memory.items()} for of_task in rows]
    return torch.stack([gradient_of(cross_entropy(model, part), parameters) for part in parts])


def violation_rate(state: State) -> float:
    """The share of the steps with a memory in which the gradient had to be turned; nan before the first.

    >>> violation_rate({"asked": 4, "violated": 3})
    0.75
    """
    return state["violated"] / state["asked"] if state["asked"] else float("nan")
