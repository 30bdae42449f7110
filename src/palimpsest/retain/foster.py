"""FOSTER: a second network learns what the first one got wrong, and then both are made one again.

Source: Wang, Zhou, Ye and Zhan (2022), FOSTER: feature boosting and compression for class-incremental learning, arXiv
2204.04662.

Boosting: the old network phi_o stands still, a copy of it, phi_n, trains, and a last layer reads both:

    logits = A phi_o(x) + W phi_n(x) + b,    A old classes' = the old last layer,    A new classes' trained or 0

    CE(logits / e, y) + CE(logits of phi_n alone, y) + strength sum over heads of KL(old || logits; T)

e_k = (1 - beta) / (1 - beta^{n_k}), of mean 1, is larger for classes with fewer of n_k rows: theirs have to have larger
logits. Compression: one network, begun as phi_o, learns from both together alone, without a label:

    - sum_k p_k log softmax(student / T)_k,    p ~ softmax(logits / T) e'

Batches are of today's rows and exemplars (`palimpsest.retain.increments`). What boosting adds to the model for the time
of a task is in `palimpsest.retain.foster_boosting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Examples
from palimpsest.retain.continual import Present, State, last_layer, of_all, only_allowed, put_back
from palimpsest.retain.distillation import distillation
from palimpsest.retain.foster_boosting import (
    Compression,
    aligned,
    boosted_logits,
    class_weights,
    drawn,
    new_columns,
    old_logits,
    removed,
)
from palimpsest.retain.increments import ExemplarDistillation
from palimpsest.retain.phases import trained_on
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import AtLeast, Below


@dataclass(frozen=True)
class FOSTER(ExemplarDistillation):
    """Boosting and compression; the first task is learned by cross-entropy.

    Attributes:
        size: as in `ExemplarDistillation`.
        temperature: T, of distillation and of compression.
        strength: weight of the old network's answers.
        beta, beta_compressed: of the classes' weights in boosting and in compression; 0 weighs all alike.
        enhance: phi_n alone has to know all classes too.
        train_old: A trains for old classes as well, as in the authors' code.
        old_for_new: A trains for new classes; else it is 0 there.
        align_boosted, align_compressed: bring the lengths of new classes' weights to those of old ones
            (`palimpsest.retain.weight_aligning`), times align_value^(old / new classes).
        align_value: of that factor.
        compress: False leaves both networks, and a third comes with the next task.
        share: of a task's updates that compression gets.
    """

    strength: Annotated[float, AtLeast(0)] = 1.0
    beta: Annotated[float, AtLeast(0), Below(1)] = 0.96
    beta_compressed: Annotated[float, AtLeast(0), Below(1)] = 0.97
    enhance: bool = True
    train_old: bool = False
    old_for_new: bool = True
    align_boosted: bool = False
    align_compressed: bool = False
    align_value: Annotated[float, AtLeast(0)] = 1.0
    compress: bool = True
    share: Annotated[float, AtLeast(0), Below(1)] = 0.4

    def fits(self, model: nn.Module) -> None:
        super().fits(model)
        last_layer(model)

    def compression_steps(self, number: int, steps: int) -> int:
        """How many of a task's updates compression gets."""
        return round(self.share * steps) if number and self.compress else 0

    def steps(self, state: State, data: Present, steps: int) -> int:
        return steps - self.compression_steps(data.number, steps)

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        state = super().before_task(state, model, data)
        if not data.number:
            return state
        old = state.pop("old")
        labels = torch.cat([part.labels for part in (state["buffer"], data.rows) if len(part)])
        columns = new_columns(model, state.get("across"), data, train_old=self.train_old, for_new=self.old_for_new)
        return {
            **state,
            **columns,
            "networks": [*state.get("networks", []), old],
            "counts": labels.bincount(minlength=len(data.known)),
        }

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if "counts" not in state:
            return {"new": F.cross_entropy(only_allowed(logits_of(model, batch), batch), batch["labels"])}
        logits, features, before = boosted_logits(state, model, batch)
        e = class_weights(state["counts"], self.beta).to(logits)
        held = distillation(logits, old_logits(state, before), state["heads"].to(e.device), self.temperature)
        terms = {
            "new": F.cross_entropy(only_allowed(logits / e, batch), batch["labels"]),
            "held": self.strength * held,
        }
        alone = only_allowed(model.boosted.alone(features), batch)
        return {**terms, "alone": F.cross_entropy(alone, batch["labels"])} if self.enhance else terms

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return boosted_logits(state, model, batch)[0] if "networks" in state else logits_of(model, batch)

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        if "counts" in state:
            state = removed(state, model)
            if self.align_boosted:
                aligned(data, self.align_value, last_layer(model).weight, state["across"])
            if self.compress:
                self.compressed(state, model, data)
        grown = {name: state[name] for name in ("networks", "across") if name in state and not self.compress}
        return {**super().after_task(state, model, data), **grown}

    def compressed(self, state: State, model: nn.Module, data: Present) -> None:
        """Makes the model what both networks were."""
        rows = self.rows(state, data)
        goal = of_all(lambda model, batch: self.answer(state, model, batch), model, rows)
        put_back(model, state["networks"][-1])
        head, new = last_layer(model), ~data.old
        with torch.no_grad():
            head.weight[new] = drawn(head.weight.shape, head.in_features, data.generator).to(head.weight)[new]
        weights = class_weights(state["counts"], self.beta_compressed)
        steps = self.compression_steps(data.number, data.training["steps"])
        rows = Examples({**rows.columns, "goal": goal})
        trained_on(model, Compression(weights, self.temperature), rows, data, steps)
        if self.align_compressed:
            aligned(data, self.align_value, head.weight)
