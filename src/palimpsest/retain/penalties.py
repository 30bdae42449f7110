"""Old weights are held where they matter: penalties on the way from them, and means of old and new.

    EWC             strength / 2 sum over earlier tasks t and weights i of F_ti (w_i - w*_ti)^2
    OnlineEWC       the same with one running F <- gamma F + F_t and the last w*
    SI              strength sum_i Omega_i (w_i - w*_i)^2,
                    Omega_i <- relu(Omega_i + sum_steps -g_i dw_i / (D_i^2 + damping)),  D_i the task's way from w*_i
    L2Init          strength sum_i (w_i - w0_i)^2
    Interpolation   after a task: share of the old weights, 1 - share of the new ones

Sources: EWC: Kirkpatrick et al. (2017), arXiv 1612.00796; online: Schwarz et al. (2018), Progress and compress, arXiv
1805.06370; SI: Zenke, Poole and Ganguli (2017), arXiv 1703.04200; L2 to the first weights: Kumar, Marklund and Van Roy
(2023), arXiv 2308.11958, and Li et al. (2018), L2-SP, arXiv 1802.01483; interpolation: Wortsman et al. (2021), Robust
fine-tuning of zero-shot models, arXiv 2109.01903.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from palimpsest.retain.continual import (
    Continual,
    Present,
    State,
    Weights,
    cross_entropy,
    everything_of,
    only_allowed,
    put_back,
    weights_of,
)
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import Above, AtLeast, AtMost

Labels = Literal["exact", "sampled", "empirical"]


def diagonal_fisher(model: nn.Module, data: Present, *, rows: int = 200, labels: Labels = "exact") -> Weights:
    """The diagonal of the Fisher information: mean over rows of the squared gradient of log p(label | row).

    Args:
        model: in eval mode.
        data: whose rows it is of.
        rows: at most so many, drawn at random.
        labels: "exact" takes every class weighted by its probability, "sampled" one that the model draws: both are the
            Fisher information; "empirical" takes the labels of the data, as many programs do. Of rows of tokens
            "exact" draws, too, a token for each.

    Returns:
        A tensor for every parameter that trains, by its name.
    """
    weights = weights_of(model)
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    drawn = data.rows.at(torch.randperm(len(data.rows), generator=data.generator)[:rows])
    if "input_ids" in drawn.columns:
        from palimpsest.retain.tokens import fisher  # late: transformers takes seconds

        return fisher(model, drawn.columns, data.generator, own=labels == "empirical")

    def log_likelihood(weights: Weights, row: Mapping[str, Tensor], label: Tensor) -> Tensor:
        one = {name: value[None] for name, value in row.items()}
        logits = only_allowed(logits_of(lambda x: functional_call(model, weights, (x,)), one), one)
        return logits.log_softmax(1)[0].gather(0, label[None])[0]

    of_rows = vmap(grad(log_likelihood), (None, 0, 0))
    for batch in data.batches(drawn, model):
        with torch.no_grad():
            p = only_allowed(logits_of(model, batch), batch).softmax(1)
        for label, share in _asked(labels, p, batch["labels"], data.generator):
            for name, gradients in of_rows(weights, batch, label).items():
                total[name] += torch.einsum("n,n...->...", share, gradients.square())
    return {name: value / len(drawn) for name, value in total.items()}


def _asked(labels: Labels, p: Tensor, own: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """The labels whose gradients are taken, a row each, and how much each counts."""
    if labels == "exact":
        for label in (p.sum(0) > 0).nonzero()[:, 0]:
            yield label.expand(len(p)), p[:, label]
        return
    if labels == "sampled":
        own = torch.multinomial(p.cpu(), 1, generator=generator)[:, 0].to(p.device)
    yield own, torch.ones_like(p[:, 0])


def penalty(model: nn.Module, importance: Weights, anchor: Weights) -> Tensor:
    """sum_i importance_i (w_i - anchor_i)^2 over the parameters that train."""
    return sum(
        (importance[name] * (p - anchor[name]).square()).sum() for name, p in model.named_parameters() if name in anchor
    )


@dataclass(frozen=True)
class EWC(Continual):
    """Elastic weight consolidation, with a penalty for every earlier task.

    The sum of all penalties is one parabola a weight: curvature sum_t F_t, centre the mean of the w*_t weighted by F_t.
    So it takes the memory of one task however many there were.

    Attributes:
        strength: weight of the penalty.
        fisher_rows: rows of a task that its importance is estimated on.
        labels: whose gradients make the importance; see `diagonal_fisher`.
    """

    strength: Annotated[float, AtLeast(0)] = 100.0
    fisher_rows: Annotated[int, AtLeast(1)] = 200
    labels: Labels = "exact"

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        terms = {"new": cross_entropy(model, batch)}
        if state:
            held = penalty(model, state["importance"], state["anchor"]) + state["least"]
            terms["held"] = self.strength / 2 * held
        return terms

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        fisher = diagonal_fisher(model, data, rows=self.fisher_rows, labels=self.labels)
        return self.added(state, fisher, weights_of(model))

    def added(self, state: State, fisher: Weights, weights: Weights) -> State:
        """The penalty with one task more."""
        if not state:
            return {
                "importance": fisher,
                "anchor": weights,
                "least": torch.zeros_like(next(iter(fisher.values())).sum()),
            }
        importance, anchor, least = {}, {}, state["least"].clone()
        for name, f in fisher.items():
            before, centre = state["importance"][name], state["anchor"][name]
            importance[name] = before + f
            share = torch.where(importance[name] > 0, f / importance[name].clamp(min=torch.finfo(f.dtype).tiny), 0)
            anchor[name] = centre + share * (weights[name] - centre)
            least += (before * share * (weights[name] - centre).square()).sum().cpu()
        return {"importance": importance, "anchor": anchor, "least": least}


@dataclass(frozen=True)
class OnlineEWC(EWC):
    """Elastic weight consolidation with one penalty, around the last weights.

    Attributes:
        strength, fisher_rows, labels: as in `EWC`.
        gamma: how much of the earlier importance stays with each task.
    """

    gamma: Annotated[float, AtLeast(0), AtMost(1)] = 1.0

    def added(self, state: State, fisher: Weights, weights: Weights) -> State:
        before = state["importance"] if state else fisher
        keep = self.gamma if state else 0.0
        importance = {name: keep * before[name] + f for name, f in fisher.items()}
        return {"importance": importance, "anchor": weights, "least": torch.zeros(())}


@dataclass(frozen=True)
class SI(Continual):
    """Synaptic intelligence: a weight matters by how much the loss fell as it moved.

    The loss is the task's own: the gradient g has no part of the penalty, though the steps dw follow both.

    Attributes:
        strength: weight of the penalty.
        damping: keeps the importance of weights that did not move finite.
    """

    strength: Annotated[float, AtLeast(0)] = 1.0
    damping: Annotated[float, Above(0)] = 0.1

    def init(self, model: nn.Module, data: Present) -> State:
        return {"importance": {name: torch.zeros_like(value) for name, value in weights_of(model).items()}}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        now = weights_of(model)
        zeros = {name: torch.zeros_like(value) for name, value in now.items()}
        return {**state, "anchor": now, "fallen": zeros, "last": {}}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        held = penalty(model, state["importance"], state["anchor"])
        return {"new": cross_entropy(model, batch), "held": self.strength * held}

    def gradients(self, state: State, model: nn.Module) -> None:
        """Adds up how far the last step went down, and notes where this one begins."""
        self._add(state, model)
        for name, p in model.named_parameters():
            if name in state["anchor"] and p.grad is not None:
                where = p.detach()
                of_penalty = 2 * self.strength * state["importance"][name] * (where - state["anchor"][name])
                state["last"][name] = torch.stack([where, p.grad - of_penalty])

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        if "last" not in state:  # a task that was learned elsewhere tells nothing of the way
            return state
        self._add(state, model)
        importance, now = {}, weights_of(model)
        for name, before in state["importance"].items():
            moved = (now[name] - state["anchor"][name]).square()
            importance[name] = (before + state["fallen"][name] / (moved + self.damping)).clamp(min=0)
        return {"importance": importance}

    def _add(self, state: State, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if name in state["last"]:
                where, gradient = state["last"][name]
                state["fallen"][name] -= gradient * (p.detach() - where)
        state["last"] = {}


@dataclass(frozen=True)
class L2Init(Continual):
    """A penalty on the way from the weights that the stream began with, or that the task began with.

    Attributes:
        strength: weight of the penalty.
        anchor: "first" keeps what was there before the stream, and the network able to learn; "previous" what the last
            task left.
    """

    strength: Annotated[float, AtLeast(0)] = 1e-2
    anchor: Literal["first", "previous"] = "first"

    def init(self, model: nn.Module, data: Present) -> State:
        return {"anchor": weights_of(model)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return state if self.anchor == "first" else {"anchor": weights_of(model)}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        far = sum((p - state["anchor"][name]).square().sum() for name, p in model.named_parameters() if p.requires_grad)
        return {"new": cross_entropy(model, batch), "held": self.strength * far}


@dataclass(frozen=True)
class Interpolation(Continual):
    """Fine-tuning, and then some of the way back: the weights are a mean of those before the task and after it.

    Attributes:
        share: of the weights before the task; 0 is fine-tuning.
    """

    share: Annotated[float, AtLeast(0), AtMost(1)] = 0.5

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {"old": everything_of(model)} if data.number else state

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        if "old" in state:
            put_back(model, interpolated(state["old"], everything_of(model), self.share))
            refresh_batch_norm(model, data)
        return {}


def interpolated(old: Weights, new: Weights, share: float) -> Weights:
    """share * old + (1 - share) * new for tensors of floating point, the new ones of others; at 0 and 1 the very bits.

    >>> interpolated({"w": torch.zeros(1)}, {"w": torch.ones(1)}, 0.25)
    {'w': tensor([0.7500])}
    """
    mixed = {
        name: share * old[name] + (1 - share) * value if value.is_floating_point() else value
        for name, value in new.items()
    }
    return mixed if 0 < share < 1 else {name: (old if share else new)[name] for name in new}


def refresh_batch_norm(model: nn.Module, data: Present) -> None:
    """Takes the statistics of batch norm anew on the task's rows, which weights that were not trained so need."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [(norm, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()
        for batch in data.batches(data.shuffled(), model):
            logits_of(model, batch)
        model.eval()
    for norm, momentum in before:
        norm.momentum = momentum
