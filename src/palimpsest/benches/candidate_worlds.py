"""The world of MNIST with a set of candidates for each label, of which one is right.

Twenty seeds in a row are tested on disjoint images (`palimpsest.tasks.mnist`).
"""

from __future__ import annotations

import dataclasses
from functools import partial

from palimpsest.benches.labelled import LabelledWorld, world_of
from palimpsest.models.vision import cnn
from palimpsest.tasks.mnist import CLASSES
from palimpsest.tasks.mnist_labels import mnist_candidates
from palimpsest.tasks.splits import Split

NETWORKS = {"network": partial(cnn, image_size=14, norm="batch")}


def candidates(seed: int, smoke: bool, *, rate: float = 0.6, known: bool = False) -> LabelledWorld:
    """1,000 images whose labels [n, 10] are 1 at the true class and, at a rate, at each other one; known: whose labels
    [n] are the true classes."""
    task = mnist_candidates(seed, rate, train=100 if smoke else 1000)
    y = task.train.clean_y if known else task.train.candidates.long()
    train = Split(task.train.x, y, task.train.index, task.train.clean_y)
    return world_of(dataclasses.replace(task, train=train), NETWORKS, seed, smoke, classes=CLASSES)
