"""A classifier that is in use is trained again when more rows have come: what did its users lose by it?

Flips are few, and few test rows would not tell two updates apart: hence series that are made from the seed, and 2,000
of them for tests.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from palimpsest.models.forward import evaluating
from palimpsest.models.vision import mlp
from palimpsest.retain.bcwi_measures import negative_flip_rate, positive_flip_rate, share_of_errors_that_are_new
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import Learner, learn_stream
from palimpsest.tasks.mnist1d import CLASSES, LENGTH, mnist1d
from palimpsest.tasks.splits import Split, Splits
from palimpsest.tasks.streams import Stream, domain_tasks

ACCURACY, LOST, WON, NEW_ERRORS = "accuracy", "negative flips", "positive flips", "share of errors that are new"
ALL = 4000  # rows after the update; a quarter of them before it

Numbers = dict[str, float]


@dataclass(frozen=True, eq=False)
class UpdateWorld:
    """A model that learned from few rows, and a stream of two tasks: these rows, and these with more."""

    seed: int
    smoke: bool
    rows: Splits[Split]

    @property
    def data(self) -> Stream:
        few = replace(self.rows, train=self.rows.train[: len(self.rows.train) // 4])
        return Stream(tuple(domain_tasks({"before": few, "after": self.rows})))

    @cached_property
    def old(self) -> nn.Module:
        """The model before the update."""
        first = Stream(self.data.tasks[:1])
        settings = {"steps": 2 if self.smoke else 300, "batch_size": 64, "lr": 3e-3, "seed": self.seed}
        return learn_stream(
            mlp(LENGTH, CLASSES, (128, 128), seed=self.seed), FineTune(), first, progress=False, **settings
        ).model

    def model(self, kind: str) -> nn.Module:
        return copy.deepcopy(self.old)


def series_update(seed: int, smoke: bool) -> UpdateWorld:
    """Series of ten shapes (`palimpsest.tasks.mnist1d`)."""
    sizes = {"train": 80, "validation": 20, "test": 20} if smoke else {"train": ALL, "test": 2000}
    return UpdateWorld(seed, smoke, mnist1d(seed, **sizes))


def updated(world: UpdateWorld, model: nn.Module) -> Numbers:
    """How many rows are named rightly, and what changed for each since the old model."""
    return _compared(world, model, world.rows.test)


def valid_updated(world: UpdateWorld, model: nn.Module, cost: Numbers) -> float:
    """Accuracy less two times the negative flips, on validation rows: one lost weighs as much as three won."""
    found = _compared(world, model, world.rows.validation)
    return found[ACCURACY] - 2 * found[LOST]


def _compared(world: UpdateWorld, model: nn.Module, rows: Split) -> Numbers:
    old, new = _answers(world.old, rows), _answers(model, rows)
    return {
        ACCURACY: float((new == rows.y).double().mean()),
        LOST: negative_flip_rate(old, new, rows.y),
        WON: positive_flip_rate(old, new, rows.y),
        NEW_ERRORS: share_of_errors_that_are_new(old, new, rows.y),
    }


def _answers(model: nn.Module, rows: Split) -> Tensor:
    with torch.no_grad(), evaluating(model):
        if isinstance(model, Learner):
            return model(rows.x, task=1).argmax(1)
        return model(pixel_values=rows.x).logits.argmax(1)
