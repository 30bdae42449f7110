"""Rehearsal with distillation of features, of answers, or of both, on kept rows alone or on all.

Source: Cappellazzo, Falavigna and Brutti (2022), An investigation of the combination of rehearsal and knowledge
distillation in continual learning for spoken language understanding, arXiv 2211.08161.

Batches are of today's rows and kept ones mixed. With a weight a for each kind of distillation,

    features:    L = (1 - a) CE + a mean of (f - f_old)^2
    answers:     L <- (1 - a) L + a T^2 KL(old || new, among old classes);      L + a T^2 KL after features

where a = log(1 + old classes / all classes) on all rows, or the root of the kept rows' share of the batch on kept rows.
The authors' code takes the logarithm of the first again at every step for features, so that it shrinks to 0; here not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log1p
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.retain.buffers import Buffer, Examples, herding, joined
from palimpsest.retain.combined_distillation import combined_loss, kd_logits
from palimpsest.retain.continual import (
    Present,
    State,
    as_it_was,
    everything_of,
    features_of,
    last_layer,
    of_all,
    only_allowed,
)
from palimpsest.retain.increments import counted, together
from palimpsest.retain.prototypes import OnFeatures
from palimpsest.train.ranges import Above, AtLeast

Where = Literal["none", "memory", "all"]


@dataclass(frozen=True)
class RehearsalKD(OnFeatures):
    """Rehearsal and up to two kinds of distillation.

    Attributes:
        size: rows of the memory; every class of the stream has an equal part of it from the beginning.
        kept: which rows of a class stay: at "random", those "nearest" to their mean, or by "herding".
        features: on which rows features are held.
        logits: on which rows answers are held.
        temperature: of these answers.
        reduction: of their divergence; the authors' code takes the "mean" over classes too.
    """

    size: Annotated[int, AtLeast(1)] = 200
    kept: Literal["random", "nearest", "herding"] = "random"
    features: Where = "memory"
    logits: Where = "all"
    temperature: Annotated[float, Above(0)] = 1.0
    reduction: Literal["mean", "batchmean"] = "mean"

    def fits(self, model: nn.Module) -> None:
        super().fits(model)
        last_layer(model)

    def init(self, model: nn.Module, data: Present) -> State:
        classes = data.allowed.shape[1]
        if self.size < classes:
            raise UserError(f"size must be at least 1 for each of the stream's {classes} classes, got {self.size}")
        return {"buffer": Buffer(capacity=self.size)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if not data.number or (self.features, self.logits) == ("none", "none"):
            return state
        weight = log1p(float(data.old.sum() / data.known.sum()))
        return {**state, "old": everything_of(model), "heads": data.heads, "number": data.number, "weight": weight}

    def rows(self, state: State, data: Present) -> Examples:
        return together(state["buffer"], data.rows)

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        f = features_of(model, batch)
        logits = last_layer(model)(f)
        ce = F.cross_entropy(only_allowed(logits, batch), batch["labels"])
        if "old" not in state:
            return {"loss": ce}
        with as_it_was(model, state["old"]):
            f_old = features_of(model, batch)
            said = last_layer(model)(f_old)
        memory = batch["task"] < state["number"]
        share = float(memory.float().mean()) ** 0.5
        asked = {"memory": (share, memory), "all": (state["weight"], torch.ones_like(memory))}

        def held(where: Where, distance: Any) -> tuple[float, Tensor] | None:
            if where == "none":
                return None
            weight, rows = asked[where]
            return (weight, distance(rows)) if rows.any() else (0.0, ce.new_zeros(()))

        heads = state["heads"].to(logits.device)
        of_features = held(self.features, lambda rows: F.mse_loss(f[rows], f_old[rows]))
        of_logits = held(
            self.logits,
            lambda rows: kd_logits(logits[rows], said[rows], heads, self.temperature, self.reduction),
        )
        return {"loss": combined_loss(ce, of_features, of_logits)}

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        buffer, each, found = state["buffer"], self.size // data.allowed.shape[1], []
        today = set(data.rows.labels.unique().tolist())
        for label in sorted(today | set(buffer.seen)):
            parts = (buffer, data.rows) if label in today else (buffer,)
            rows = together(*(part.of_class(label) for part in parts if len(part)))
            found.append(rows.at(self.chosen(rows, model, each, data.generator)).columns)
        return {"buffer": buffer.keeping(joined(found), counted(data.rows.labels))}

    def chosen(self, rows: Examples, model: nn.Module, each: int, generator: torch.Generator) -> Tensor:
        """Which rows of a class are kept."""
        if len(rows) <= each:
            return torch.arange(len(rows))
        if self.kept == "random":
            return torch.randperm(len(rows), generator=generator)[:each]
        features = of_all(features_of, model, rows)
        if self.kept == "herding":
            return herding(features, each)
        return (features - features.mean(0)).norm(dim=1).argsort(stable=True)[:each]


def grid(method: RehearsalKD | None = None) -> Iterator[RehearsalKD]:
    """A method in every combination of where features and answers are held, rehearsal alone first.

    >>> [(each.features, each.logits) for each in grid()][:3], len(list(grid()))
    ([('none', 'none'), ('none', 'memory'), ('none', 'all')], 9)
    """
    places = ("none", "memory", "all")
    for features in places:
        for logits in places:
            yield replace(method or RehearsalKD(), features=features, logits=logits)
