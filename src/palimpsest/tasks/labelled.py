"""Rows with a label each, and perhaps rows without: what methods of classification and regression learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from palimpsest.train.order import shuffled


@dataclass(frozen=True, eq=False)
class Labelled:
    """What a method is given: `apply(model, method, labelled, ...)`.

    Attributes:
        rows: with labels `y`, and `batch(rows)`: a `Split`, a `Table`, `Mosaics`, `Candidates`.
        classes: how many; 0 where a number is predicted.
        unlabelled: rows of the same kind whose labels are not to be read; None where there are none.

    >>> from palimpsest.tasks.mnist import mnist
    >>> data = Labelled(mnist(0, train=50).train, classes=10)
    >>> data.batches(32, seed=0)(0)["labels"].shape, int(data.counts.sum())
    (torch.Size([32]), 50)
    """

    rows: Any
    classes: int
    unlabelled: Any = None

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        """step -> a batch of rows with labels, shuffled anew in every epoch."""
        order = shuffled(len(self.rows), batch_size, seed)
        return lambda step: self.rows.batch(order(step))

    @property
    def counts(self) -> Int[Tensor, " classes"]:
        """How many rows each class has.

        Raises:
            ValueError: the labels are no classes.
        """
        if self.rows.y.ndim != 1 or self.rows.y.is_floating_point():
            raise ValueError(f"only classes can be counted, y is {self.rows.y.dtype} {list(self.rows.y.shape)}")
        return torch.bincount(self.rows.y, minlength=self.classes)
