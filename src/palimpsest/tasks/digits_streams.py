"""Digits as tasks that arrive one after another, for continual learning.

Every builder returns a list of `Task`s, each with its own training and test data and its classes. `split_classes` and
`permuted_tasks` make streams of any data (MNIST, letters); the others are those of scikit-learn's digits. Whether a
learner is told the task (one output head a task) or not is the learner's business: `classes` is the mask it needs, and
`local=True` numbers the labels inside each task.

Sources: split and permuted digits: Goodfellow et al. (2013), arXiv 1312.6211, and Zenke et al. (2017), arXiv
1703.04200; rotated digits: Lopez-Paz and Ranzato (2017), GEM, arXiv 1706.08840; new labels for old images: Lyle et
al. (2023), arXiv 2303.01486.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from palimpsest.tasks.digits import CLASSES, SIZE, digits
from palimpsest.tasks.digits_domains import digits_domains
from palimpsest.tasks.digits_images import permute_pixels, random_permutation
from palimpsest.tasks.fresh import generator as stream
from palimpsest.tasks.splits import Split, Splits

ORDER, DRAWS, PERMUTATIONS, RANDOM_LABELS = 100, 101, 102, 103  # random streams of this file


@dataclass(frozen=True)
class Task:
    """One task of a stream.

    Attributes:
        name: what it is, for tables.
        train: data to learn from.
        test: other data of the same task.
        classes: the classes that occur in it, in the stream's numbering.
        permutation: the pixels' new order, where there is one (see `permute_pixels`).
        validation: data to choose settings on; without a row, or None, where the stream has none.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[int, ...]
    permutation: Int[Tensor, " pixels"] | None = None
    validation: Split | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Task:
        """The same task with `change` applied to all its images (noise, a permutation, another size)."""
        validation = self.validation and self.validation.mapped(change)  # one without rows stays as it is
        return dataclasses.replace(
            self, train=self.train.mapped(change), test=self.test.mapped(change), validation=validation
        )


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
        parts = [part.of(classes) for part in (data.train, data.test, data.validation)]
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


def class_stream(
    seed: int,
    sizes: Sequence[int] = (2, 2, 2, 2, 2),
    *,
    order: Sequence[int] | str | None = None,
    local: bool = False,
    train: int | None = None,
    test: int = 450,
    noise: float = 0.0,
    size: int = SIZE,
) -> list[Task]:
    """Classes that arrive in groups: five pairs, or (4, 2, 2, 2), or one at a time with (1,) * 10.

    Args:
        seed: 0 to 999,999; the images are those of `digits(seed, validation=0, ...)`.
        sizes: how many classes each task brings, at most ten together.
        order: the classes in order of arrival; None: 0 to 9; "random": drawn from the seed.
        local: labels are positions in the task's `classes` instead of digits.
        train: training images of all the ten classes together; None for all, 1,347.
        test, noise, size: as in `digits`.

    Example:
        >>> [task.classes for task in class_stream(0, (4, 2, 2, 2))]
        [(0, 1, 2, 3), (4, 5), (6, 7), (8, 9)]
    """
    if isinstance(order, str):
        if order != "random":
            raise ValueError(f"order must be 'random', None or the classes, got {order!r}")
        order = torch.randperm(CLASSES, generator=stream(seed, "train", ORDER)).tolist()
    data = digits(seed, train=train, validation=0, test=test, noise=noise, size=size)
    return split_classes(data, sizes, order=order, local=local, name="digits")


def permuted_stream(
    seed: int,
    tasks: int = 10,
    *,
    share: float = 1.0,
    per_task: int | None = None,
    plain_first: bool = True,
    test: int = 450,
    noise: float = 0.0,
    size: int = SIZE,
) -> list[Task]:
    """All ten digits in every task, with the pixels in another random order each time.

    Args:
        seed: 0 to 999,999.
        tasks: how many.
        share: share of the pixels that change places.
        per_task: how many of the 1,347 training images a task shows, drawn anew for each; None for all.
        plain_first: the first task's pixels stay in place.
        test, noise, size: as in `digits`.

    Example:
        >>> stream = permuted_stream(0, 3)
        >>> back = permute_pixels(stream[2].test.x, stream[2].permutation.argsort())
        >>> bool((back == stream[0].test.x).all())
        True
    """
    return permuted_tasks(
        digits(seed, validation=0, test=test, noise=noise, size=size),
        tasks,
        stream(seed, "train", PERMUTATIONS),
        share=share,
        per_task=per_task,
        draws=stream(seed, "train", DRAWS),
        plain_first=plain_first,
    )


def domain_stream(
    seed: int,
    domains: Sequence[str] = ("plain", "inverted", "rotated", "textured"),
    *,
    shared: bool = True,
    per_task: int | None = None,
    test: int = 450,
    noise: float = 0.0,
    size: int = SIZE,
) -> list[Task]:
    """All ten digits in every task, each time in another look: `digits_domains` as a stream.

    A domain may come back: its second visit has the same data. Rotations are domains too, see `rotation_stream`.

    Args:
        seed: 0 to 999,999.
        domains: names as in `palimpsest.tasks.digits_domains.look`, in order of arrival.
        shared, test, noise, size: as in `digits_domains`.
        per_task: training images a task; None for all.

    Example:
        >>> [task.name for task in domain_stream(0, ("plain", "inverted", "plain"), per_task=50)]
        ['plain', 'inverted', 'plain']
    """
    distinct = tuple(dict.fromkeys(domains))
    data = digits_domains(
        seed, distinct, shared=shared, train=per_task, validation=0, test=test, noise=noise, size=size
    )
    return [Task(domain, data[domain].train, data[domain].test, tuple(range(CLASSES))) for domain in domains]


def rotation_stream(
    seed: int,
    angles: Sequence[float] = (0, 18, 36, 54, 72),
    *,
    shared: bool = True,
    per_task: int | None = None,
    test: int = 450,
    noise: float = 0.0,
    size: int = SIZE,
) -> list[Task]:
    """All ten digits in every task, turned by another angle (degrees, counterclockwise) each time.

    >>> [task.name for task in rotation_stream(0, (0, 80, 160), per_task=50)]
    ['rotated0', 'rotated80', 'rotated160']
    """
    domains = [f"rotated{angle:g}" for angle in angles]
    return domain_stream(seed, domains, shared=shared, per_task=per_task, test=test, noise=noise, size=size)


def random_label_stream(seed: int, tasks: int = 30, n: int = 256, *, noise: float = 0.0) -> list[Task]:
    """The same images in every task, with labels drawn anew each time: can the network still learn?

    Labels are balanced and independent of the images, so there is nothing to test on: `test` is `train`.

    Example:
        >>> first, second = random_label_stream(0, tasks=2)
        >>> bool((first.train.x == second.train.x).all()), bool((first.train.y == second.train.y).all())
        (True, False)
    """
    _positive(tasks, "tasks")
    data = digits(seed, train=n, validation=0, noise=noise).train
    generator = stream(seed, "train", RANDOM_LABELS)
    made = []
    for number in range(tasks):
        y = (torch.arange(n) % CLASSES)[torch.randperm(n, generator=generator)]
        part = dataclasses.replace(data, y=y, clean_y=data.y)
        made.append(Task(f"labels {number}", part, part, tuple(range(CLASSES))))
    return made


def _classes(data: Splits[Split]) -> list[int]:
    """The classes in ascending order; a small training set may lack some that are tested."""
    classes = torch.cat([data.train.y, data.test.y]).unique().tolist()
    if classes and classes[0] < 0:
        raise ValueError(f"every row of a stream needs a label from 0, got {classes[0]}")
    return classes


def _some(split: Split, n: int | None, generator: torch.Generator | None) -> Split:
    if n is None:
        return split
    if not 0 < n <= len(split):
        raise ValueError(f"per_task must be from 1 to {len(split)}, got {n}")
    return split[torch.randperm(len(split), generator=generator)[:n]]


def _positive(value: int, name: str) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
