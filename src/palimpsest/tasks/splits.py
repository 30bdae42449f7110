"""The containers that tasks give their data in: rows aligned by field, images with labels, and the three splits.

>>> from palimpsest.tasks.digits import digits
>>> task = digits(0)
>>> len(task.train), len(task.validation), len(task.test), len(task.train[:10])
(1147, 200, 450, 10)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.fresh import stratified_order

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
        index: which image of the pool a row was made from (for digits, its row in scikit-learn's table); -1 for none.
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

        >>> from palimpsest.tasks.digits import digits
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

        >>> from palimpsest.tasks.digits import digits
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


def partition(split: Split, sizes: Sequence[int], generator: torch.Generator) -> list[Split]:
    """Disjoint random parts of the given sizes, each stratified by label (clients, halves, old and new images).

    >>> from palimpsest.tasks.digits import digits
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

    >>> from palimpsest.tasks.digits import digits
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


def numpy_rng(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator seeded by the next number of a torch generator.

    >>> float(numpy_rng(torch.Generator().manual_seed(0)).random()) < 1
    True
    """
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))


def _take(value: Any, rows: Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(value[row] for row in rows.tolist())
    return None if value is None else value[rows]
