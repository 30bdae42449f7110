"""Continual backprop: the units of a network that do least are replaced by new ones, a few at a time, for ever.

Source: Dohare, Hernandez-Garcia, Rahman, Mahmood and Sutton (2023), Loss of plasticity in deep continual learning,
arXiv 2306.13812.

A network learns well because of how its weights were drawn, and this is used up. So after every update, in every hidden
layer, with f a running mean of what unit i says, corrected for its age (f / (1 - eta^age)), and u one of its utility:

    y_i = mean over rows |h_i - f_i| sum_k |w_out[k, i]| / sum_j |w_in[i, j]|,     u_i <- eta u_i + (1 - eta) y_i

Of the units older than `maturity`, a share `rho` of least utility begins again: its incoming weights are drawn as at
the beginning, its outgoing weights are 0, so that nothing is disturbed, and the next layer's bias takes over what it
said on average (b <- b + w_out[:, i] f_i). The optimizer has to forget these entries: `RenewableAdam` does.

A unit of a convolution is a channel, and what it says is averaged over positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from palimpsest.retain.continual import Continual, Present, State
from palimpsest.retain.hidden_units import Layer, hidden_activations, hidden_layers
from palimpsest.retain.renewable_adam import renew
from palimpsest.train.randomness import of_batch
from palimpsest.train.ranges import AtLeast, AtMost, Below


@dataclass(frozen=True)
class ContinualBackprop(Continual):
    """Learns each task by its cross-entropy, and replaces units after every update.

    In a loop of one's own, with `state = method.begin(model, generator)` before:

        with hidden_activations(model) as state["hidden"]:
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        method.after_step(state, model)

    Attributes:
        rho: the share of the units old enough that is replaced at a step; 0 is plain backprop.
        eta: decay of the running means.
        maturity: steps that a new unit is safe for.
        kind: of utility: "adaptable", as above, or "contribution", mean |h_i| sum_k |w_out[k, i]|.
        bias_transfer: let the next layer's bias take over what a unit said on average. The authors' program sets that
            mean to 0 before it is used, as False does.
        accumulate: the shares of a unit add up until one is replaced; False draws whether one is, with that chance.
        initial: how incoming weights are drawn: uniformly up to 1 / sqrt(inputs), as torch's layers begin ("torch"), or
            up to sqrt(6 / inputs) ("kaiming").
    """

    rho: Annotated[float, AtLeast(0), AtMost(1)] = 1e-4
    eta: Annotated[float, AtLeast(0), Below(1)] = 0.99
    maturity: Annotated[int, AtLeast(0)] = 100
    kind: Literal["adaptable", "contribution"] = "adaptable"
    bias_transfer: bool = True
    accumulate: bool = True
    initial: Literal["torch", "kaiming"] = "torch"

    def fits(self, model: nn.Module) -> None:
        hidden_layers(model)

    def init(self, model: nn.Module, data: Present) -> State:
        return self.begin(model, data.generator)

    def begin(self, model: nn.Module, generator: torch.Generator) -> State:
        """The state before the first update: ages, means and utilities of all units are 0."""
        layers = []
        for into, _ in hidden_layers(model):
            zeros = into.weight.new_zeros(len(into.weight))
            layers.append({"age": zeros, "mean": zeros.clone(), "utility": zeros.clone(), "quota": 0.0})
        return {"layers": layers, "seed": int(torch.randint(2**62, (), generator=generator)), "step": 0, "replaced": 0}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        with hidden_activations(model) as state["hidden"]:
            return super().loss(state, model, batch)

    def after_step(self, state: State, model: nn.Module) -> None:
        """Brings the utilities up to date, and replaces what is due."""
        pairs, hidden, due = hidden_layers(model), state.pop("hidden"), []
        draws = of_batch(state["seed"], state["step"])
        state["step"] += 1
        for (into, out), said, units in zip(pairs, hidden, state["layers"], strict=True):
            self.judge(units, into, out, said.to(into.weight))
            due.append(self.due(units, draws))
        for (into, out), units, rows in zip(pairs, state["layers"], due, strict=True):
            if len(rows):
                self.replace(units, into, out, rows, draws)
                state["replaced"] += len(rows)

    @torch.no_grad()
    def judge(self, units: dict[str, Any], into: Layer, out: Layer, said: Tensor) -> None:
        """One step of the running means, from what the units said, [batch, units, ...] or flattened."""
        said = said.reshape(len(said), len(into.weight), -1)  # the positions of a channel last
        units["age"] += 1
        units["mean"].lerp_(said.mean((0, 2)), 1 - self.eta)
        if self.kind == "adaptable":
            said = said - self.said(units)[:, None]
        size = said.abs().mean(0)
        if isinstance(out, nn.Conv2d):  # every entry of the kernel reads every position
            size = size.mean(1, keepdim=True)
        y = (size * out.weight.abs().sum(0).reshape(len(size), -1)).sum(1)
        if self.kind == "adaptable":
            y = y / into.weight.abs().flatten(1).sum(1)
        units["utility"].lerp_(y, 1 - self.eta)

    def said(self, units: dict[str, Any]) -> Tensor:
        """The mean of what each unit said, corrected for its age."""
        return units["mean"] / (1 - self.eta ** units["age"])

    def due(self, units: dict[str, Any], draws: torch.Generator) -> Tensor:
        """The numbers of the units that are replaced now."""
        eligible = (units["age"] > self.maturity).nonzero()[:, 0]
        share = self.rho * len(eligible)
        if self.accumulate:
            units["quota"] += share
            count = min(int(units["quota"]), len(eligible))
            units["quota"] -= count
        else:
            count = int(share) if share >= 1 else int(share > 0 and float(torch.rand((), generator=draws)) <= share)
        utility = units["utility"] / (1 - self.eta ** units["age"])
        return eligible[utility[eligible].topk(count, largest=False).indices]

    @torch.no_grad()
    def replace(self, units: dict[str, Any], into: Layer, out: Layer, rows: Tensor, draws: torch.Generator) -> None:
        """Lets units begin again."""
        positions = out.weight.shape[1] // len(into.weight)
        columns = (rows[:, None] * positions + torch.arange(positions, device=rows.device)).flatten()
        if self.bias_transfer and out.bias is not None:
            leaving = out.weight[:, columns].reshape(len(out.weight), len(rows), -1).sum(2)
            out.bias += leaving @ self.said(units)[rows]
        inputs = into.weight[0].numel()
        bound = (6 / inputs) ** 0.5 if self.initial == "kaiming" else inputs**-0.5
        drawn = torch.rand((len(rows), *into.weight.shape[1:]), generator=draws, dtype=into.weight.dtype)
        into.weight[rows] = ((2 * drawn - 1) * bound).to(into.weight.device)
        out.weight[:, columns] = 0
        renew(into.weight, rows)
        renew(out.weight, (slice(None), columns))
        if into.bias is not None:
            into.bias[rows] = 0
            renew(into.bias, rows)
        for name in ("age", "mean", "utility"):
            units[name][rows] = 0
