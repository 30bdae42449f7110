"""The world of unlabelled digits: few classes with many images each, so that one in ten negatives is a false one.

A network sees random views of MNIST images, 14 x 14 pixels large. Its features, without the head that a loss reads,
must then tell the digits of each seed's own 100 test images, among the images that were trained on or by one label a
class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.benches.glyphs_world import CALIBRATION, FEATURES, Pixels, embedded, encoder, projected
from palimpsest.contrast.heads import Projected
from palimpsest.metrics.probes import few_label_accuracy
from palimpsest.metrics.retrieval import average_precision
from palimpsest.tasks.digits_views import view_batches
from palimpsest.tasks.mnist import mnist
from palimpsest.tasks.splits import Split, Splits

SIZE = 14
SAME, ONE_LABEL = "retrieval of the same digit", "nearest, one label a class"


@dataclass(frozen=True)
class Digits:
    """A seed's images, networks and batches of views.

    Attributes:
        seed: of the data, the weights, and what is drawn to ask with.
        smoke: a few images.
    """

    seed: int
    smoke: bool = False

    @cached_property
    def splits(self) -> Splits[Split]:
        return mnist(self.seed, size=SIZE, **({"train": 100} if self.smoke else {}))

    @property
    def data(self) -> Digits:
        return self

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        return view_batches(self.splits.train, min(batch_size, len(self.splits.train)), seed=seed)

    def model(self, kind: str) -> nn.Module:
        """ "network": an encoder with a projection head; "untrained": the same, with the statistics of training images
        in its batch norm; "pixels": the images themselves."""
        if kind == "pixels":
            return Pixels()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Projected(encoder(), projected(FEATURES))
        if kind == "untrained":
            with torch.no_grad():
                model.train()(self.splits.train.x[:CALIBRATION])
        return model


def measures(world: Digits, model: nn.Module) -> dict[str, float]:
    """Of the features of the seed's test images; by cosine."""
    train, test = (embedded(model, split.x) for split in (world.splits.train, world.splits.test))
    rows = (train, world.splits.train.y, test, world.splits.test.y)
    named = few_label_accuracy(*rows, draws=2 if world.smoke else 20, seed=world.seed)
    return {SAME: retrieval(*rows), ONE_LABEL: named["kNN accuracy"]}


def validate(world: Digits, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """The retrieval of 500 images that no test asks for."""
    train, rows = world.splits.train, world.splits.validation
    return retrieval(embedded(model, train.x), train.y, embedded(model, rows.x), rows.y)


def retrieval(gallery: Tensor, labels: Tensor, queries: Tensor, truth: Tensor) -> float:
    """The mean average precision of finding a query's class in the gallery, by inner product."""
    order = (queries @ gallery.T).argsort(1, descending=True)
    return float(average_precision(labels[order] == truth[:, None]).mean())
