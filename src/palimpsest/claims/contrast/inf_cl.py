"""In tiles or a ring, is the contrastive loss of a large batch exact, small and fast?
(Cheng et al. 2024, 2410.17243)"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from palimpsest.contrast.inf_cl import ring_nce, tiled_nce
from palimpsest.evidence import Claim, expect, given
from palimpsest.metrics.memory import peak_memory

WIDTH, SCALE, TILE, RANKS = 256, 20.0, 1024, 4
BATCHES = {"exactness": 1024, "time": 4096, "memory": 8192}
REPEATS = 3
ERROR, MEMORY, TIME = "gradient error", "MiB beyond inputs", "CPU time over full"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def full(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    scores, own = scale * q @ k.T, torch.arange(len(q))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def by_rows(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    """Both directions, in strips of rows that the backward pass makes again; a strip has as many scores as a tile."""

    def strip(rows: Tensor, others: Tensor, start: int) -> Tensor:
        own = torch.arange(start, start + len(rows))
        return F.cross_entropy(scale * rows @ others.T, own, reduction="sum")

    total, size = 0, max(1, TILE**2 // len(q))
    for mine, others in ((q, k), (k, q)):
        for start in range(0, len(mine), size):
            total = total + checkpoint(strip, mine[start : start + size], others, start, use_reentrant=False)
    return total / (2 * len(q))


def in_a_ring(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    return ring_nce(q.chunk(RANKS), k.chunk(RANKS), scale, TILE)


LOSSES: dict[str, Loss] = {
    "full": full,
    "row checkpoints": by_rows,
    "tiled": partial(tiled_nce, tile=TILE),
    "ring": in_a_ring,
}


def embeddings(n: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs that are near each other, and the scale."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(n, WIDTH, generator=generator)
    k = q + torch.randn(n, WIDTH, generator=generator)
    found = (F.normalize(q), F.normalize(k), torch.tensor(SCALE))
    return tuple(each.to(dtype).requires_grad_() for each in found)


def gradient_error(loss: Loss, n: int, seed: int) -> float:
    """The largest relative distance of a gradient from that of the plain expression in float64."""
    exact, ours = embeddings(n, seed, torch.float64), embeddings(n, seed)
    wanted, found = torch.autograd.grad(full(*exact), exact), torch.autograd.grad(loss(*ours), ours)
    return max(float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True))


def extra_memory(loss: Loss, n: int, seed: int) -> float:
    """MiB beyond inputs and their gradients."""
    inputs = embeddings(n, seed)
    for each in inputs:
        each.grad = torch.zeros_like(each)
    copies = sum(each.numel() * each.element_size() for each in inputs)  # of gradients, before autograd adds them
    return (peak_memory(lambda: loss(*inputs).backward()) - copies) / 2**20


def seconds(losses: dict[str, Loss], n: int, seed: int, repeats: int) -> dict[str, float]:
    """Processor time of forward and backward, the best of some in turn."""
    inputs = embeddings(n, seed)
    found: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(repeats):
        for name, loss in losses.items():
            started = time.process_time()
            torch.autograd.grad(loss(*inputs), inputs)
            found[name].append(time.process_time() - started)
    return {name: min(times) for name, times in found.items()}


def arm(name: str) -> Callable[..., dict[str, float]]:
    def run(seed: int, budget: str = "full") -> dict[str, float]:
        smoke, loss = budget == "smoke", LOSSES[name]
        sizes = dict.fromkeys(BATCHES, 64) if smoke else BATCHES
        timed = seconds({"full": full, name: loss}, sizes["time"], seed, 1 if smoke else REPEATS)
        return {
            ERROR: gradient_error(loss, sizes["exactness"], seed),
            MEMORY: extra_memory(loss, sizes["memory"], seed),
            TIME: timed[name] / timed["full"],
            "CPU seconds": timed[name],
        }

    return run


claim = Claim(
    paper="inf_cl",
    question=(
        "Where the contrastive loss in tiles takes no more memory than strips of rows that hold as many scores at a "
        "time, a twentieth of the plain expression's at a batch of 8,192, with its gradient to rounding: is it faster "
        "than they are, by a fifth?"
    ),
    arms={name: arm(name) for name in LOSSES},
    expects=[
        given("tiled").at_most(1e-5, on=ERROR),
        given("ring").at_most(1e-5, on=ERROR),
        given("tiled").below("row checkpoints", on=MEMORY),
        given("ring").below("full", on=MEMORY, times=0.05),
        expect("tiled").below("row checkpoints", on=TIME, times=0.8),
    ],
    seeds=range(125, 130),
    settings={
        "width": WIDTH,
        "scale": SCALE,
        "tile": TILE,
        "ranks of the ring": RANKS,
        "scores of a strip": TILE**2,
        "batches": BATCHES,
        "repeats": REPEATS,
    },
    notes=(
        "Each arm is measured in a process of one thread: memory once (the most that tensors take at once beyond inputs"
        " and gradients), processor time beside the plain expression's at 4,096, gradients against the plain expression"
        " in float64 at 1,024. Row checkpoints are what one writes without the method: they save as much memory where a"
        " strip holds as many scores as a tile. The ring has all its ranks in one process, so that its memory is that"
        " of all four; real processes are compared in the tests. The paper trains CLIP at batches of 4 million on 8"
        " GPUs and 12 million on 32."
    ),
)
