"""Half precision made wide: embeddings may come in it, sums and products are taken in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32.

    >>> wide_dtype(torch.ones(1).bfloat16())
    torch.float32
    """
    return torch.promote_types(tensor.dtype, torch.float32)


def widened(tensor: Tensor) -> Tensor:
    """The tensor in its wide dtype.

    >>> widened(torch.ones(1).half()).dtype, widened(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return tensor.to(wide_dtype(tensor))


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which autocast, if any, narrows nothing on the tensor's device."""
    return torch.autocast(tensor.device.type if isinstance(tensor, Tensor) else "cpu", enabled=False)
