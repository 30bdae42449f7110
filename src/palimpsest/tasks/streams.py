"""Data as tasks that arrive one after another, for continual learning: what a stream is, and streams of any data.

A `Task` has its own training, validation and test rows and its classes; a `Stream` is several of them in order, and
says which classes a learner may answer with. `split_classes` (classes arrive in groups), `permuted_tasks` (all rows in
every task, their pixels in another order), `relabelled_tasks` (the same rows with labels drawn anew) and `domain_tasks`
(a look each) make tasks of any data; `digits_streams`, `mnist_streams` and `glyph_streams` those of the built-in.

Sources: split and permuted digits: Goodfellow et al. (2013), arXiv 1312.6211, and Zenke et al. (2017), arXiv
1703.04200; the three scenarios: van de Ven and Tolias (2019), arXiv 1904.07734; new labels for old images: Lyle et al.
(2023), arXiv 2303.01486.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from palimpsest.tasks.digits_images import permute_pixels, random_permutation
from palimpsest.tasks.splits import Rows, Split, Splits


@dataclass(frozen=True)
class Task:
    """One task of a stream.

    Attributes:
        name: what it is, for tables.
        train: rows to learn from: a `Split` of images, or a `Table`.
        test: other rows of the same task.
        classes: the classes that occur in it, in the stream's numbering.
        permutation: the pixels' new order, where there is one (see `permute_pixels`).
        validation: rows to choose settings on; without a row, or None, where the stream has none.
    """

    name: str
    train: Any
    test: Any
    classes: tuple[int, ...]
    permutation: Int[Tensor, " pixels"] | None = None
    validation: Any = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Task:
        """The same task with `change` applied to all its images (noise, a permutation, another size)."""
        validation = self.validation and self.validation.mapped(change)  # one without rows stays as it is
        return dataclasses.replace(
            self, train=self.train.mapped(change), test=self.test.mapped(change), validation=validation
        )


@dataclass(frozen=True, eq=False)
class Stream:
    """Tasks in the order in which they arrive, and what may be answered.

    Attributes:
        tasks: at least one; their labels are numbered alike.
        told: whether a row's task is told with it, in training and when it is tested: then an answer is one of that
            task's classes (task-incremental). Otherwise it is one of all classes that arrived so far (class-incremental
            where tasks bring new classes, domain-incremental where all have the same).

    Raises:
        ValueError: no task, one without rows to train or to test on, or with a label that is none of its classes.

    >>> from palimpsest.tasks.mnist_streams import mnist_classes
    >>> stream = Stream(tuple(mnist_classes(100)))
    >>> len(stream), stream.classes
    (5, 10)
    >>> stream.allowed(2)[0].int()
    tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.int32)
    """

    tasks: tuple[Task, ...]
    told: bool = False

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a stream needs a task, and there is none")
        for task in self.tasks:
            if not len(task.train) or not len(task.test):
                raise ValueError(f"the task {task.name!r} has no rows to {'test' if len(task.train) else 'train'} on")
            for label in torch.cat([task.train.y, task.test.y]).unique().tolist():
                if label not in task.classes:
                    raise ValueError(f"{task.name!r} has the label {label}, and its classes are {task.classes}")

    def __len__(self) -> int:
        return len(self.tasks)

    @cached_property
    def classes(self) -> int:
        """How many there are: one more than the largest of any task."""
        return 1 + max(max(task.classes) for task in self.tasks)

    def allowed(self, seen: int) -> Bool[Tensor, "tasks classes"]:
        """Which classes may be answered for a row of each task, when `seen` tasks have arrived."""
        own = torch.zeros(len(self), self.classes, dtype=torch.bool)
        for row, task in zip(own, self.tasks, strict=True):
            row[list(task.classes)] = True
        return own if self.told else own[:seen].any(0).expand(len(self), -1).clone()


def split_classes(
    data: Splits[Split],
    sizes: Sequence[int] = (2, 2, 2, 2, 2),
    *,
    order: Sequence[int] | None = None,
    local: bool = False,
    name: str = "classes",
) -> list[Task]:
    """The classes of any data, arriving in groups.

    Args:
        data: rows with labels from 0.
        sizes: how many classes each task brings, at most as many together as there are.
        order: the classes in order of arrival; None: ascending.
        local: labels are positions in the task's `classes`.
        name: what the names of the tasks begin with.

    Raises:
        ValueError: a size below 1, more classes than there are, an order that is none, or a row without a label.

    Example:
        >>> from palimpsest.tasks.mnist import mnist
        >>> tasks = split_classes(mnist(100), order=range(9, -1, -1))
        >>> tasks[0].classes, tasks[0].train.y.unique().tolist(), len(tasks[0].test)
        ((9, 8), [8, 9], 20)
    """
    known = _classes(data)
    if not sizes or min(sizes) < 1 or sum(sizes) > len(known):
        raise ValueError(f"sizes must be at least 1 and sum to at most {len(known)}, got {tuple(sizes)}")
    order = known if order is None else list(order)
    if not set(order) <= set(known) or len(set(order)) != len(order) or len(order) < sum(sizes):
        raise ValueError(f"order must hold {sum(sizes)} distinct classes or more, got {tuple(order)}")
    tasks, start = [], 0
    for count in sizes:
        classes = tuple(order[start : start + count])
        start += count
        wanted = torch.tensor(classes)
        parts = [part[torch.isin(part.y, wanted)] for part in (data.train, data.test, data.validation)]
        if local:
            parts = [part.relabelled(classes) for part in parts]
        train, test, validation = parts
        tasks.append(Task(f"{name} {' '.join(map(str, classes))}", train, test, classes, validation=validation))
    return tasks


def permuted_tasks(
    data: Splits[Split],
    tasks: int,
    permutations: torch.Generator,
    *,
    share: float = 1.0,
    per_task: int | None = None,
    draws: torch.Generator | None = None,
    plain_first: bool = True,
) -> list[Task]:
    """All of any data in every task, with the pixels in another random order each time.

    Args:
        data: images with labels.
        tasks: how many.
        permutations: the source of the orders.
        share: share of the pixels that change places.
        per_task: how many training images a task shows, drawn anew for each; None for all.
        draws: the source of these images, needed with `per_task`.
        plain_first: the first task's pixels stay in place.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> from palimpsest.tasks.mnist import mnist
        >>> tasks = permuted_tasks(mnist(100), 2, torch.Generator().manual_seed(0))
        >>> bool((permute_pixels(tasks[0].test.x, tasks[1].permutation) == tasks[1].test.x).all())
        True
    """
    _positive(tasks, "tasks")
    if per_task is not None and draws is None:
        raise ValueError("per_task needs a generator to draw with: give draws")
    pixels = data.train.x[0, 0].numel()
    classes = tuple(_classes(data))
    made = []
    for number in range(tasks):
        plain = plain_first and number == 0
        permutation = torch.arange(pixels) if plain else random_permutation(pixels, permutations, share=share)
        base = Task(
            f"permutation {number}",
            _some(data.train, per_task, draws),
            data.test,
            classes,
            permutation,
            data.validation,
        )
        made.append(base.mapped(lambda x, permutation=permutation: permute_pixels(x, permutation)))
    return made


def relabelled_tasks(rows: Split, tasks: int, generator: torch.Generator, *, classes: int = 10) -> list[Task]:
    """The same rows in every task, with labels drawn anew each time: can the network still learn?

    Labels are balanced and independent of the rows, so there is nothing to test on: `test` is `train`.

    Args:
        rows: images with labels, which are kept as `clean_y`.
        tasks: how many.
        generator: the source of the labels.
        classes: how many different labels.

    Raises:
        ValueError: no task.

    >>> from palimpsest.tasks.mnist import mnist
    >>> first, second = relabelled_tasks(mnist(100, train=100).train, 2, torch.Generator().manual_seed(0))
    >>> bool((first.train.x == second.train.x).all()), bool((first.train.y == second.train.y).all())
    (True, False)
    """
    _positive(tasks, "tasks")
    made = []
    for number in range(tasks):
        y = (torch.arange(len(rows)) % classes)[torch.randperm(len(rows), generator=generator)]
        part = dataclasses.replace(rows, y=y, clean_y=rows.y)
        made.append(Task(f"labels {number}", part, part, tuple(range(classes))))
    return made


def domain_tasks(domains: Mapping[str, Splits], order: Sequence[str] | None = None) -> list[Task]:
    """A task for each domain of any data, with its validation rows.

    Args:
        domains: data by name of the domain, as `palimpsest.tasks.real_domains.real_domains`,
            `palimpsest.tasks.digits_domains.digits_domains`, the `by_domain` of a user's images and the `by_task` of a
            user's table give them; each with the classes that it has.
        order: names in order of arrival, a domain may come back; None: as they are.

    Raises:
        ValueError: a name that is no domain.

    >>> from palimpsest.tasks.real_domains import real_domains
    >>> [task.name for task in domain_tasks(real_domains(100, train=50), ("printed", "uci", "printed"))]
    ['printed', 'uci', 'printed']
    """
    order = list(domains) if order is None else list(order)
    if unknown := set(order) - set(domains):
        raise ValueError(f"no domain {min(unknown)!r}: there are {', '.join(domains)}")
    return [
        Task(name, data.train, data.test, tuple(_classes(data)), validation=data.validation)
        for name, data in ((name, domains[name]) for name in order)
    ]


def _classes(data: Splits[Split]) -> list[int]:
    """The classes in ascending order; a small training set may lack some that are tested."""
    classes = torch.cat([data.train.y, data.test.y]).unique().tolist()
    if classes and classes[0] < 0:
        raise ValueError(f"every row of a stream needs a label from 0, got {classes[0]}")
    return classes


def _some(split: Rows, n: int | None, generator: torch.Generator | None) -> Rows:
    if n is None:
        return split
    if not 0 < n <= len(split):
        raise ValueError(f"per_task must be from 1 to {len(split)}, got {n}")
    return split[torch.randperm(len(split), generator=generator)[:n]]


def _positive(value: int, name: str) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
