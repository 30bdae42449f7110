"""Concept shift: the images stay what they are, and what they are called changes, again and again.

P(x) is the same throughout while P(y | x) is not. The labels are in two groups, by the effect that an object so called
has on whoever consumes it; at every shift one label of each group changes places with one of the other.

Source: Man, Damasio and Neven (2022), Need is all you need, arXiv 2205.08645.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.fresh import generator
from palimpsest.train.randomness import of_batch

MEANINGS = 158  # random stream of this file


@dataclass(frozen=True, eq=False)
class ConceptShift:
    """Rows whose labels change their meaning while they come.

    Attributes:
        x: rows [n, ...].
        y: what each is [n], from 0.
        every: batches between two shifts; None for no shift; or several, one for each of equal parts of the stream, so
            that the rate of change changes.
        steps: how many batches there are.
        seed: of the shifts and of the rows that come.

    >>> stream = ConceptShift(torch.zeros(8, 2), torch.arange(8) % 4, every=3, steps=10)
    >>> stream.shifts, stream.effects
    ([3, 6, 9], [1, 1, -1, -1])
    >>> before, after = (set(stream.labels(step).tolist()) for step in (0, 3))
    >>> before == after, int((stream.labels(0) != stream.labels(3)).sum())
    (True, 2)
    """

    x: Float[Tensor, "n *row"]
    y: Int[Tensor, " n"]
    every: int | Sequence[int | None] | None = 100
    steps: int = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        if any(every is not None and every < 1 for every in self._parts):
            raise ValueError(f"every must be at least 1, or None for no shift, got {self.every}")

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1

    @property
    def effects(self) -> list[int]:
        """1 for the first half of the labels, -1 for the second."""
        return [1 if label < self.classes // 2 else -1 for label in range(self.classes)]

    @cached_property
    def shifts(self) -> list[int]:
        """The batches with which a new meaning begins."""
        length = self.steps // len(self._parts)
        found = []
        for part, every in enumerate(self._parts):
            found += [] if every is None else range(part * length + every * (part == 0), (part + 1) * length, every)
        return found

    @cached_property
    def meanings(self) -> Int[Tensor, "meanings classes"]:
        """The label of each class, before the first shift and after every one."""
        draws, half = generator(self.seed, "train", MEANINGS), self.classes // 2

        def swapped(labels: list[int], _: int) -> list[int]:
            one = int(torch.randint(half, (), generator=draws))
            other = int(torch.randint(half, self.classes, (), generator=draws))
            return [{one: other, other: one}.get(label, label) for label in labels]

        return torch.tensor(list(accumulate(self.shifts, swapped, initial=list(range(self.classes)))))

    def labels(self, step: int) -> Int[Tensor, " classes"]:
        """The label of each class at a batch."""
        return self.meanings[bisect_right(self.shifts, step)]

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        """step -> a batch of rows drawn at random, with their labels as they are then."""

        def batch(step: int) -> dict[str, Tensor]:
            rows = torch.randint(len(self.x), (batch_size,), generator=of_batch(seed, step))
            return {"x": self.x[rows], "labels": self.labels(step)[self.y[rows]]}

        return batch

    @property
    def _parts(self) -> Sequence[int | None]:
        return self.every if isinstance(self.every, Sequence) else (self.every,)
