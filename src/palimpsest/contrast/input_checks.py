"""What the losses of this family ask of their inputs, checked at the door; their values, once the loss is there."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.precision import widened

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class NotFiniteError(ValueError):
    """A value that is infinite or NaN, with its name and place."""


class Blaming:
    """Names values that are not finite as the caller knows them, wherever inside they were noticed: looking at them
    costs nothing as long as nothing is wrong. They are looked at after any ValueError, which may be their doing.

    >>> with Blaming(mine=torch.tensor([1.0, torch.inf])):
    ...     check_finite(torch.tensor([0.0, torch.nan]), "theirs")
    Traceback (most recent call last):
    palimpsest.contrast.input_checks.NotFiniteError: mine must be finite, got inf at [1]
    """

    def __init__(self, **tensors: Any) -> None:
        self.tensors = tensors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None and issubclass(kind, ValueError):
            for name, tensor in self.tensors.items():
                check_finite(tensor, name)


def look(*results: Tensor, **tensors: Tensor) -> bool:
    """Raises NotFiniteError with the first value of the tensors that is infinite or NaN.

    One sum over all tells that there is one (and may be infinite where there is none), so that a device is waited for
    once; results are part of it, and not to blame. Nothing is looked at while torch.compile traces.

    Returns:
        Whether the sum is finite: if not, something else than the tensors may be to blame.

    >>> look(torch.tensor(torch.nan), z=torch.ones(2))
    False
    >>> look(torch.tensor(1.0), z=torch.tensor([1.0, torch.inf]))
    Traceback (most recent call last):
    palimpsest.contrast.input_checks.NotFiniteError: z must be finite, got inf at [1]
    """
    if torch.compiler.is_compiling():
        return True
    total = sum(each.detach().sum() for each in (*results, *tensors.values()))
    finite = math.isfinite(total)
    if not finite:
        for name, tensor in tensors.items():
            check_finite(tensor, name)
    return finite


def check_embeddings(*, values: bool = True, **tensors: Tensor) -> None:
    """Embeddings [rows, d], all of one width, dtype and device; and finite, unless the values are looked at later.

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
    if values:
        look(**tensors)


def check_pairs(*, least: int = 1, values: bool = True, **tensors: Tensor) -> None:
    """Embeddings as `check_embeddings` wants them, with equally many rows: row i of all belongs together.

    >>> check_pairs(least=2, z1=torch.ones(1, 3), z2=torch.ones(1, 3))
    Traceback (most recent call last):
    ValueError: a batch needs at least 2 pairs, got 1: there are no negatives without another sample
    """
    check_embeddings(values=values, **tensors)
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


def check_labels(labels: Any, rows: int, classes: int | None = None, *, name: str = "labels") -> Int[Tensor, " rows"]:
    """The labels as int64: whole numbers, one a row and one at least, from 0 to classes - 1 where these are given.

    >>> check_labels(torch.tensor([0, 3]), 2, classes=3)
    Traceback (most recent call last):
    ValueError: labels must be from 0 to 2, got 3
    """
    dtype = labels.dtype if isinstance(labels, Tensor) else None
    if dtype is None or dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(f"{name} must be a tensor of whole numbers, got {dtype or type(labels).__name__}")
    if labels.shape != (rows,) or not rows:
        raise ValueError(f"{name} must be one a row, got {list(labels.shape)} for {rows} rows")
    if classes is not None and not torch.compiler.is_compiling():
        outside = labels[(labels < 0) | (labels >= classes)]
        if len(outside):
            raise ValueError(f"{name} must be from 0 to {classes - 1}, got {outside[0].item()}")
    return labels.long()


def check_finite(tensor: Tensor, name: str) -> None:
    """Raises NotFiniteError, a ValueError, with the first value that is infinite or NaN, and where it is."""
    if not torch.compiler.is_compiling() and not tensor.isfinite().all():
        where = (~tensor.isfinite()).nonzero()[0].tolist()
        place = f" at {where}" if where else ""
        raise NotFiniteError(f"{name} must be finite, got {tensor[tuple(where)].item()}{place}")


def check_unit(*, tolerance: float = 1e-2, **tensors: Tensor) -> None:
    """Raises ValueError for the first row whose norm is off 1 by more than the tolerance.

    It is as wide for float32 as for half precision: under mixed precision rows are normalised in bfloat16, which
    leaves norms off by up to 0.4%, and are cast to float32 only then.

    >>> check_unit(key=torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    Traceback (most recent call last):
    ValueError: key must have rows of norm 1, got 5 in row 1: normalize it first
    """
    if torch.compiler.is_compiling():
        return
    norms = {name: tensor.detach().float().norm(dim=1) for name, tensor in tensors.items()}
    if not ((torch.cat([*norms.values()]) - 1).abs() > tolerance).any():  # one wait for all
        return
    for name, found in norms.items():
        off = (found - 1).abs() > tolerance
        if off.any():
            row = int(off.nonzero()[0])
            raise ValueError(
                f"{name} must have rows of norm 1, got {found[row].item():g} in row {row}: normalize it first"
            )


def unit_rows(normalize: bool, **tensors: Tensor) -> list[Tensor]:
    """The rows brought to norm 1, in float32 or wider; or as they are, if `check_unit` passes them.

    >>> unit_rows(True, query=torch.tensor([[3.0, 4.0]]))
    [tensor([[0.6000, 0.8000]])]
    """
    if normalize:
        return [F.normalize(widened(tensor), dim=1) for tensor in tensors.values()]
    check_unit(**tensors)
    return list(tensors.values())


def check_positive(value: Any, name: str) -> None:
    """A number, or a tensor of numbers, above 0.

    >>> check_positive(0.0, "temperature")
    Traceback (most recent call last):
    ValueError: temperature must be above 0, got 0.0
    """
    if isinstance(value, Tensor) and torch.compiler.is_compiling():
        return
    lowest = value.detach().min().item() if isinstance(value, Tensor) and value.numel() else value
    if not isinstance(lowest, (int, float)):
        raise TypeError(f"{name} must be a number or a tensor with elements, got {value!r}")
    if not lowest > 0:  # NaN too
        raise ValueError(f"{name} must be above 0, got {lowest}")


def one_scale(scale: Any, temperature: Any, default: float | None = None) -> Any:
    """The scale of the scores, given as itself or as the temperature that is 1 over it; by default `default`.

    >>> one_scale(None, 0.5), one_scale(None, None, 50.0)
    (2.0, 50.0)
    >>> one_scale(2.0, 0.5)
    Traceback (most recent call last):
    TypeError: give scale or temperature = 1 / scale, and not both
    """
    if scale is not None and temperature is not None:
        raise TypeError("give scale or temperature = 1 / scale, and not both")
    if temperature is not None:
        check_positive(temperature, "temperature")
        return 1 / temperature
    if scale is None and default is None:
        raise TypeError("give scale, or temperature = 1 / scale")
    return default if scale is None else scale


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
