"""The world of MNIST-1D: 4,000 series to train on, fresh for every seed, and two networks that learn from them."""

from __future__ import annotations

from functools import partial

from palimpsest.benches.labelled import LabelledWorld, world_of
from palimpsest.models.series import series_cnn
from palimpsest.models.vision import mlp
from palimpsest.tasks.mnist1d import CLASSES, LENGTH, mnist1d

NETWORKS = {"mlp": partial(mlp, LENGTH, CLASSES, (128, 128)), "cnn": series_cnn}


def series(seed: int, smoke: bool) -> LabelledWorld:
    """All rows with their labels."""
    sizes = {"train": 64, "validation": 20, "test": 20} if smoke else {}
    return world_of(mnist1d(seed, **sizes), NETWORKS, seed, smoke, classes=CLASSES)
