"""The world of labels that change their meaning: digits, a small network, and a stream that is seen once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn

from palimpsest.models.vision import mlp
from palimpsest.retain.online_learning import OnlineLearner
from palimpsest.tasks.concept_shift import ConceptShift
from palimpsest.tasks.mnist import mnist
from palimpsest.train.classification import logits_of

STEPS, BATCH = 4000, 4
ONLINE, LATE = "online accuracy", "online accuracy in the last fifth"

Numbers = dict[str, float]


@dataclass(frozen=True, eq=False)
class ShiftWorld:
    """The stream of a seed, and networks with fresh weights."""

    seed: int
    smoke: bool
    data: ConceptShift

    def model(self, kind: str) -> nn.Module:
        return mlp(14 * 14, 10, (100,), seed=self.seed)


def concept_shift(seed: int, smoke: bool, *, every: int | Sequence[int | None] | None = 25) -> ShiftWorld:
    """MNIST at 14 x 14, two digits' names changing places after so many batches of four."""
    rows = mnist(seed).train
    return ShiftWorld(seed, smoke, ConceptShift(rows.x, rows.y, every, 200 if smoke else STEPS, seed))


def online(world: ShiftWorld, model: nn.Module) -> Numbers:
    """The share of rows that was answered rightly before it was learned from; of a model that did not see the stream,
    what it would have been."""
    right = model.right if isinstance(model, OnlineLearner) else answered(world, model)
    return {ONLINE: fmean(right), LATE: fmean(right[-max(1, len(right) // 5) :])}


@torch.no_grad()
def answered(world: ShiftWorld, model: nn.Module) -> list[float]:
    """The share of each batch that a model answers rightly as it is."""
    batch_of = world.data.batches(BATCH, world.seed)
    batches = map(batch_of, range(world.data.steps))
    return [float((logits_of(model, batch).argmax(1) == batch["labels"]).float().mean()) for batch in batches]


def valid_online(world: ShiftWorld, model: nn.Module, cost: Numbers) -> float:
    return online(world, model)[ONLINE]
