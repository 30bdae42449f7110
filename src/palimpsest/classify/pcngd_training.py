"""PCNGD and its kin in batches, and what they are told apart by (Francazi et al. 2022, arXiv 2207.00391)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.classify.pcngd import (
    Loss,
    agreements,
    class_grads,
    descend,
    gd_direction,
    pcngd_direction,
    sum_direction,
)
from palimpsest.models.forward import evaluating

Rule = Literal["GD", "PCNGD", "SGD", "PCNSGD", "PCNSGD+R", "SGD+O", "PCNSGD+O"]
RULES = ("GD", "PCNGD", "SGD", "PCNSGD", "PCNSGD+R", "SGD+O", "PCNSGD+O")


def train(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    rule: Rule,
    *,
    steps: int,
    lr: float,
    batch_size: int = 64,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
) -> list[dict[int, float]]:
    """Take steps of one of the rules, and read the recall of each class on the training rows before each and at the
    end: the curves that the paper is about. The model changes in place.

    Args:
        rule: GD and PCNGD see all rows at each step; of the others a batch holds each class in its share of the data,
            one row at least, or with +O as many rows of each, the small class's drawn again in turn.

    Raises:
        ValueError: an unknown rule, fewer than two classes, or a number that is not positive.
    """
    if rule not in RULES or steps < 1 or not lr > 0 or len(labels.unique()) < 2:
        raise ValueError(f"need one of {', '.join(RULES)}, a step, an lr and two classes, got {rule!r}, {steps}, {lr}")
    members = {label: (labels == label).nonzero()[:, 0] for label in labels.unique().tolist()}
    counts = {label: len(rows) for label, rows in members.items()}
    batches = None if rule in ("GD", "PCNGD") else class_batches(members, batch_size, rule.endswith("+O"), seed)
    curve = [recalls(model, x, labels)]
    for _ in range(steps):
        rows = slice(None) if batches is None else next(batches)
        grads = class_grads(model, loss, x[rows], labels[rows])
        if rule in ("GD", "SGD"):
            direction = gd_direction(grads, counts)
        elif rule == "SGD+O":
            direction = sum_direction(grads)
        else:
            known = agreements(grads, class_grads(model, loss, x, labels)) if rule == "PCNSGD+R" else None
            direction = pcngd_direction(grads, known)
        descend(model, direction, lr)
        curve.append(recalls(model, x, labels))
    return curve


def class_batches(
    members: dict[int, Tensor], batch_size: int, equal: bool = False, seed: int = 0
) -> Iterator[Int[Tensor, " batch"]]:
    """Row numbers of batches that hold every class: in its share of the rows, or equally. Each class goes through its
    own rows in turn, and is shuffled anew when it is through.

    >>> members = {0: torch.arange(9), 1: torch.arange(9, 10)}
    >>> [int((next(class_batches(members, 6, equal)) == 9).sum()) for equal in (False, True)]
    [1, 3]
    """
    draws = torch.Generator().manual_seed(seed)
    total = sum(map(len, members.values()))
    waiting = {label: torch.empty(0, dtype=torch.long) for label in members}
    while True:
        batch = []
        for label, rows in members.items():
            size = max(1, round(batch_size / len(members) if equal else batch_size * len(rows) / total))
            while len(waiting[label]) < size:
                waiting[label] = torch.cat([waiting[label], rows[torch.randperm(len(rows), generator=draws)]])
            batch.append(waiting[label][:size])
            waiting[label] = waiting[label][size:]
        yield torch.cat(batch)


def directional_noise(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    batch_size: int,
    repeats: int = 20,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
) -> dict[int, float]:
    """class -> the mean cosine of a batch's gradient of the class with that of all of its rows; 1 is no noise. Of rare
    classes a batch has few rows, and it is low."""
    members = {label: (labels == label).nonzero()[:, 0] for label in labels.unique().tolist()}
    whole, batches = class_grads(model, loss, x, labels), class_batches(members, batch_size, seed=seed)
    found: dict[int, list[float]] = {label: [] for label in members}
    for _ in range(repeats):
        rows = next(batches)
        for label, cosine in agreements(class_grads(model, loss, x[rows], labels[rows]), whole).items():
            found[label].append(cosine)
    return {label: sum(each) / len(each) for label, each in found.items()}


def recalls(model: nn.Module, x: Tensor, labels: Int[Tensor, " n"]) -> dict[int, float]:
    """class -> the share of its rows that is found."""
    with evaluating(model):
        output = model(x)
    right = (getattr(output, "logits", output).argmax(1) == labels).double()
    return {label: float(right[labels == label].mean()) for label in labels.unique().tolist()}


def minority_initial_drop(curve: Sequence[float]) -> tuple[float, int]:
    """How far the recall of the rare class falls below its first value, and for how many steps it is below it, before
    it has come back.

    >>> minority_initial_drop([0.5, 0.25, 0.0, 0.5, 0.4])
    (0.5, 2)
    """
    first = curve[0]
    back = next((at for at, value in enumerate(curve[1:], 1) if value >= first), len(curve))
    return first - min(curve[:back]), back - 1


def learning_lag(many: Sequence[float], few: Sequence[float], level: float = 0.5) -> int:
    """By how many steps later the rare class's recall is at the level for good; the length of the curve stands for
    never.

    >>> learning_lag([0.0, 0.6, 0.9], [0.6, 0.2, 0.7])
    1
    """

    def reached(curve: Sequence[float]) -> int:
        below = [at for at, value in enumerate(curve) if value < level]
        return below[-1] + 1 if below else 0

    return reached(few) - reached(many)
