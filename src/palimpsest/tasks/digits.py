"""Handwritten digits: 1,797 images of 8 x 8 pixels that ship with scikit-learn.

The plain task, and the containers that all its variants share. The variants live beside it: `digits_images`
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

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.digits_images import add_noise, resize
from palimpsest.tasks.fresh import check_disjoint, generator, row_keys, split_seed, stratified_order

CLASSES = 10
SIZE = 8

R = TypeVar("R", bound="Rows")
T = TypeVar("T")


class Rows:
    """Frozen dataclasses whose fields are aligned by row (tensors and tuples of one length; None where absent)."""

    def __post_init__(self) -> None:
        lengths = {field: len(value) for field, value in vars(self).items() if value is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the fields of {type(self).__name__} must have equally many rows, got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def __getitem__(self: R, rows: slice | Sequence[int] | Tensor) -> R:
        """The given rows (a slice, a list of row numbers, or a tensor of row numbers or booleans) of every field."""
        if isinstance(rows, int):
            raise TypeError(f"take rows by slice, list or tensor, not by a single number: use [{rows}:{rows + 1}]")
        rows = torch.arange(len(self))[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        return dataclasses.replace(self, **{field: _take(value, rows) for field, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Split(Rows):
    """Images with labels.

    Attributes:
        x: images, float32, in [0, 1] unless noise was added without clipping.
        y: the labels to train on (a second dimension where an image has several).
        index: which of scikit-learn's images a row was made from; -1 where it was made from none.
        clean_y: the true labels, where `y` is wrong on purpose.
        domain: the look or the environment of a row, where there are several.
        colour: the colour of a row, where there is one.
    """

    x: Float[Tensor, "n channels height width"]
    y: Int[Tensor, "n *tasks"]
    index: Int[Tensor, "n *glyphs"]
    clean_y: Int[Tensor, "n *tasks"] | None = None
    domain: Int[Tensor, " n"] | None = None
    colour: Int[Tensor, " n"] | None = None

    def batch(self, rows: slice | Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Rows as the keywords of an image classifier: `pixel_values` and `labels`, and the row numbers as `index`.

        >>> from palimpsest.train.order import shuffled
        >>> train = digits(0).train
        >>> order = shuffled(len(train), batch_size=32)
        >>> batches = lambda step: train.batch(order(step))
        >>> {name: tuple(value.shape) for name, value in batches(0).items()}
        {'pixel_values': (32, 1, 8, 8), 'labels': (32,), 'index': (32,)}
        """
        part = self[rows]
        index = torch.arange(len(self))[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        return {"pixel_values": part.x, "labels": part.y, "index": index}

    def of(self, classes: Sequence[int]) -> Split:
        """The rows whose label is one of `classes`."""
        return self[torch.isin(self.y, torch.as_tensor(list(classes)))]

    def relabelled(self, classes: Sequence[int]) -> Split:
        """Labels become their positions in `classes`, which must hold all that occur.

        >>> digits(0).train.of((3, 7)).relabelled((3, 7)).y.unique()
        tensor([0, 1])
        """
        position = {label: place for place, label in enumerate(classes)}
        unknown = sorted(set(self.y.flatten().tolist()) - position.keys())
        if unknown:
            raise ValueError(f"the label {unknown[0]} is not among the classes {tuple(classes)}")
        y = torch.tensor([position[label] for label in self.y.flatten().tolist()], dtype=torch.long)
        return dataclasses.replace(self, y=y.reshape(self.y.shape))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Split:
        """The same rows with `x` replaced by `change(x)`."""
        return dataclasses.replace(self, x=change(self.x))


@dataclass(frozen=True)
class Splits(Generic[T]):
    """A task: data to train on, to choose settings on, and to test on."""

    train: T
    validation: T
    test: T

    def mapped(self, change: Callable[[T], T]) -> Splits[T]:
        """`change` applied to each of the three."""
        return Splits(change(self.train), change(self.validation), change(self.test))


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


def partition(split: Split, sizes: Sequence[int], generator: torch.Generator) -> list[Split]:
    """Disjoint random parts of the given sizes, each stratified by label (clients, halves, old and new images).

    >>> old, new = partition(digits(0).train, (150, 450), torch.Generator().manual_seed(0))
    >>> len(old), len(new), bool(torch.isin(old.index, new.index).any())
    (150, 450, False)

    Raises:
        ValueError: a size is negative, or they exceed the split together.
    """
    if min(sizes, default=0) < 0 or sum(sizes) > len(split):
        raise ValueError(f"the sizes must not be negative and sum to at most {len(split)}, got {tuple(sizes)}")
    order = torch.from_numpy(stratified_order(split.y.numpy(), numpy_rng(generator)))
    return [split[rows] for rows in order[: sum(sizes)].split(list(sizes))]


def concatenated(splits: Sequence[Split]) -> Split:
    """The rows of all splits, one split after the other; a field that some lack is dropped.

    >>> task = digits(0)
    >>> len(concatenated([task.train, task.validation]))
    1347
    """
    if not splits:
        raise ValueError("concatenated needs at least one split, got none")
    columns = {field.name: [getattr(split, field.name) for split in splits] for field in dataclasses.fields(Split)}
    return Split(
        **{name: None if any(part is None for part in parts) else torch.cat(parts) for name, parts in columns.items()}
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


def numpy_rng(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator seeded by the next number of a torch generator.

    >>> float(numpy_rng(torch.Generator().manual_seed(0)).random()) < 1
    True
    """
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))


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


def _take(value: Any, rows: Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(value[row] for row in rows.tolist())
    return None if value is None else value[rows]
