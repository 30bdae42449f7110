"""Which rows make up each batch: a shuffled order that is a pure function of the step."""

from collections.abc import Callable

import torch
from torch import Tensor


def shuffled(n: int, batch_size: int, seed: int = 0) -> Callable[[int], Tensor]:
    """Endless epochs over `n` rows: returns `step -> row numbers` [batch_size].

    Every epoch is a fresh permutation, and batches run on over the seam between two epochs, so that each row
    is seen once an epoch and every batch is full (with fewer rows than `batch_size`, an epoch is one batch).
    The order depends on (seed, step) alone: a run that resumes at step k needs no replay.

    >>> order = shuffled(10, 4, seed=0)
    >>> sorted(torch.cat([order(0), order(1), order(2)])[:10].tolist()) == list(range(10))
    True

    Raises:
        ValueError: if `n` or `batch_size` is below 1.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"need at least one row and one row a batch, got n={n}, batch_size={batch_size}")
    size = min(n, batch_size)
    epochs: dict[int, Tensor] = {}

    def permutation(epoch: int) -> Tensor:
        if epoch not in epochs:
            epochs.pop(epoch - 2, None)  # a batch spans at most two epochs
            generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
            epochs[epoch] = torch.randperm(n, generator=generator)
        return epochs[epoch]

    def rows(step: int) -> Tensor:
        first, offset = divmod(step * size, n)
        taken = permutation(first)[offset : offset + size]
        return taken if len(taken) == size else torch.cat([taken, permutation(first + 1)[: size - len(taken)]])

    return rows
