"""Relational replay: a small network says how much each new row and each replayed row should count, pair by pair.

Source: Wang et al. (2021), Relational experience replay: continual learning by adaptively tuning task-wise
relationship, arXiv 2112.15402.

A pair is a row of the batch and one of the buffer, at the same place. The relation network reads what the learner says
of both, [loss_new, loss_old, |logits_new|, |logits_old|], and gives two weights in (0, 1); doubled, they are 1 where it
knows nothing:

    inner    theta' = theta - lr grad mean_i (w_new_i l_new_i + w_old_i l_old_i)         a step that is only thought of
    outer    phi   <- phi - meta_lr grad CE(theta'; other rows of the buffer)            Adam, through the inner step
    step     theta is learned with the weights that the new phi gives, held constant

every `interval` updates; between, weights are read and phi stays. The outer rows are drawn from the buffer as it will
be when the task has passed by, so that the new has its due share of them. How inputs are scaled, what the outer batch
is made of and the interval are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from palimpsest.models.forward import device_of
from palimpsest.retain.buffers import Examples
from palimpsest.retain.continual import Continual, Present, State, last_layer
from palimpsest.retain.relation_network import (
    adam_step,
    loss_after_a_step,
    new_relation_network,
    pair_losses,
    pair_weights,
    running,
    standardised,
)
from palimpsest.retain.replay import ER, KEEP, DERpp
from palimpsest.train.gradients import gradient_of, set_gradient
from palimpsest.train.ranges import Above, AtLeast


@dataclass(frozen=True)
class RER(Continual):
    """Relational replay on ER or DER++; a batch replays as many rows as it has.

    Attributes:
        size, kept: as in `ER`.
        base: the replay whose losses are weighted; "der_pp" stores logits.
        alpha, beta: as in `DERpp`.
        hidden, meta_lr: units of the relation network, and the rate of its Adam.
        interval: updates between two of its steps; None: it is never trained, and stays at equal weights.
        thought: what the inner step moves: all weights, or the last layer's, which is cheaper.
        inner_lr: of the inner step; None for that of the training.
    """

    size: Annotated[int, AtLeast(1)] = 200
    kept: Literal["reservoir", "class_balanced"] = "reservoir"
    base: Literal["er", "der_pp"] = "er"
    alpha: Annotated[float, AtLeast(0)] = 0.1
    beta: Annotated[float, AtLeast(0)] = 0.5
    hidden: Annotated[int, AtLeast(1)] = 16
    meta_lr: Annotated[float, Above(0)] = 1e-3
    interval: Annotated[int | None, AtLeast(1)] = 5
    thought: Literal["all", "last"] = "all"
    inner_lr: Annotated[float | None, Above(0)] = None

    @property
    def replaying(self) -> ER:
        """The replay without relations."""
        own = (self.size, None, self.kept)
        return ER(*own) if self.base == "er" else DERpp(*own, self.alpha, self.beta)

    def fits(self, model: nn.Module) -> None:
        if self.thought == "last":
            last_layer(model)

    def init(self, model: nn.Module, data: Present) -> State:
        device, tasks = device_of(model), len(data.allowed)
        network = [p.to(device) for p in new_relation_network(self.hidden, data.generator)]
        adam = {name: [torch.zeros_like(p) for p in network] for name in ("first", "second")}
        scale = {"mean": torch.zeros(4, device=device), "square": torch.ones(4, device=device)}
        met = torch.zeros(tasks, tasks, 3, device=device)
        numbers = {"updates": 0, "steps": 0, "lr": self.inner_lr or data.training.get("lr", 1e-3)}
        learned = {"network": network, "adam": adam, "scale": scale, "relations": met, "outer": Examples({})}
        return {**self.replaying.init(model, data), **learned, **numbers}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if not data.number or self.interval is None:
            return state
        passed = KEEP[self.kept](state["buffer"], data.shuffled(), data.generator)
        return {**state, "outer": Examples(passed.columns)}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        drawn = self.replaying.replay(state, batch, generator)
        if "memory" not in drawn:
            return drawn
        n = len(batch["labels"])
        for name in drawn.keys() & {"memory", "dark"}:  # each row of the batch has its partner
            there = torch.arange(n) % len(drawn[name]["labels"])
            drawn[name] = {column: value[there] for column, value in drawn[name].items()}
        taken = torch.randperm(len(state["outer"]), generator=generator)[:n]
        return {**drawn, "outer": state["outer"].batch(taken)} if len(taken) else drawn

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if "memory" not in batch:
            return self.replaying.loss(state, model, batch)
        state["batch"] = batch  # until the gradient stands at the parameters
        new, old, inputs = self.each(model, batch)
        weights = pair_weights(state["network"], standardised(inputs, state["scale"])).detach()
        return {"new": (weights[:, 0] * new).mean(), "old": (weights[:, 1] * old).mean()}

    def each(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of the new rows and of the old as the base weighs them, and what is read of the pairs."""
        return pair_losses(model, batch, (self.alpha, self.beta) if self.base == "der_pp" else None)

    def gradients(self, state: State, model: nn.Module) -> None:
        """Trains the relation network where it is time to, and makes the gradient anew with what it then says."""
        if (batch := state.pop("batch", None)) is None:
            return
        state["updates"] += 1
        with torch.enable_grad():
            new, old, inputs = self.each(model, batch)
            due = self.interval is not None and state["updates"] % self.interval == 0
            if due:
                adam_step(state, self.outer_gradient(state, model, batch), self.meta_lr)
            weights = pair_weights(state["network"], standardised(inputs, state["scale"])).detach()
            if due:
                trained = [p for p in model.parameters() if p.requires_grad]
                set_gradient(trained, gradient_of((weights[:, 0] * new + weights[:, 1] * old).mean(), trained))
        met = torch.cat([weights, torch.ones_like(weights[:, :1])], 1).to(state["relations"])
        state["relations"].index_put_((batch["task"], batch["memory"]["task"]), met, accumulate=True)
        running(inputs, state["scale"])

    def outer_gradient(self, state: State, model: nn.Module, batch: Mapping[str, Any]) -> list[Tensor]:
        """The slopes of the outer loss for the relation network's tensors, through the inner step."""
        network = [p.detach().requires_grad_() for p in state["network"]]
        new, old, inputs = self.each(model, batch)
        weights = pair_weights(network, standardised(inputs, state["scale"]))
        inner = (weights[:, 0] * new + weights[:, 1] * old).mean()
        part = last_layer(model) if self.thought == "last" else model
        outer = loss_after_a_step(model, inner, list(part.parameters()), state["lr"], batch["outer"])
        return list(torch.autograd.grad(outer, network))

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        kept = {name: value for name, value in state.items() if name != "batch"}
        filled = self.replaying.after_task({"buffer": state["buffer"]}, model, data)
        return {**kept, **filled, "outer": Examples({})}
