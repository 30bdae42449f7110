"""The worlds of tables: few rows to learn from, all of them for the ceiling, and a part to test on for each seed."""

from __future__ import annotations

import dataclasses
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from palimpsest.benches.labelled import LabelledWorld, world_of
from palimpsest.models.vision import mlp
from palimpsest.tasks.tabular import Table, cross_validated, facts, one_hot


def table(seed: int, smoke: bool, *, name: str, rows: int | None = None) -> LabelledWorld:
    """`rows` of a table to train on, all that there are where it is None."""
    about = facts(name)

    def encoded(split: Table) -> Table:
        return dataclasses.replace(split, x=one_hot(split.x, about))

    task = cross_validated(name, seed, train=rows).mapped(encoded)
    classes = len(about.classes)
    networks = {"network": partial(mlp, task.train.x.shape[1], max(1, classes), (64, 64))}
    return world_of(task, networks, seed, smoke, classes=classes)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean squared error of a network with one output."""
    return F.mse_loss(outputs[:, 0], labels)
