"""The kit of benches on labelled rows: their world, and how what a model says of the test rows is measured.

A module of worlds beside each bench says which rows a seed has and which networks learn from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.metrics import average_precision_score, r2_score
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.metrics.calibration import expected_calibration_error
from palimpsest.models.forward import evaluating
from palimpsest.tasks.labelled import Labelled
from palimpsest.tasks.splits import Splits
from palimpsest.train.classification import logits_of

Numbers = dict[str, float]


@dataclass(frozen=True, eq=False)
class LabelledWorld:
    """The rows of a seed, and networks to train on them.

    Attributes:
        data: what methods learn from.
        validation, test: rows with labels; what is read on the test rows is never read before the end.
        networks: kind -> (seed) -> a network with fresh weights.
    """

    seed: int
    smoke: bool
    data: Labelled
    validation: Any
    test: Any
    networks: Mapping[str, Callable[..., nn.Module]]

    def model(self, kind: str) -> nn.Module:
        return self.networks[kind](seed=self.seed)


def world_of(
    task: Splits, networks: Mapping[str, Callable[..., nn.Module]], seed: int, smoke: bool, *, classes: int
) -> LabelledWorld:
    """The world of a task. Training rows whose label is -1 are the unlabelled ones."""
    rows, unlabelled = task.train, None
    if classes and (rows.y < 0).any():
        rows, unlabelled = rows[rows.y >= 0], rows[rows.y < 0]
    return LabelledWorld(seed, smoke, Labelled(rows, classes, unlabelled), task.validation, task.test, networks)


def logits_on(model: nn.Module, rows: Any) -> Tensor:
    """What a model says of all rows, in eval mode."""
    with evaluating(model):
        return logits_of(model, rows.batch(slice(None)))


def class_scores(world: LabelledWorld, model: nn.Module) -> Numbers:
    """Accuracy, log loss and calibration error on the test rows."""
    logits, labels = logits_on(model, world.test), world.test.y
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "log loss": F.cross_entropy(logits.double(), labels).item(),
        "calibration error": expected_calibration_error(logits.double().softmax(1), labels),
    }


def balanced_scores(world: LabelledWorld, model: nn.Module) -> Numbers:
    """The mean over classes of the share of their test rows that is found, and that of the worst class."""
    recall = recalls(logits_on(model, world.test), world.test.y)
    return {"balanced accuracy": recall.mean().item(), "worst class": recall.min().item()}


def label_scores(world: LabelledWorld, model: nn.Module) -> Numbers:
    """The mean over labels of the average precision on the test rows."""
    return {"mean average precision": mean_average_precision(logits_on(model, world.test), world.test.y)}


def number_scores(world: LabelledWorld, model: nn.Module) -> Numbers:
    """R squared on the test rows, whatever unit the training rows give the number."""
    return {"R squared": float(r2_score(world.test.y, logits_on(model, world.test)[:, 0]))}


def valid_accuracy(world: LabelledWorld, model: nn.Module, cost: Numbers) -> float:
    return (logits_on(model, world.validation).argmax(1) == world.validation.y).double().mean().item()


def valid_balanced_accuracy(world: LabelledWorld, model: nn.Module, cost: Numbers) -> float:
    return recalls(logits_on(model, world.validation), world.validation.y).mean().item()


def valid_log_likelihood(world: LabelledWorld, model: nn.Module, cost: Numbers) -> float:
    return -F.cross_entropy(logits_on(model, world.validation).double(), world.validation.y).item()


def valid_precision(world: LabelledWorld, model: nn.Module, cost: Numbers) -> float:
    return mean_average_precision(logits_on(model, world.validation), world.validation.y)


def valid_r_squared(world: LabelledWorld, model: nn.Module, cost: Numbers) -> float:
    return float(r2_score(world.validation.y, logits_on(model, world.validation)[:, 0]))


def recalls(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of each class's rows that is found; of the classes that occur."""
    right = (logits.argmax(1) == labels).double()
    return torch.stack([right[labels == label].mean() for label in labels.unique()])


def mean_average_precision(logits: Tensor, labels: Tensor) -> float:
    return float(average_precision_score(labels.numpy(), logits.numpy(), average="macro"))
