"""Digits as tasks that arrive one after another, for continual learning.

Every builder returns a list of `Task`s (`palimpsest.tasks.streams`), each with its own training and test data and its
classes. `local=True` numbers the labels inside each task.

Sources: split and permuted digits: Goodfellow et al. (2013), arXiv 1312.6211, and Zenke et al. (2017), arXiv
1703.04200; rotated digits: Lopez-Paz and Ranzato (2017), GEM, arXiv 1706.08840; new labels for old images: Lyle et
al. (2023), arXiv 2303.01486.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from palimpsest.tasks.digits import CLASSES, SIZE, digits
from palimpsest.tasks.digits_domains import digits_domains
from palimpsest.tasks.fresh import generator as stream
from palimpsest.tasks.streams import Task, domain_tasks, permuted_tasks, relabelled_tasks, split_classes

ORDER, DRAWS, PERMUTATIONS, RANDOM_LABELS = 100, 101, 102, 103  # random streams of this file


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
        >>> from palimpsest.tasks.digits_images import permute_pixels
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
    return domain_tasks(data, domains)


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
    data = digits(seed, train=n, validation=0, noise=noise).train
    return relabelled_tasks(data, tasks, stream(seed, "train", RANDOM_LABELS), classes=CLASSES)
