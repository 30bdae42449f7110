"""Contrastive losses: time and memory of the streamed core against what people use.

    python benchmarks/contrast.py [--threads 2] [--case NAME ...]

Every case checks that values (1e-5 relative) and gradients (1e-4) agree, then times forward and backward, peers and
ours in turn, and takes the median. Memory is the peak of what a step allocates beyond inputs and their gradients.
Peers: PyTorch's plain expression; pytorch-metric-learning's NTXentLoss and sentence-transformers'
(Cached)MultipleNegativesRankingLoss where they are installed. The limit is the matrix products that cannot be avoided
(3 in one direction, 4 in both), at the rate measured here on strips of the same height.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast import info_nce, nt_xent, sigmoid_nce
from palimpsest.metrics.memory import peak_memory

TEMPERATURE = 0.07
Loss = Callable[[Tensor, Tensor], Tensor]


def embeddings(batch: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pairs of unit-norm rows with cosines around 0.7."""
    generator = torch.Generator().manual_seed(seed)
    q = F.normalize(torch.randn(batch, d, generator=generator), dim=1)
    return q, F.normalize(q + torch.randn(batch, d, generator=generator) / d**0.5, dim=1)


def plain(q: Tensor, k: Tensor) -> Tensor:
    return F.cross_entropy(q @ k.T / TEMPERATURE, torch.arange(len(q)))


def plain_symmetric(q: Tensor, k: Tensor) -> Tensor:
    scores, rows = q @ k.T / TEMPERATURE, torch.arange(len(q))
    return (F.cross_entropy(scores, rows) + F.cross_entropy(scores.T, rows)) / 2


def plain_sigmoid(q: Tensor, k: Tensor) -> Tensor:
    return -F.logsigmoid((10 * q @ k.T - 10) * (2 * torch.eye(len(q)) - 1)).sum() / len(q)


def ours(q: Tensor, k: Tensor) -> Tensor:
    return info_nce(q, k, TEMPERATURE)


def ours_symmetric(q: Tensor, k: Tensor) -> Tensor:
    return info_nce(q, k, TEMPERATURE, symmetric=True)


def ours_sigmoid(q: Tensor, k: Tensor) -> Tensor:
    return sigmoid_nce(q, k, torch.tensor(10.0).log(), -10.0)


def step(loss: Loss, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    value = loss(q, k)
    if value.requires_grad:  # a peer has taken its backward pass with it
        value.backward()
    return value.detach(), q.grad, k.grad


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def extra_memory(loss: Loss, q: Tensor, k: Tensor) -> int:
    """Bytes at the worst moment of a step, without the gradients."""
    return peak_memory(lambda: step(loss, q, k)) - q.nbytes - k.nbytes


def compare(title: str, batch: int, d: int, losses: dict[str, Loss], *, repeats: int = 5, memory: bool = True) -> None:
    """A line for each loss; ours is the last, and its ratios to the others follow."""
    q, k = embeddings(batch, d)
    *peers, mine = losses
    expected = step(losses[mine], q, k)
    for name in peers:
        for got, want, tolerance in zip(step(losses[name], q, k), expected, (1e-5, 1e-4, 1e-4), strict=True):
            difference = float((got - want).norm() / want.norm())
            assert difference < tolerance, (name, difference)
    bytes_ = {name: extra_memory(loss, q, k) for name, loss in losses.items()} if memory else {}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(repeats):
        for name, loss in losses.items():
            times[name].append(seconds(lambda loss=loss: step(loss, q, k)))
    median = {name: statistics.median(found) for name, found in times.items()}
    print(f"\n{title}: B={batch:,}, d={d}")
    for name in losses:
        print(f"  {name:28s} {median[name]:9.4f} s" + (f" {bytes_[name] / 2**20:9.1f} MiB" if memory else ""))
    for name in peers:
        line = f"  ours / {name}: time {median[mine] / median[name]:.3f}"
        print(line + (f", memory 1/{bytes_[name] / bytes_[mine]:.1f}" if memory else ""), flush=True)


def small() -> None:
    """Where streaming begins to pay: the choice of info_nce, its strips, and the plain expression."""
    for batch in (32, 128, 256, 384, 512):
        for symmetric, expression in ((False, plain), (True, plain_symmetric)):
            losses: dict[str, Loss] = {
                "plain": expression,
                "streamed": lambda q, k, both=symmetric: info_nce(q, k, TEMPERATURE, symmetric=both, rows=512),
                "ours": ours_symmetric if symmetric else ours,
            }
            compare("both directions" if symmetric else "one direction", batch, 64, losses, repeats=21, memory=False)


def limit(batch: int, d: int, symmetric: bool, *, repeats: int = 5, rows: int = 512) -> None:
    """Ours over the matrix products alone, in turn."""
    q, k = embeddings(batch, d)
    strip, d_query, d_key = torch.empty(rows, batch), torch.empty_like(q), torch.zeros_like(k)

    def products() -> None:
        for start in range(0, batch, rows):
            part = q[start : start + rows]
            for _ in range(2 if symmetric else 1):
                torch.mm(part, k.T, out=strip)
            torch.mm(strip, k, out=d_query[start : start + rows])
            d_key.addmm_(strip.T, part)

    loss = ours_symmetric if symmetric else ours
    found = [(seconds(lambda: step(loss, q, k)), seconds(products)) for _ in range(repeats)]
    mine, least = (statistics.median(times) for times in zip(*found, strict=True))
    gflops = (8 if symmetric else 6) * batch**2 * d / least / 1e9
    print(f"\nlimit, {'both directions' if symmetric else 'one direction'}: B={batch:,}, d={d}")
    print(f"  ours {mine:.3f} s, {4 if symmetric else 3} products {least:.3f} s ({gflops:.0f} GFLOP/s)")
    print(f"  ours / limit: {mine / least:.2f}", flush=True)


def growth() -> None:
    """Time and memory as the batch doubles."""
    print("\ngrowth, one direction, d=128")
    before = None
    for batch in (2048, 4096, 8192, 16384, 32768):
        q, k = embeddings(batch, 128)
        taken = statistics.median(seconds(lambda q=q, k=k: step(ours, q, k)) for _ in range(3))
        memory = extra_memory(ours, q, k)
        ratios = "" if before is None else f"   time x{taken / before[0]:.2f}, memory x{memory / before[1]:.2f}"
        print(f"  B={batch:6,} {taken:8.3f} s {memory / 2**20:7.1f} MiB{ratios}", flush=True)
        before = taken, memory


def large() -> None:
    """A batch whose scores would take 16 GiB."""
    q, k = embeddings(65536, 128)
    taken = seconds(lambda: step(ours, q, k))
    memory = extra_memory(ours, q, k)
    print(f"\nB=65,536, d=128: {taken:.1f} s, {memory / 1e6:.0f} MB beyond inputs and gradients", flush=True)


def metric_learning() -> None:
    try:
        from pytorch_metric_learning.losses import NTXentLoss
    except ImportError:
        print("\npytorch-metric-learning is not installed: left out")
        return
    loss = NTXentLoss(temperature=TEMPERATURE)
    labels = torch.arange(512).repeat(2)
    peer = {"pytorch-metric-learning": lambda q, k: loss(torch.cat([q, k]), labels)}
    compare("NT-Xent", 512, 128, {**peer, "ours": lambda q, k: nt_xent(q, k, TEMPERATURE)}, repeats=3)


def sentence_transformers() -> None:
    try:
        from sentence_transformers.sentence_transformer.losses import (
            CachedMultipleNegativesRankingLoss,
            MultipleNegativesRankingLoss,
        )
    except ImportError:
        print("\nsentence-transformers is not installed: left out")
        return

    class Nothing(torch.nn.Sequential):
        """A model whose features are its embeddings; its first layer is looked at."""

        def forward(self, features: dict) -> dict:
            return features

    model = Nothing(torch.nn.Identity())
    ranking = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    peers: dict[str, Loss] = {
        "MultipleNegativesRanking": lambda q, k: ranking(
            [{"sentence_embedding": q}, {"sentence_embedding": k}], torch.empty(0)
        )
    }
    cached = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=512)
    peers["Cached, its loss part"] = lambda q, k: cached.calculate_loss([[q], [k]], with_backward=True)
    compare(
        "sentence-transformers", 4096, 384, {**peers, "ours": lambda q, k: info_nce(q, k, TEMPERATURE, normalize=True)}
    )


CASES: dict[str, Callable[[], None]] = {
    "small": small,
    "plain": lambda: compare("one direction", 8192, 128, {"plain": plain, "ours": ours}),
    "plain-512": lambda: compare("one direction", 8192, 512, {"plain": plain, "ours": ours}),
    "symmetric": lambda: compare("both directions", 8192, 128, {"plain": plain_symmetric, "ours": ours_symmetric}),
    "sigmoid": lambda: compare("sigmoid", 8192, 128, {"plain": plain_sigmoid, "ours": ours_sigmoid}),
    "limit": lambda: limit(16384, 256, False),
    "limit-symmetric": lambda: limit(16384, 256, True),
    "large": large,
    "metric-learning": metric_learning,
    "sentence-transformers": sentence_transformers,
    "growth": growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", dest="cases", action="append", choices=CASES, help="only this one (repeatable)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.cases or CASES:
        CASES[name]()


if __name__ == "__main__":
    main()
