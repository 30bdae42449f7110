"""16-bit weights: trained as float32 ones, and rounded when the run ends.

A bfloat16 weight has 8 significant bits: an update below 1/512 of it changes nothing, however often it comes, and at
the learning rates that language models are tuned with nearly all are. Float32 masters beside the 16-bit weights
(Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740) mend that at 2 + 4 bytes a weight, besides the
optimizer's own; float32 weights alone take 4, and 16-bit arithmetic is had with `fit(precision="bf16")`.

Rounding to the nearest at the end would still hide all that moved by less than half of the distance to the next 16-bit
number, since every weight started on one. So they are rounded by lot: a weight that is a share s of the way from one
number to the next goes up with probability s. The result is right on average, and what did not move stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Significant bits, the hidden one among them, and the exponent of the smallest number above 0.
BITS = {torch.bfloat16: (8, -133), torch.float16: (11, -24)}
LEVELS = 1024  # lots: few enough for the sum of one and a weight to be exact


def round_by_lot(values: Tensor, dtype: torch.dtype, *, seed: int = 0) -> Tensor:
    """Float32 values as bfloat16 or float16 ones: each goes to one of its two neighbours, to the upper one with the
    share of the way to it as the probability (to within 1/1024). A value that `dtype` holds stays as it is.

    >>> quarter = round_by_lot(torch.full((10_000,), 1 + 0.25 / 128), torch.bfloat16)
    >>> quarter.unique()
    tensor([1.0000, 1.0078], dtype=torch.bfloat16)
    >>> bool(0.24 < (quarter > 1).float().mean() < 0.26)
    True
    """
    bits, smallest = BITS[dtype]
    generator = torch.Generator(values.device).manual_seed(seed)
    lots = torch.randint(LEVELS, values.shape, generator=generator, device=values.device, dtype=torch.int16)
    exponent = torch.frexp(values).exponent.sub_(bits).clamp_(min=smallest)
    return torch.ldexp(torch.ldexp(values, -exponent).add_(lots / LEVELS).floor_(), exponent).to(dtype)


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """A model of which 16-bit weights train has all its 16-bit weights and buffers as float32 ones in the block, and is
    rounded at its end; any other stays as it is, such as an adapter of float32 on a frozen model of 16 bits."""
    trained = any(p.requires_grad and p.dtype in BITS for p in model.parameters())
    held = [t for t in (*model.parameters(), *model.buffers()) if t.dtype in BITS] if trained else []
    kinds = [tensor.dtype for tensor in held]
    try:
        for tensor in held:
            tensor.data = tensor.data.float()
        yield
    finally:
        for number, (tensor, kind) in enumerate(zip(held, kinds, strict=True)):
            tensor.grad = None
            tensor.data = round_by_lot(tensor.data, kind, seed=number)
