"""Rows that are kept for later: the buffers of replay, which rows they keep, and what they cost.

`Examples` are rows of any kind, a tensor a column, as the batches of `palimpsest.tasks` have them; a `Buffer` holds
some of all that passed by. `reservoir`, `class_balanced` and `ring` say which stay when new rows come, and give a new
buffer; `herding` orders the rows of a class by how well the first of them stand for all. A draw is a function of the
buffer and a generator, so that a run that is resumed draws the same.

Sources: reservoir: Vitter (1985), Random sampling with a reservoir, algorithm R; a reservoir for every class: Chrysakis
and Moens (2020), Online continual learning from imbalanced data; ring: Lopez-Paz and Ranzato (2017), arXiv 1706.08840;
herding: Welling (2009), and Rebuffi et al. (2017), iCaRL, arXiv 1611.07725.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows as columns of equal length.

    Attributes:
        columns: by name, such as `pixel_values`, `labels` and `task` (the number of the task they came with).

    >>> rows = Examples({"x": torch.eye(3), "labels": torch.tensor([0, 1, 1])})
    >>> len(rows), rows.labels[1:].tolist(), rows.of_class(1).columns["x"].shape
    (3, [1, 1], torch.Size([2, 3]))
    """

    columns: dict[str, Tensor]

    @classmethod
    def of(cls, rows: Any, **further: Tensor | int) -> Examples:
        """All rows of a split, whose `batch` names the columns; a number makes a column of it."""
        columns = {name: value for name, value in rows.batch(slice(None)).items() if name != "index"}
        n = len(next(iter(columns.values())))
        for name, value in further.items():
            columns[name] = value if isinstance(value, Tensor) else torch.full((n,), value)
        return cls(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def batch(self, rows: slice | Tensor) -> dict[str, Tensor]:
        """Some rows, by column."""
        return {name: value[rows] for name, value in self.columns.items()}

    def at(self, rows: slice | Tensor) -> Examples:
        """Some rows."""
        return Examples(self.batch(rows))

    def of_class(self, label: int) -> Examples:
        """The rows of a class."""
        return self.at(self.labels == label)

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """The class of each row; of rows of tokens, which have none, the task."""
        return self.columns["task" if "input_ids" in self.columns else "labels"]

    @property
    def nbytes(self) -> int:
        """What the rows weigh: every column, labels and numbers of tasks included."""
        return sum(value.numel() * value.element_size() for value in self.columns.values())

    def split(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Batches of `size` rows in order; the last may have fewer."""
        return (self.batch(slice(start, start + size)) for start in range(0, len(self), size))


@dataclass(frozen=True, eq=False)
class Buffer(Examples):
    """Some of the rows that passed by.

    Attributes:
        columns: of the rows that are kept.
        capacity: how many at most.
        seen: how many rows of each class passed by.
    """

    columns: dict[str, Tensor] = field(default_factory=dict)
    capacity: int = 0
    seen: dict[int, int] = field(default_factory=dict)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """`n` rows at random, each at most once; all, in random order, where there are fewer."""
        return self.batch(torch.randperm(len(self), generator=generator)[:n])

    def keeping(self, columns: dict[str, Tensor], passed: Mapping[int, int]) -> Buffer:
        """The buffer with other rows, after so many more of each class passed by."""
        seen = {label: self.seen.get(label, 0) + passed.get(label, 0) for label in {**self.seen, **passed}}
        return replace(self, columns=columns, seen=seen)


def reservoir(buffer: Buffer, rows: Examples, generator: torch.Generator) -> Buffer:
    """Each of all rows that ever passed by is kept with the same probability, capacity / their number.

    Row number s, from 0, takes place s while there is room; then place j, uniform on 0..s, if that is below the
    capacity, and the row that was there goes. The last of those that take one place stays.

    Args:
        buffer: left as it is.
        rows: in the order in which they pass by.

    >>> generator = torch.Generator().manual_seed(0)
    >>> rows = Examples({"labels": torch.arange(6)})
    >>> kept = reservoir(Buffer(capacity=4), rows, generator)
    >>> len(kept), sum(kept.seen.values()), len(reservoir(kept, rows, generator))
    (4, 6, 4)
    """
    places = _places(sum(buffer.seen.values()), buffer.capacity, len(rows), generator)
    return buffer.keeping(_placed(buffer, rows, places, buffer.capacity), counted(rows.labels))


def class_balanced(buffer: Buffer, rows: Examples, generator: torch.Generator) -> Buffer:
    """The capacity in equal parts for all classes that passed by; within a class every row is as likely as another.

    A class that has fewer rows than its part leaves the rest to others. Rows of classes that were there give way at
    random where their part has shrunk; then each class has a reservoir of its own.

    >>> rows = Examples({"labels": torch.tensor([0] * 50 + [1] * 3)})
    >>> class_balanced(Buffer(capacity=10), rows, torch.Generator().manual_seed(0)).labels.bincount().tolist()
    [7, 3]
    """
    passed = counted(rows.labels)
    seen = {label: buffer.seen.get(label, 0) for label in sorted({**buffer.seen, **passed})}
    kept = counted(buffer.labels) if len(buffer) else {}
    parts = _parts({label: kept.get(label, 0) + passed.get(label, 0) for label in seen}, buffer.capacity)
    found = []
    for label, part in parts.items():
        old = buffer.of_class(label) if len(buffer) else Examples({})
        old = old.at(torch.randperm(len(old), generator=generator)[:part]) if len(old) > part else old
        new = rows.of_class(label)
        # A class that came before has more room than rows only where nothing of it was ever left out.
        places = _places(seen[label] if len(old) == part else len(old), part, len(new), generator)
        found.append(_placed(old, new, places, part))
    return buffer.keeping(joined([each for each in found if each]), passed)


def ring(buffer: Buffer, rows: Examples, each: int, *, by: str = "task") -> Buffer:
    """The last `each` rows of every task (or every class, `by="labels"`).

    >>> rows = Examples({"labels": torch.arange(5), "task": torch.tensor([0, 0, 0, 1, 1])})
    >>> ring(Buffer(capacity=4), rows, 2).labels.tolist()
    [1, 2, 3, 4]

    Raises:
        ValueError: the groups together exceed the capacity.
    """
    columns = joined([part for part in (buffer.columns, rows.columns) if part])
    groups = columns[by]
    last = torch.cat([(groups == group).nonzero()[:, 0][-each:] for group in groups.unique()])
    if len(last) > buffer.capacity:
        raise ValueError(f"{len(groups.unique())} groups of {each} rows exceed the capacity of {buffer.capacity}")
    return buffer.keeping({name: value[last] for name, value in columns.items()}, counted(rows.labels))


def herding(features: Float[Tensor, "n d"], count: int) -> Int[Tensor, " count"]:
    """The order in which rows of one class stand for it best: after each, the mean of those taken is as near to the
    mean of all as one more row can bring it; of features of norm 1.

        p_k = argmin_i |mu - (phi_i + sum_{j<k} phi_{p_j}) / k|

    Args:
        features: of all rows of the class.
        count: how many are taken, at most n.

    Returns:
        Row numbers, the best first; a shorter list is the beginning of a longer one.

    >>> herding(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]]), 2).tolist()[0]
    2
    """
    phi = F.normalize(features.double(), dim=1)
    mean, total = phi.mean(0), torch.zeros_like(phi[0])
    left = torch.ones(len(phi), dtype=torch.bool, device=phi.device)
    taken = []
    for k in range(1, min(count, len(phi)) + 1):
        gaps = ((total + phi) / k - mean).norm(dim=1)
        best = int(gaps.masked_fill(~left, torch.inf).argmin())
        taken.append(best)
        left[best] = False
        total = total + phi[best]
    return torch.tensor(taken, dtype=torch.long)


def rows_within(nbytes: int, like: Examples) -> int:
    """How many rows of this kind weigh at most so many bytes: by this, buffers with and without stored logits are
    compared at equal bytes.

    >>> images = Examples({"pixel_values": torch.zeros(2, 1, 14, 14), "labels": torch.zeros(2, dtype=torch.long)})
    >>> with_logits = Examples({**images.columns, "logits": torch.zeros(2, 10)})
    >>> rows_within(50_000, images), rows_within(50_000, with_logits)
    (63, 60)

    Raises:
        ValueError: there is no row to weigh, or not one fits.
    """
    if not len(like):
        raise ValueError("a row is needed to weigh, and there is none")
    if (count := nbytes * len(like) // like.nbytes) < 1:
        raise ValueError(f"a row weighs {like.nbytes // len(like)} bytes, more than the {nbytes} that there are")
    return count


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Batches one behind the other, of the columns that all have.

    >>> joined([{"x": torch.zeros(2), "task": torch.zeros(2)}, {"x": torch.ones(1)}])
    {'x': tensor([0., 0., 1.])}
    """
    if not parts:
        return {}
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def counted(labels: Tensor) -> dict[int, int]:
    """How many rows each class has."""
    values, counts = labels.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _places(seen: int, capacity: int, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """The place of each of `n` rows that come after `seen` others; from `capacity` on, there is none."""
    order = torch.arange(seen, seen + n)
    drawn = (torch.rand(n, generator=generator, dtype=torch.float64) * (order + 1)).long()
    return torch.where(order < capacity, order, drawn).clamp(max=capacity)


def _placed(old: Examples, new: Examples, places: Int[Tensor, " n"], capacity: int) -> dict[str, Tensor]:
    """The old rows, and the new ones at their places; of several at one place the last."""
    source = torch.full((capacity + 1,), -1)
    source[: len(old)] = torch.arange(len(old))
    source.scatter_reduce_(0, places, len(old) + torch.arange(len(new)), "amax")
    source = source[:capacity]
    columns = joined([part.columns for part in (old, new) if len(part)])
    return {name: value[source[source >= 0]] for name, value in columns.items()}


def _parts(available: Mapping[int, int], capacity: int) -> dict[int, int]:
    """How many rows of each class are kept: as equal as can be, none more than there are."""
    parts, left = dict.fromkeys(available, 0), capacity
    open_ = [label for label in available if available[label]]
    while left and open_:
        share = max(1, left // len(open_))
        for label in open_[:left]:
            more = min(share, available[label] - parts[label])
            parts[label] += more
            left -= more
        open_ = [label for label in open_ if parts[label] < available[label]]
    return parts
