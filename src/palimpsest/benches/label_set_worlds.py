"""The world of mosaics of MNIST digits, of whose labels one positive each was observed.

Twenty seeds in a row are tested on disjoint images (`palimpsest.tasks.mnist`).
"""

from __future__ import annotations

from functools import partial

from palimpsest.benches.labelled import LabelledWorld, world_of
from palimpsest.models.vision import cnn
from palimpsest.tasks.digits_mosaics import Mosaics
from palimpsest.tasks.mnist import CLASSES
from palimpsest.tasks.mnist_labels import mnist_multilabel
from palimpsest.tasks.splits import Split

CELL = 10  # side of a mosaic's cell
NETWORKS = {"network": partial(cnn, image_size=2 * CELL, norm="batch")}


def one_positive(seed: int, smoke: bool, *, known: bool = False) -> LabelledWorld:
    """Mosaics of one to four digits of which one is in the labels [n, 10]; known: of which all are."""
    sizes = {"train": 64, "validation": 20, "test": 40} if smoke else {}
    task = mnist_multilabel(seed, size=CELL, one_positive=not known, **sizes)
    return world_of(task.mapped(_as_split), NETWORKS, seed, smoke, classes=CLASSES)


def _as_split(mosaics: Mosaics) -> Split:
    return Split(mosaics.x, mosaics.y.long(), mosaics.index)
