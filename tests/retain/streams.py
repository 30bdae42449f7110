"""Small streams and a small model, for tests of continual methods."""

import torch

from palimpsest.models.vision import mlp
from palimpsest.tasks.splits import Split
from palimpsest.tasks.streams import Stream, Task

CLASSES, SIDE = 6, 4


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
