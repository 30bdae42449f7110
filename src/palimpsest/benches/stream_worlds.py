"""The worlds of streams: a seed's tasks, and small networks that learn them one after another.

Twenty seeds in a row are tested on disjoint images (`palimpsest.tasks.mnist`), but for those of "uci" and "printed" in
`domain_stream`, which come from the same few faces, and for letters (`palimpsest.tasks.glyph_streams`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import torch
from torch import nn

from palimpsest.metrics.continual import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    learning_accuracy,
)
from palimpsest.models.vision import cnn, mlp
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import Learner
from palimpsest.tasks.digits_streams import permuted_stream
from palimpsest.tasks.glyph_streams import glyph_classes
from palimpsest.tasks.mnist_streams import mnist_classes, mnist_permuted, mnist_rotated
from palimpsest.tasks.real_domains import real_domains
from palimpsest.tasks.streams import Stream, Task, domain_tasks

SMOKE = 40  # rows of a task in a smoke run
ACCURACY, FORGOTTEN, LEARNED = "average accuracy", "forgetting", "current-task accuracy"
INCREMENTAL, LATE, FALL = "average incremental accuracy", "late online accuracy", "fall of online accuracy"

Numbers = dict[str, float]


@dataclass(frozen=True, eq=False)
class StreamWorld:
    """The stream of a seed, and networks to learn it.

    Attributes:
        data: the stream.
        networks: kind -> (seed) -> a network with fresh weights.
    """

    seed: int
    smoke: bool
    data: Stream
    networks: Mapping[str, Callable[..., nn.Module]]

    def model(self, kind: str) -> nn.Module:
        return self.networks[kind](seed=self.seed)


def split_mnist(seed: int, smoke: bool, *, told: bool = False, sizes: Sequence[int] = (2,) * 5) -> StreamWorld:
    """Classes in groups, from 0 to 9; told: the task of a row is known."""
    return _world(mnist_classes(seed, sizes), seed, smoke, side=14, told=told)


def split_glyphs(seed: int, smoke: bool, *, told: bool = False, tasks: int = 10) -> StreamWorld:
    """Ten letters a task."""
    return _world(glyph_classes(seed, tasks), seed, smoke, side=14, told=told, hidden=(256,))


def rotated_mnist(seed: int, smoke: bool, *, angles: Sequence[float] = (0, 18, 36, 54, 72)) -> StreamWorld:
    """All digits in every task, turned further each time."""
    return _world(mnist_rotated(seed, angles), seed, smoke, side=14)


def domain_stream(seed: int, smoke: bool, *, order: Sequence[str] = ("printed", "uci", "mnist")) -> StreamWorld:
    """All digits in every task: printed, written on a tablet, scanned from forms."""
    return _world(domain_tasks(real_domains(seed), order), seed, smoke, side=8)


def permuted_mnist(seed: int, smoke: bool, *, tasks: int = 5, share: float = 1.0) -> StreamWorld:
    """All digits in every task, their pixels in another order each time."""
    return _world(mnist_permuted(seed, tasks, share=share, per_task=500), seed, smoke, side=14)


def long_permuted(seed: int, smoke: bool, *, tasks: int = 100, per_task: int = 640) -> StreamWorld:
    """Many short tasks of scikit-learn's digits, each image of a task seen once: can the network still learn?"""
    stream = permuted_stream(seed, 5 if smoke else tasks, per_task=per_task, plain_first=False, test=50)
    return _world(stream, seed, smoke, side=8, hidden=(64, 64, 64))


def retained(world: StreamWorld, model: nn.Module) -> Numbers:
    """What is known of all tasks in the end, what was forgotten of them, and what each reached when it was learned."""
    R = _matrix(world, model, "test")
    return {
        ACCURACY: average_accuracy(R),
        FORGOTTEN: forgetting(R),
        LEARNED: learning_accuracy(R),
        INCREMENTAL: average_incremental_accuracy(R),
        "backward transfer": backward_transfer(R),
        "bytes kept": float(max(model.log.memory)) if isinstance(model, Learner) else 0.0,
    }


def valid_retained(world: StreamWorld, model: nn.Module, cost: Numbers) -> float:
    """The accuracy on the validation rows of all tasks in the end."""
    return average_accuracy(_matrix(world, model, "validation"))


def plastic(world: StreamWorld, model: nn.Module) -> Numbers:
    """The accuracy on batches that are just about to be learned, in the last fifth of the tasks, and how far it fell
    since the first fifth; 0 and 1 where training diverged."""
    online = model.log.online if isinstance(model, Learner) else [1.0] + [0.0] * 4
    fifth = max(1, len(online) // 5)
    late = fmean(online[-fifth:])
    return {LATE: late, FALL: fmean(online[:fifth]) - late}


def valid_plastic(world: StreamWorld, model: nn.Module, cost: Numbers) -> float:
    return plastic(world, model)[LATE]


def _matrix(world: StreamWorld, model: nn.Module, part: str) -> torch.Tensor:
    if isinstance(model, Learner):
        return model.log.accuracy[part]
    # Training diverged: the network as it was then, for every moment.
    learner = Learner(model, FineTune(), {}, world.data.allowed(len(world.data)), None)
    return learner.accuracies(world.data, part).expand(len(world.data), -1)


def _world(
    tasks: Sequence[Task],
    seed: int,
    smoke: bool,
    *,
    side: int,
    told: bool = False,
    hidden: Sequence[int] = (128, 128),
) -> StreamWorld:
    if smoke:
        tasks = [replace(task, train=task.train[:SMOKE]) for task in tasks]
    stream = Stream(tuple(tasks), told)
    networks = {
        "network": partial(mlp, side * side, stream.classes, hidden),
        "convolutional": partial(cnn, 1, stream.classes, image_size=side),
    }
    return StreamWorld(seed, smoke, stream, networks)
