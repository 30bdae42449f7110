"""MNIST as tasks that arrive one after another: pairs of classes, pixels in other orders, turned images.

The images and the splits are those of `palimpsest.tasks.mnist.mnist` for the seed, so that twenty seeds in a row are
tested on disjoint images.

Trained on one task after another, a network ends at 0.17 of the five pairs (its last task) and 0.60 of five
permutations; trained on all permutations at once, at 0.89.

Sources: as in `palimpsest.tasks.streams`, whose operations these are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from palimpsest.tasks.digits_images import rotate
from palimpsest.tasks.fresh import generator
from palimpsest.tasks.mnist import CLASSES, TRAIN, mnist
from palimpsest.tasks.streams import Task, permuted_tasks, split_classes

ORDER, PERMUTATIONS, DRAWS = 146, 147, 148  # random streams of this file


def mnist_classes(
    seed: int,
    sizes: Sequence[int] = (2, 2, 2, 2, 2),
    *,
    random_order: bool = False,
    local: bool = False,
    train: int = TRAIN,
    size: int = 14,
) -> list[Task]:
    """Classes that arrive in groups, each task with its part of the training, validation and test images.

    Args:
        seed: 0 to 999,999.
        sizes: how many classes each task brings, at most ten together.
        random_order: the classes come in an order drawn from the seed, otherwise from 0 to 9.
        local: labels are positions in the task's `classes` instead of digits.
        train, size: as in `mnist`.

    >>> [(task.name, len(task.train), len(task.validation), len(task.test)) for task in mnist_classes(100)][0]
    ('mnist 0 1', 500, 100, 20)
    """
    order = torch.randperm(CLASSES, generator=generator(seed, "train", ORDER)).tolist() if random_order else None
    return split_classes(mnist(seed, train=train, size=size), sizes, order=order, local=local, name="mnist")


def mnist_permuted(
    seed: int,
    tasks: int = 5,
    *,
    share: float = 1.0,
    per_task: int | None = None,
    plain_first: bool = True,
    size: int = 14,
) -> list[Task]:
    """All ten digits in every task, with the pixels in another random order each time; see `permuted_tasks`.

    >>> [tuple(task.train.x.shape) for task in mnist_permuted(100, 2, per_task=500)]
    [(500, 1, 14, 14), (500, 1, 14, 14)]
    """
    return permuted_tasks(
        mnist(seed, size=size),
        tasks,
        generator(seed, "train", PERMUTATIONS),
        share=share,
        per_task=per_task,
        draws=generator(seed, "train", DRAWS),
        plain_first=plain_first,
    )


def mnist_rotated(
    seed: int, angles: Sequence[float] = (0, 18, 36, 54, 72), *, per_task: int | None = 500, size: int = 14
) -> list[Task]:
    """All ten digits in every task, turned by another angle (degrees, counterclockwise) each time.

    Args:
        seed: 0 to 999,999.
        angles: one a task.
        per_task: training images of each task, other ones in each as far as the 2,500 go; None for all in each.
        size: as in `mnist`.

    Raises:
        ValueError: `per_task` is out of its range.

    >>> [(task.name, len(task.train), len(task.test)) for task in mnist_rotated(100, (0, 90))]
    [('turned 0', 500, 100), ('turned 90', 500, 100)]
    """
    data, draws = mnist(seed, size=size), generator(seed, "train", DRAWS)
    n = TRAIN if per_task is None else per_task
    if not 1 <= n <= TRAIN:
        raise ValueError(f"per_task must be from 1 to {TRAIN}, got {per_task}")
    order = torch.cat([torch.randperm(TRAIN, generator=draws) for _ in range(-(-n * len(angles) // TRAIN))])
    found = []
    for angle, rows in zip(angles, order.split(n), strict=False):
        task = Task(f"turned {angle:g}", data.train[rows], data.test, tuple(range(CLASSES)), validation=data.validation)
        found.append(task.mapped(lambda x, angle=angle: rotate(x, angle)))
    return found
