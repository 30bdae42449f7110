"""Handwritten digits: 1,797 images of 8 x 8 pixels that ship with scikit-learn.

The plain task. Its variants live beside it: `digits_images`
(operations on images), `digits_labels` (wrong, missing and unbalanced labels), `digits_streams` (tasks that arrive
one after another), `digits_domains` (the same digits in other looks; colours that mislead), `digits_views` (random
views of one image), `digits_mosaics` (several digits in an image) and `digits_scenes` (coloured digits with
captions).

Two conventions hold in all of them. What builds a task takes a `seed`; what acts on given data takes a
`torch.Generator`. Neither touches the global random state. And an image carries its row in scikit-learn's table as
`index`, so that splits made at different times can be compared.

Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.digits_images import add_noise, resize
from palimpsest.tasks.fresh import check_disjoint, generator, row_keys, split_seed, stratified_order
from palimpsest.tasks.splits import Split, Splits

CLASSES = 10
SIZE = 8


def digits(
    seed: int,
    *,
    train: int | None = None,
    validation: int = 200,
    test: int = 450,
    classes: Sequence[int] = tuple(range(CLASSES)),
    noise: float = 0.0,
    size: int = SIZE,
) -> Splits[Split]:
    """The digits, split anew by each seed, stratified by class, no image in two splits.

    A random stratified order of all the images is cut: the first `test` are the test set, the next `validation` the
    validation set, the rest is for training. A smaller training set is therefore contained in a larger one of the
    same seed, and its test set is the same one. `classes` are picked after cutting, so that no image that tests one
    choice of classes trains another.

    Args:
        seed: 0 to 999,999.
        train: how many images to train on; None takes all that remain (1,147 with the defaults, 1,347 without a
            validation set). Counted after the choice of classes.
        validation: how many to choose settings on, over all ten classes.
        test: how many to test on, over all ten classes.
        classes: which digits to keep; labels stay what they are.
        noise: standard deviation of Gaussian noise added to every pixel (then clipped to [0, 1]).
        size: side of the images; other than 8, they are resized bilinearly.

    Returns:
        Images [n, 1, size, size] float32 in [0, 1] with labels 0 to 9.

    Raises:
        ValueError: an argument is out of its range, or there are not that many images.

    Example:
        >>> task = digits(0, train=300)
        >>> tuple(task.train.x.shape), len(task.validation), len(task.test)
        ((300, 1, 8, 8), 200, 450)
        >>> bool(task.test.y.bincount().min() >= 42), bool(task.test.y.bincount().max() <= 48)
        (True, True)
    """
    x, y, index = _table()
    if min(validation, test) < 0 or validation + test > len(y):
        raise ValueError(f"validation and test must share {len(y)} images, got {validation} and {test}")
    if not set(classes) <= set(range(CLASSES)) or len(set(classes)) != len(classes) or not classes:
        raise ValueError(f"classes must be distinct digits from 0 to 9, got {tuple(classes)}")
    order = stratified_order(y, np.random.default_rng(split_seed(seed, "train")))
    parts = {
        "test": order[:test],
        "validation": order[test : test + validation],
        "train": order[test + validation :],
    }
    parts = {name: rows[np.isin(y[rows], list(classes))] for name, rows in parts.items()}
    if train is not None:
        if not 0 <= train <= len(parts["train"]):
            raise ValueError(f"train must be from 0 to the {len(parts['train'])} images that remain, got {train}")
        parts["train"] = parts["train"][:train]
    check_disjoint(**{name: row_keys(x[rows]) for name, rows in parts.items()})

    def split(name: str) -> Split:
        images = resize(torch.from_numpy(x[parts[name]]), size)
        if noise:
            images = add_noise(images, noise, generator(seed, name))
        return Split(images, *(torch.from_numpy(column[parts[name]]) for column in (y, index)))

    return Splits(split("train"), split("validation"), split("test"))


def drawn(
    seed: int,
    draw: Callable[[Split, int, torch.Generator], T],
    *,
    train: int,
    validation: int,
    test: int,
    classes: Sequence[int] = tuple(range(CLASSES)),
    stream: int = 1,
) -> Splits[T]:
    """A task whose items are drawn from the digits: each split from images of its own.

    Args:
        seed: 0 to 999,999.
        draw: `draw(pool, n, generator)` makes n items from the images in `pool`.
        train: how many items to train on, made from 1,147 images (fewer where only some classes are used).
        validation: how many to choose settings on, made from 200 other images.
        test: how many to test on, made from 450 other images.
        classes: which digits to use.
        stream: number of the random stream; variants use different ones.

    Example:
        >>> task = drawn(0, lambda pool, n, generator: pool[:n], train=20, validation=5, test=10)
        >>> len(task.train), len(task.validation), len(task.test)
        (20, 5, 10)
    """
    for name, count in (("train", train), ("validation", validation), ("test", test)):
        if count < 0:
            raise ValueError(f"{name} must not be negative, got {count}")
    pools = digits(seed, classes=classes)
    return Splits(
        draw(pools.train, train, generator(seed, "train", stream)),
        draw(pools.validation, validation, generator(seed, "validation", stream)),
        draw(pools.test, test, generator(seed, "test", stream)),
    )


def digit_of(index: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The digit that each of scikit-learn's images shows, by its row; -1 for -1 (where labels say something else).

    >>> train = digits(0).train
    >>> bool((digit_of(train.index) == train.y).all())
    True
    """
    _, y, rows = _table()
    digit = torch.full((int(rows.max()) + 2,), -1)
    digit[torch.tensor(rows)] = torch.tensor(y)
    return digit[index]


def images_at(index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape 1 8 8"]:
    """scikit-learn's images by their row, in [0, 1].

    >>> train = digits(0).train
    >>> bool((images_at(train.index) == train.x).all())
    True
    """
    x, _, rows = _table()
    return torch.tensor(x[np.searchsorted(rows, index.numpy())])


@cache
def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [n, 1, 8, 8] in [0, 1], labels [n] and their rows in scikit-learn's table, each image kept once."""
    from sklearn.datasets import load_digits  # late: takes longer to import than to load

    table = load_digits()
    # The copy that ships holds no image twice; should another one, a copy must not land in a second split.
    _, rows = np.unique(table.data, axis=0, return_index=True)
    rows = np.sort(rows)
    columns = (table.images[rows, None].astype(np.float32) / 16, table.target[rows].astype(np.int64), rows)
    for column in columns:
        column.setflags(write=False)
    return columns
