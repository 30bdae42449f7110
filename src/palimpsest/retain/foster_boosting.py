"""What FOSTER adds to a model for the time of a task, and the compression that takes it away again.

Source: Wang, Zhou, Ye and Zhan (2022), FOSTER: feature boosting and compression for class-incremental learning, arXiv
2204.04662.

Old networks are weights in the state; the model itself is the newest. Its child `boosted` trains with it while a task
is learned and is gone before a checkpoint is made: columns of the last layer for the old networks' features, and a last
layer for the new features alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.continual import Present, State, as_it_was, features_of, last_layer, only_allowed
from palimpsest.retain.increments import of_today
from palimpsest.retain.weight_aligning import aligning_factor
from palimpsest.train.classification import logits_of
from palimpsest.train.method import Objective


def class_weights(counts: Int[Tensor, " classes"], beta: float) -> Float[Tensor, " classes"]:
    """e: (1 - beta) / (1 - beta^n) of every class, over the mean of those that have rows; 1 for those without.

    1 / e is the effective number of rows, which grows as n while that is small and no further than 1 / (1 - beta).

    >>> class_weights(torch.tensor([1, 3, 0]), 0.5)
    tensor([1.2727, 0.7273, 1.0000])
    """
    there = counts > 0
    n = counts[there].to(torch.get_default_dtype())
    e = (1 - beta) / (1 - beta**n)
    return torch.ones(counts.shape).masked_scatter(there, e / e.mean())


class Boosted(nn.Module):
    """Columns for old features, those that train, and a last layer of the new ones."""

    def __init__(self, across: Float[Tensor, "classes old"], weight: Float[Tensor, "classes d"], bias: Tensor) -> None:
        super().__init__()
        self.across = nn.Parameter(across)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def alone(self, features: Float[Tensor, "batch d"]) -> Float[Tensor, "batch classes"]:
        return F.linear(features, self.weight, self.bias)


def drawn(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """Weights as linear layers begin: uniform within 1 / sqrt(inputs)."""
    return (2 * torch.rand(shape, generator=generator) - 1) * inputs**-0.5


def new_columns(
    model: nn.Module, across: Tensor | None, data: Present, *, train_old: bool, for_new: bool
) -> dict[str, Any]:
    """Gives the model its child, and its last layer fresh weights; what was there goes to the columns of old features.

    Args:
        across: the columns of the networks before the last, where there are several.
        train_old, for_new: which rows of the columns train: those of old classes, those of new ones.

    Returns:
        For the state: the columns as they were, the old bias, which rows train and which are 0.
    """
    head = last_layer(model)
    before = torch.cat([*([] if across is None else [across]), head.weight.detach()], 1)
    bias = torch.zeros_like(before[:, 0]) if head.bias is None else head.bias.detach().clone()
    shapes = [(before.shape, before.shape[1] + head.in_features), (head.weight.shape, head.in_features)]
    shapes += [(bias.shape, head.in_features), (head.weight.shape, shapes[0][1])]
    fresh, weight, own_bias, new = (drawn(*each, data.generator).to(head.weight) for each in shapes)
    old = data.old.to(before.device)[:, None]
    model.boosted = Boosted(torch.where(old, before, fresh), weight, own_bias)
    with torch.no_grad():
        head.weight.copy_(new)
    trained = torch.where(old, torch.tensor(train_old), torch.tensor(for_new))
    return {"before": torch.where(old, before, 0), "bias": bias, "trained": trained}


def columns(state: State, model: nn.Module) -> Float[Tensor, "classes old"]:
    """The last layer's weights for the features of the old networks."""
    if not hasattr(model, "boosted"):
        return state["across"]
    return torch.where(state["trained"], model.boosted.across, state["before"])


def boosted_logits(state: State, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of all networks together, the new features, and the old ones."""
    own = {f"boosted.{name}": p.data for name, p in getattr(model, "boosted", nn.Module()).named_parameters()}
    found = []
    for weights in state["networks"]:
        with as_it_was(model, {**own, **weights}):
            found.append(features_of(model, batch))
    before, features = torch.cat(found, 1), features_of(model, batch)
    return F.linear(before, columns(state, model)) + last_layer(model)(features), features, before


def old_logits(state: State, before: Float[Tensor, "batch old"]) -> Float[Tensor, "batch classes"]:
    """What the networks said before the task."""
    return F.linear(before, state["before"], state["bias"])


def removed(state: State, model: nn.Module) -> State:
    """The state with the columns that the model's child held, which is taken off."""
    state = {**state, "across": columns(state, model).detach().clone()}
    del model.boosted
    return state


def aligned(data: Present, value: float, *weights: Float[Tensor, "classes _"]) -> None:
    """Multiplies new classes' weights in place, all columns alike, so that they are as long as those of old classes
    times value^(old / new classes)."""
    new = of_today(data) & ~data.old
    if not new.any():
        return
    gamma = aligning_factor(torch.cat([each.detach() for each in weights], 1), data.old, new)
    with torch.no_grad():
        for each in weights:
            each[new] *= gamma * value ** (int(data.old.sum()) / int(new.sum()))


def balanced_distillation(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    weights: Float[Tensor, " classes"],
    temperature: float = 2.0,
) -> Float[Tensor, ""]:
    """- mean over rows of sum_k p_k log softmax(student / T)_k,  p = softmax(teacher / T) weights over its sum.

    Args:
        student, teacher: -inf for classes that may not be answered.

    >>> z = torch.zeros(1, 2)
    >>> balanced_distillation(z, z, torch.tensor([0.5, 1.5]))
    tensor(0.6931)
    """
    p = (teacher / temperature).softmax(1) * weights
    p = p / p.sum(1, keepdim=True)
    return -(p * (student / temperature).log_softmax(1).masked_fill(p == 0, 0)).sum(1).mean()


@dataclass(frozen=True, eq=False)
class Compression(Objective):
    """Learns what is written as `goal` beside each row: the boosted networks' logits.

    Attributes:
        weights: of the classes' shares.
        temperature: T.
    """

    weights: Tensor
    temperature: float

    def loss(self, state: None, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        student, teacher = (only_allowed(each, batch) for each in (logits_of(model, batch), batch["goal"]))
        return {"goal": balanced_distillation(student, teacher, self.weights.to(student), self.temperature)}
