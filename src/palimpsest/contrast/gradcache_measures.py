"""What a gradient cache is compared with: the accumulated gradients of small batches (Gao et al. 2021, arXiv
2101.06983)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.contrast.gradcache_chunks import (
    Rows,
    chunk_sizes,
    chunks_of,
    modules_of,
    one_each,
    represented,
    rows_of,
    scalar,
    scaled,
    synchronised,
    warn_of_mixing,
)


def naive_accumulation(
    encoders: nn.Module | Sequence[nn.Module],
    chunk: int,
    loss_fn: Callable[..., Tensor],
    *inputs: Rows,
    scaler: Any = None,
) -> Float[Tensor, ""]:
    """What gradient accumulation does instead: every chunk is a small batch, whose negatives are the chunk's own.

    The weighted mean of the chunks' losses, by rows, is differentiated into `.grad`, and returned detached. All inputs
    need equally many rows, and what is left for the last chunk must be enough for the loss. The baseline that
    `GradCache` is compared with; same memory, another loss.

    >>> encoder = nn.Linear(4, 3)
    >>> loss = naive_accumulation(encoder, 2, lambda a: a.square().mean(), torch.randn(6, 4))
    >>> encoder.weight.grad.shape
    torch.Size([3, 4])
    """
    modules = one_each(modules_of(encoders), inputs)
    sizes = [rows_of(x) for x in inputs]
    if len(set(sizes)) > 1:
        raise ValueError(f"inputs must have equally many rows, got {sizes}")
    warn_of_mixing(modules)
    parts = list(zip(*(chunks_of(x, *chunk_sizes(chunk, 1)) for x in inputs), strict=True))
    total = torch.zeros(())
    for number, together in enumerate(parts):
        share = rows_of(together[0]) / sizes[0]
        wrapped = {id(module): module for module in modules}.values()
        with synchronised(wrapped, number == len(parts) - 1), torch.enable_grad():
            reps = [represented(module, part) for module, part in zip(modules, together, strict=True)]
            loss = scalar(loss_fn(*reps)) * share
            scaled(loss, scaler).backward()
        total = total.to(loss.device) + loss.detach()
    return total
