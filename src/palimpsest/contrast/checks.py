"""What the losses of this family ask of their inputs, checked at the door."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_embeddings(**tensors: Tensor) -> None:
    """Embeddings [rows, d], all of one width, dtype and device, finite.

    >>> check_embeddings(query=torch.ones(2, 3), key=torch.ones(2, 4))
    Traceback (most recent call last):
    ValueError: query and key must have the same width, got [2, 3] and [2, 4]
    """
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")
        if tensor.ndim != 2 or not tensor.shape[1]:
            raise ValueError(f"{name} must be [rows, d], got {list(tensor.shape)}")
        if tensor.shape[1] != first.shape[1]:
            raise ValueError(
                f"{first_name} and {name} must have the same width, got {list(first.shape)} and {list(tensor.shape)}"
            )
        if tensor.dtype != first.dtype:
            raise TypeError(f"{first_name} and {name} must have the same dtype, got {first.dtype} and {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(
                f"{first_name} and {name} must be on the same device, got {first.device} and {tensor.device}"
            )
        check_finite(tensor, name)


def check_pairs(*, least: int = 1, **tensors: Tensor) -> None:
    """Embeddings as `check_embeddings` wants them, with equally many rows: row i of all belongs together.

    >>> check_pairs(least=2, z1=torch.ones(1, 3), z2=torch.ones(1, 3))
    Traceback (most recent call last):
    ValueError: a batch needs at least 2 pairs, got 1: there are no negatives without another sample
    """
    check_embeddings(**tensors)
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{' and '.join(tensors)} must have equally many rows, got {list(lengths.values())}")
    if (rows := min(lengths.values())) < least:
        why = ": there are no negatives without another sample" if least > 1 else ""
        raise ValueError(f"a batch needs at least {least} pair{'s' if least > 1 else ''}, got {rows}{why}")


def check_of_pairs(values: Any, name: str, queries: int, keys: int, *, mask: bool = False) -> None:
    """A value for every pair: a function, or a tensor [queries, keys], boolean for a mask; None passes.

    >>> check_of_pairs(torch.ones(3) > 0, "mask", 3, 5, mask=True)
    Traceback (most recent call last):
    ValueError: mask must be [3, 5], one value a pair, or a function, got [3]
    """
    if values is None or callable(values):
        return
    if not isinstance(values, Tensor) or (values.dtype == torch.bool) != mask:
        wanted = "boolean tensor" if mask else "tensor of numbers"
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be a {wanted} or a function, got {found}")
    if values.shape != (queries, keys):
        raise ValueError(
            f"{name} must be [{queries}, {keys}], one value a pair, or a function, got {list(values.shape)}"
        )


def check_labels(labels: Any, rows: int, classes: int | None = None) -> Int[Tensor, " rows"]:
    """The labels as int64: whole numbers, one a row and one at least, from 0 to classes - 1 where these are given.

    >>> check_labels(torch.tensor([0, 3]), 2, classes=3)
    Traceback (most recent call last):
    ValueError: labels must be from 0 to 2, got 3
    """
    dtype = getattr(labels, "dtype", type(labels))
    if not isinstance(labels, Tensor) or dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(f"labels must be a tensor of whole numbers, got {dtype}")
    if labels.shape != (rows,) or not rows:
        raise ValueError(f"labels must be one a row, got {list(labels.shape)} for {rows} rows")
    outside = labels[(labels < 0) | (labels >= classes)] if classes is not None else labels[:0]
    if len(outside):
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {outside[0].item()}")
    return labels.long()


def check_finite(tensor: Tensor, name: str) -> None:
    """Raises ValueError with the first value that is infinite or NaN, and where it is."""
    if not tensor.isfinite().all():
        where = (~tensor.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {tensor[tuple(where)].item()}{f' at {where}' if where else ''}")


def check_unit(*, tolerance: float = 1e-3, **tensors: Tensor) -> None:
    """Raises ValueError for the first row whose norm is off 1 by more than the tolerance (1e-2 in half precision).

    >>> check_unit(key=torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    Traceback (most recent call last):
    ValueError: key must have rows of norm 1, got 5 in row 1: normalize it first
    """
    for name, tensor in tensors.items():
        norms = tensor.detach().float().norm(dim=1)
        off = (norms - 1).abs() > (tolerance if tensor.dtype in FLOATS[:2] else max(tolerance, 1e-2))
        if off.any():
            row = int(off.nonzero()[0])
            raise ValueError(
                f"{name} must have rows of norm 1, got {norms[row].item():g} in row {row}: normalize it first"
            )


def check_positive(value: Any, name: str) -> None:
    """A number, or a tensor of numbers, above 0.

    >>> check_positive(0.0, "temperature")
    Traceback (most recent call last):
    ValueError: temperature must be above 0, got 0.0
    """
    lowest = value.detach().min().item() if isinstance(value, Tensor) and value.numel() else value
    if not isinstance(lowest, (int, float)):
        raise TypeError(f"{name} must be a number or a tensor with elements, got {value!r}")
    if not lowest > 0:  # NaN too
        raise ValueError(f"{name} must be above 0, got {lowest}")


def one_number(value: Any, name: str) -> Any:
    """The value, a tensor without dimensions if it is a tensor; more than one element is a ValueError.

    >>> one_number(torch.ones(1, 1), "temperature")
    tensor(1.)
    """
    if not isinstance(value, Tensor):
        return value
    if value.numel() != 1:
        raise ValueError(f"{name} must have one element, got {list(value.shape)}")
    return value.reshape(())
