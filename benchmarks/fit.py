"""What `palimpsest.train.fit` costs beside a bare PyTorch loop, on a small causal language model.

    python benchmarks/fit.py [--steps 20] [--rounds 9]

Both train the same model on the same batches (64 rows of 32 tokens) with AdamW, and both read the loss after every
step, as anybody does who watches it. First they must reach the same weights, to the bit. Then they take turns, in one
process, so that a busy machine slows both alike; which of them goes first alternates. The table shows milliseconds a
step, as a median over the rounds; the ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import copy
import time
from statistics import median

import torch
from torch import nn

from palimpsest.models.language import causal_lm
from palimpsest.train import fit

VOCABULARY, ROWS, TOKENS = 1000, 64, 32


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).loss


def bare(model: nn.Module, batches: list, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    model.train()
    for step in range(steps):
        value = loss(model, batches[step % len(batches)])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    model.eval()
    return losses


def ours(model: nn.Module, batches: list, steps: int) -> list[float]:
    history = fit(model, loss, batches, steps=steps, lr=1e-3, progress=False)
    return [record["loss"] for record in history.steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, VOCABULARY, (8, ROWS, TOKENS), generator=generator)
    batches = [{"input_ids": rows, "labels": rows} for rows in tokens]
    start = causal_lm(VOCABULARY, d_model=128, n_layers=2)

    one, other = copy.deepcopy(start), copy.deepcopy(start)
    if bare(one, batches, 10) != ours(other, batches, 10):
        raise SystemExit("the losses differ")
    if not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)):
        raise SystemExit("the weights differ")
    print("same losses and same weights after 10 steps: yes, to the bit")

    times: dict[str, list[float]] = {"bare loop": [], "fit": []}
    loops = {"bare loop": bare, "fit": ours}
    for turn in range(arguments.rounds):
        for name in sorted(loops, reverse=turn % 2 == 0):
            model = copy.deepcopy(start)
            began = time.perf_counter()
            loops[name](model, batches, arguments.steps)
            times[name].append((time.perf_counter() - began) / arguments.steps * 1000)

    weights = sum(parameter.numel() for parameter in start.parameters())
    print(f"{weights:,} weights, {ROWS} x {TOKENS} tokens, {arguments.rounds} rounds of {arguments.steps} steps")
    print(f"{'milliseconds a step':<22}{'least':>9}{'median':>9}")
    for name, taken in times.items():
        print(f"{name:<22}{min(taken):>9.2f}{median(taken):>9.2f}")
    ratio = median(mine / theirs for mine, theirs in zip(times["fit"], times["bare loop"], strict=True))
    print(f"{'ratio fit / bare':<22}{min(times['fit']) / min(times['bare loop']):>9.3f}{ratio:>9.3f}")


if __name__ == "__main__":
    main()
