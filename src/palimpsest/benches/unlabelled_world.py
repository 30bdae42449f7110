"""The world of images without labels in a stream: the digits of `split_mnist`, a network with a projector, and probes.

Probes see five labelled images of each digit: with all labels, a line tells digits apart by any features.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from palimpsest.benches.stream_worlds import Numbers, StreamWorld, split_mnist
from palimpsest.metrics.probes import few_label_accuracy
from palimpsest.models.vision import mlp
from palimpsest.retain.buffers import Examples, joined
from palimpsest.retain.continual import features_of, of_all
from palimpsest.retain.sequence import Learner
from palimpsest.retain.unlabelled import Projecting

SHOTS, DRAWS = 5, 20
WIDTHS = (256, 128)
PROBED = "linear probe, five labels a digit"
FIRST, LAST = "linear probe of the first four digits", "linear probe of the last two digits"


def unlabelled_mnist(seed: int, smoke: bool) -> StreamWorld:
    """Digits in five groups of two; labels are there for probes alone."""
    stream = split_mnist(seed, smoke).data
    return StreamWorld(seed, smoke, stream, {"network": partial(_network, stream.classes)})


def probes(world: StreamWorld, model: nn.Module) -> Numbers:
    """The accuracy on test images: of all digits, of those that came first, of those that came last."""
    tasks = len(world.data)
    parts = {PROBED: range(tasks), FIRST: range(2), LAST: range(tasks - 1, tasks)}
    return {name: _probed(world, model, which, "test") for name, which in parts.items()}


def valid_probe(world: StreamWorld, model: nn.Module, cost: Numbers) -> float:
    """The accuracy on the validation images of all digits."""
    return _probed(world, model, range(len(world.data)), "validation")


def _probed(world: StreamWorld, model: nn.Module, which: range, part: str) -> float:
    network = model.model if isinstance(model, Learner) else model
    rows = []
    for name in ("train", part):
        tasks = [Examples.of(getattr(world.data.tasks[number], name)).columns for number in which]
        images = Examples(joined(tasks))
        rows += [of_all(features_of, network, images), images.labels]
    draws = 2 if world.smoke else DRAWS
    return few_label_accuracy(*rows, shots=SHOTS, draws=draws, seed=world.seed)["linear probe"]


def _network(classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Projecting(mlp(14 * 14, classes, WIDTHS, seed=seed), features=WIDTHS[-1])
