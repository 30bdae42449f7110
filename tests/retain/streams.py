"""Small streams and a small model, for tests of continual methods."""

import torch

from palimpsest.models.vision import mlp
from palimpsest.retain.sequence import _batches, _present
from palimpsest.tasks.splits import Split
from palimpsest.tasks.streams import Stream, Task

CLASSES, SIDE = 6, 4
SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}


def rows(classes, n, seed, shift=0.0, dtype=torch.float32):
    """Images of classes that lie apart."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes)[torch.arange(n) % len(classes)]
    means = torch.randn(CLASSES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    x = means[y] + 0.4 * torch.randn(n, 1, SIDE, SIDE, generator=generator) + shift
    return Split(x.to(dtype), y, torch.arange(n))


def stream(kind="class", n=24, dtype=torch.float32):
    """Three tasks: of two classes each, told or not, or of the same four classes in three looks."""
    if kind == "domain":
        groups, shifts = [(0, 1, 2, 3)] * 3, (0.0, 1.0, -1.0)
    else:
        groups, shifts = [(0, 1), (2, 3), (4, 5)], (0.0,) * 3
    tasks = [
        Task(
            f"task {number}",
            rows(classes, n, number, shift, dtype),
            rows(classes, 16, 50 + number, shift, dtype),
            classes,
            validation=rows(classes, 8, 90 + number, shift, dtype),
        )
        for number, (classes, shift) in enumerate(zip(groups, shifts, strict=True))
    ]
    return Stream(tuple(tasks), told=kind == "task")


def model(seed=0, classes=CLASSES):
    return mlp(SIDE * SIDE, classes, hidden=(12, 8), seed=seed).eval()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_task(method, base=None, batch_size=8, updates=0):
    """The state in the second task, in float64, a model that has moved on from the old one, and a batch.

    Args:
        updates: of the first task, after which the state has changed and the weights have not.
    """
    data, base = stream(dtype=torch.float64), model().double() if base is None else base
    first, second = (_present(data, number, SETTINGS) for number in range(2))
    state = method.before_task(method.init(base, first), base, first)
    for index in range(updates):
        method.loss(state, base, _batches(method, state, first, 8)(index))
        method.gradients(state, base)
    state = method.before_task(method.after_task(state, base, first), base, second)
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.05)
    return state, base, _batches(method, state, second, batch_size)(0)
