"""What an aggregation of ten gradients of a million numbers costs, against torchjd's.

    python benchmarks/gradients.py [--tasks 10] [--size 1000000]

Gradients that partly conflict, float32, one thread. Both get the same matrix; the largest difference of an entry,
relative to the largest entry, is shown beside the ratio of the medians of interleaved runs. torchjd, with quadprog, is
not among the project's dependencies: `pip install torchjd quadprog`.

torchjd adds 1e-4 to the diagonal of the normalised Gramian, so that it does not solve quite the same problem: it is
asked here without that, but for what its solver needs, 1e-12. Its PCGrad draws an order, as ours does with a generator;
both are asked with orders of their own, so that only the time compares. Its MGDA walks until a step is below 0.001.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchjd.aggregation import MGDA, DualProj, PCGrad, UPGrad
from torchjd.linalg import QuadprogProjector

from palimpsest.train.gradients import dualproj, mgda, pcgrad, upgrad

REPEATS = 15


def seconds(step: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def main(tasks: int, size: int) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(tasks, size, generator=generator) + 0.05 * torch.randn(size, generator=generator)
    G[1::2] -= 0.5 * G[0]  # every second one conflicts with the first, and their mean with it
    exact = QuadprogProjector(norm_eps=1e-12, reg_eps=1e-12)
    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "pcgrad": (lambda: pcgrad(G, generator), lambda: PCGrad()(G)),
        "mgda": (lambda: mgda(G), lambda: MGDA()(G)),
        "dualproj": (lambda: dualproj(G), lambda: DualProj(projector=exact)(G)),
        "upgrad": (lambda: upgrad(G), lambda: UPGrad(projector=exact)(G)),
    }
    print("| aggregation | ours / torchjd | largest relative difference |\n|---|---|---|")
    for name, both in pairs.items():
        mine, theirs = (step() for step in both)
        apart = float((mine - theirs).abs().max() / theirs.abs().max())
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):
            for step, found in zip(both, times, strict=True):
                found.append(seconds(step))
        ratio = statistics.median(times[0]) / statistics.median(times[1])
        print(f"| {name} | {ratio:.2f} | {'orders differ' if name == 'pcgrad' else f'{apart:.0e}'} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--size", type=int, default=1_000_000)
    main(**vars(parser.parse_args()))
