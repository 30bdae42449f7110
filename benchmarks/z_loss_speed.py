"""A layer of very many classes: one update of the factored layer with the Z-loss against dense softmax.

    python benchmarks/z_loss_speed.py [--threads 2] [--classes 10000 100000 1000000]

Forward, backward and the step of plain gradient descent at 128 features and a batch of 64. First both layers take five
steps with the Z-loss from the same weights and must agree (1e-4 relative in float32); then the time of an update, and
the dense layer with cross-entropy beside it. The dense layer's weights at 1,000,000 classes take 512 MB, and as much
for its gradient.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.classify.z_loss import z_loss
from palimpsest.classify.z_loss_output import SphericalOutput

FEATURES, BATCH, LR, AGREE = 128, 64, 0.1, 10_000


def dense_step(weight: Tensor, h: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    h = h.clone().requires_grad_()
    weight.requires_grad_()
    loss(h @ weight.T, labels).backward()
    with torch.no_grad():
        weight.sub_(weight.grad, alpha=LR)
    weight.grad = None


def seconds(step: Callable[[], None], repeats: int) -> float:
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(classes: int) -> None:
    draws = torch.Generator().manual_seed(0)
    layer = SphericalOutput(FEATURES, classes, generator=draws)
    h = torch.randn(BATCH, FEATURES, generator=draws)
    labels = torch.randint(classes, (BATCH,), generator=draws)
    dense = layer.weight().clone()
    if classes <= AGREE:
        for _ in range(5):
            dense_step(dense, h, labels, z_loss)
            layer.step(h, labels, LR)
        difference = float((layer.weight() - dense.detach()).norm() / dense.detach().norm())
        assert difference < 1e-4, difference
    ours = seconds(lambda: layer.step(h, labels, LR), 20)
    softmax = seconds(lambda: dense_step(dense, h, labels, F.cross_entropy), 3)
    print(f"{classes:>9,}  {1e3 * ours:9.2f}  {1e3 * softmax:9.1f}  {softmax / ours:8.0f}x", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("  classes    ours, ms  dense, ms    ratio")
    for classes in arguments.classes:
        measure(classes)
