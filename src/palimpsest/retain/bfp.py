"""Backward feature projection: what could be told apart by a line before must stay so, wherever features go.

Source: Gu, Shim and Shkurti (2023), Preserving linear separability in continual learning by backward feature
projection, arXiv 2303.14595.

A linear layer A, learned along the way, maps the new features back onto the old ones:

    mean over rows of |A h + a - h_old|_2 / sqrt(d)

so that an old linear classifier w goes on working as A^T w, while directions that A ignores are free for new classes.
With A the identity features would have to stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from palimpsest.retain.buffers import Examples, joined
from palimpsest.retain.continual import (
    Present,
    State,
    as_it_was,
    everything_of,
    features_of,
    last_layer,
    needs_features,
)
from palimpsest.retain.feature_projection import Distance, Kind, Start, bfp_loss, new_projection, project
from palimpsest.retain.replay import ER, DERpp
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import Above, AtLeast, Below


@dataclass(frozen=True)
class BFP(ER):
    """Replay, and features that can be mapped back: DER++ or ER + weight bfp_loss(A h + a, h_old) from the second task.

    The rows are those of the batch and a draw of their own from the buffer. A begins anew with every task and has an
    optimizer of its own, SGD.

    Attributes:
        size, replayed, kept: as in `ER`.
        base: the replay that it is added to; "er" stores no logits and has neither alpha nor beta.
        alpha, beta: as in `DERpp`.
        dark: whose logits DER++ holds to: those "stored" with the rows, or the "previous" model's, as in the authors'
            code where tasks bring new classes.
        weight: of the projection's loss.
        projection: what maps back: "linear", "identity" (nothing), or "mlp", two layers.
        start: of a linear projection: "random", as layers begin, or the "identity".
        distance: as in `bfp_loss`.
        projection_lr, momentum: of the projection's optimizer.
    """

    base: Literal["der_pp", "er"] = "der_pp"
    alpha: Annotated[float, AtLeast(0)] = 0.1
    beta: Annotated[float, AtLeast(0)] = 0.5
    dark: Literal["stored", "previous"] = "stored"
    weight: Annotated[float, AtLeast(0)] = 1.0
    projection: Kind = "linear"
    start: Start = "random"
    distance: Distance = "norm"
    projection_lr: Annotated[float, Above(0)] = 0.1
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.9

    @property
    def replaying(self) -> ER:
        """The method without projection."""
        own = (self.size, self.replayed, self.kept)
        return ER(*own) if self.base == "er" else DERpp(*own, self.alpha, self.beta)

    def fits(self, model: nn.Module) -> None:
        needs_features(model)
        last_layer(model)

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if not data.number:
            return state
        head = last_layer(model)
        layers = new_projection(head.in_features, self.projection, data.generator, start=self.start)
        layers = [layer.to(head.weight) for layer in layers]
        velocity = [torch.zeros_like(layer) for layer in layers]
        return {**state, "old": everything_of(model), "layers": layers, "velocity": velocity}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        drawn = self.replaying.replay(state, batch, generator)
        return {**drawn, "mapped": super().replay(state, batch, generator)["memory"]} if "memory" in drawn else batch

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if "old" not in state:
            return self.replaying.loss(state, model, batch)
        rows = joined([batch, batch["mapped"]]) if "mapped" in batch else batch
        with as_it_was(model, state["old"]):
            goal = features_of(model, rows)
            if self.dark == "previous" and "dark" in batch:
                batch = {**batch, "dark": {**batch["dark"], "logits": logits_of(model, batch["dark"])}}
        features = features_of(model, rows)
        state["slopes"] = self.slopes(features.detach(), goal, state["layers"])
        mapped = self.weight * bfp_loss(project(features, state["layers"]), goal, self.distance)
        return {**self.replaying.loss(state, model, batch), "mapped": mapped}

    def slopes(self, features: Tensor, goal: Tensor, layers: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradient of the projection's loss for its own layers."""
        with torch.enable_grad():
            leaves = [layer.detach().requires_grad_() for layer in layers]
            mapped = self.weight * bfp_loss(project(features, leaves), goal, self.distance)
            return torch.autograd.grad(mapped, leaves) if leaves else []

    def gradients(self, state: State, model: nn.Module) -> None:
        """A step of the projection's own optimizer; those of the model's parameters stay as they are."""
        if slopes := state.pop("slopes", None):
            for layer, velocity, slope in zip(state["layers"], state["velocity"], slopes, strict=True):
                layer.sub_(velocity.mul_(self.momentum).add_(slope), alpha=self.projection_lr)

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        return super().after_task({"buffer": state["buffer"]}, model, data)

    def stored(self, model: nn.Module, rows: Examples) -> Examples:
        return self.replaying.stored(model, rows)
