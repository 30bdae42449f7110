"""The worlds of MNIST with labels that are few, wrong, unbalanced, ambiguous or many.

Each asks for the same small network. Twenty seeds in a row are tested on disjoint images (`palimpsest.tasks.mnist`).
"""

from __future__ import annotations

import dataclasses
from functools import partial

from palimpsest.benches.labelled import LabelledWorld, world_of
from palimpsest.models.vision import cnn
from palimpsest.tasks.mnist import CLASSES, mnist
from palimpsest.tasks.mnist_labels import mnist_few, mnist_longtail, mnist_noisy
from palimpsest.tasks.splits import Split

NETWORKS = {"network": partial(cnn, image_size=14, norm="batch")}
SMOKE = 300  # rows of a smoke run


def few(seed: int, smoke: bool, *, labels: int = 4) -> LabelledWorld:
    """`labels` a class, or all of them where it is 0; the other rows without."""
    task = mnist_few(seed, max(1, labels), **_size(smoke))
    if not labels:
        task = dataclasses.replace(task, train=_true(task.train))
    return world_of(task, NETWORKS, seed, smoke, classes=CLASSES)


def noisy(seed: int, smoke: bool, *, clean: bool = False) -> LabelledWorld:
    """1,000 images, half of whose labels are wrong, in validation too; clean: the training labels are right."""
    task = mnist_noisy(seed, 0.5, train=SMOKE if smoke else 1000)
    if clean:
        task = dataclasses.replace(task, train=_true(task.train))
    return world_of(task, NETWORKS, seed, smoke, classes=CLASSES)


def long_tail(seed: int, smoke: bool, *, balanced: bool = False) -> LabelledWorld:
    """A tail of 100 to 1; balanced: as many rows, equally many a class."""
    task = mnist_longtail(seed)
    if balanced:
        task = mnist(seed, train=len(task.train))
    return world_of(task, NETWORKS, seed, smoke, classes=CLASSES)


def _true(split: Split) -> Split:
    return dataclasses.replace(split, y=split.clean_y)


def _size(smoke: bool) -> dict[str, int]:
    return {"train": SMOKE} if smoke else {}
