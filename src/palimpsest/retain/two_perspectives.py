"""What to optimise, and how: any objective of replay with any projection of its gradient.

Source: Hess, Tuytelaars and van de Ven (2023), Two complementary perspectives to continual learning: ask not only what
to optimize, but also how, arXiv 2311.04898.

    what   new: L_new;   er: L_new / t + (1 - 1/t) L_buffer in task t;   joint: er with all past rows;   der_pp
    how    plain: the gradient g as it is;   agem: g without its part against the gradient of the buffer's loss;   gem:
           g turned so that it points against no earlier task's;   adaptive_new, not in the paper: L_new's own gradient
           without its part against the buffer's, before the two are added

Replay says where the optimum is, a projection which way to go there: that it does not lead through a loss of the old,
the stability gap, is the paper's hypothesis. As in the authors' code the constraint is asked of the rows that are
replayed in the same step; then er with agem turns only where g_new . g_buffer / t < -(1 - 1/t) |g_buffer|^2, which
`projection_rate` shows to be rare.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from palimpsest.retain.buffers import Buffer
from palimpsest.retain.continual import Continual, Present, State, cross_entropy
from palimpsest.retain.gem import memory_gradients
from palimpsest.retain.replay import ER, DERpp, Joint
from palimpsest.train.gradients import agem, flat_gradient, gem, gradient_of, set_gradient
from palimpsest.train.ranges import AtLeast


@dataclass(frozen=True)
class CombinedLearner(Continual):
    """An objective of replay and a projection of its gradient, from the second task on.

    Attributes:
        objective: what is minimised; `der_pp` weighs its parts by alpha and beta, not by the number of tasks.
        projection: how its gradient is changed.
        constraint: the rows whose loss may not rise: the "same" that are replayed in the step, or "separate" ones,
            drawn anew. With gem a draw of each earlier task, and what is replayed comes from all of these.
        size: rows of the buffer; joint keeps all.
        replayed: rows that are replayed in a step; None for as many as the batch has.
        alpha, beta, margin, eps: of `DERpp` and of `palimpsest.train.gradients.gem`.
    """

    objective: Literal["new", "er", "joint", "der_pp"] = "er"
    projection: Literal["plain", "agem", "gem", "adaptive_new"] = "agem"
    constraint: Literal["same", "separate"] = "same"
    size: Annotated[int, AtLeast(1)] = 200
    replayed: Annotated[int | None, AtLeast(1)] = None
    alpha: Annotated[float, AtLeast(0)] = 0.1
    beta: Annotated[float, AtLeast(0)] = 0.5
    margin: Annotated[float, AtLeast(0)] = 0.5
    eps: Annotated[float, AtLeast(0)] = 1e-3

    @property
    def replaying(self) -> ER:
        """The replay that fills the buffer and draws from it."""
        if self.objective == "der_pp":
            return DERpp(self.size, self.replayed, alpha=self.alpha, beta=self.beta)
        return ER(self.size, self.replayed)

    def init(self, model: nn.Module, data: Present) -> State:
        return {**self.replaying.init(model, data), "new": 1.0, "asked": 0, "turned": 0}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {**state, "new": 1 / (data.number + 1)}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        drawn = self.replaying.replay(state, batch, generator)
        if "memory" not in drawn or self.projection == "plain":
            return drawn
        rows = self.replayed or len(batch["labels"])
        if self.projection == "gem":
            each = _of_each_task(state["buffer"], rows, generator)
            taken = torch.randperm(len(each["labels"]), generator=generator)[:rows]
            same = {name: value[taken] for name, value in each.items()}
            return {**drawn, "constraint": each, "memory": same if self.constraint == "same" else drawn["memory"]}
        same = self.constraint == "same"
        return {**drawn, "constraint": drawn["memory"] if same else state["buffer"].draw(rows, generator)}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        state["batch"] = batch if "constraint" in batch else None  # until the gradient stands at the parameters
        if self.objective == "new" or "memory" not in batch:
            return {"new": cross_entropy(model, batch)}
        if self.objective == "der_pp":
            return self.replaying.loss(state, model, batch)
        new = state["new"]
        return {"new": new * cross_entropy(model, batch), "old": (1 - new) * cross_entropy(model, batch["memory"])}

    def gradients(self, state: State, model: nn.Module) -> None:
        """Changes what stands at the parameters, and counts the steps in which that was needed."""
        if (batch := state.pop("batch", None)) is None:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        g = flat_gradient(trained)
        with normalising_at_rest(model):
            if self.projection == "gem":
                references = memory_gradients(model, batch["constraint"], trained)
                changed = gem(g, references, margin=self.margin, eps=self.eps)
            else:
                reference = gradient_of(cross_entropy(model, batch["constraint"]), trained)
                changed = agem(g, reference)
        if self.projection == "adaptive_new":
            own = gradient_of(cross_entropy(model, batch), trained)
            share = state["new"] if self.objective in ("er", "joint") else 1.0
            changed = g + share * (agem(own, reference) - own)
        state["asked"] += 1
        if not torch.equal(changed, g):
            state["turned"] += 1
            set_gradient(trained, changed)

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        kept = {name: value for name, value in state.items() if name != "batch"}
        keeping = Joint() if self.objective == "joint" else self.replaying
        return {**kept, **keeping.after_task({"buffer": state["buffer"]}, model, data)}


def _of_each_task(buffer: Buffer, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Up to so many rows of each earlier task."""
    every = buffer.draw(len(buffer), generator)
    places = [(every["task"] == task).nonzero()[:rows, 0] for task in every["task"].unique()]
    return {name: value[torch.cat(places)] for name, value in every.items()}


@contextmanager
def normalising_at_rest(model: nn.Module) -> Iterator[None]:
    """Batch normalisation with its running statistics, which stay; afterwards each layer in its own mode."""
    layers = [(module, module.training) for module in model.modules() if isinstance(module, _BatchNorm)]
    for layer, _ in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer, training in layers:
            layer.train(training)


def projection_rate(state: State) -> float:
    """The share of the steps with a constraint in which the gradient was changed; nan before the first.

    >>> projection_rate({"asked": 4, "turned": 1})
    0.25
    """
    return state["turned"] / state["asked"] if state["asked"] else float("nan")
