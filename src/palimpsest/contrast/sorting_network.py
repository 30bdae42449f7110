"""A differentiable sorting network: odd-even transposition whose swaps are probabilities (Petersen, Borgelt, Kuehne and
Deussen, 2021, arXiv 2105.04019)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.contrast.input_checks import look


def diff_sort(
    s: Float[Tensor, "batch n"], steepness: float = 1.0, art: float = 0.0
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n n"]]:
    """Ascending values and the relaxed permutation, by n layers that compare 0 and 1, 2 and 3, ..., then 1 and 2, ...

    Args:
        s: what to sort, row by row.
        steepness: of a comparison; the larger, the nearer to exact sorting (whose limit it is).
        art: from 0 to below 1: b - a is divided by its size to this power (activation replacement), which makes small
            differences decide more.

    Returns:
        The relaxed sorted values, and P, whose rows and columns sum to 1 (up to the rounding of s's dtype); P[i, r] is
        input i's share of rank r.

    Raises:
        ValueError, TypeError: shapes, dtypes, values that are not finite, parameters out of range.

    >>> ranked, p = diff_sort(torch.tensor([[2.0, -1.0, 1.0]]), steepness=1e6)
    >>> ranked, p[0].argmax(1)
    (tensor([[-1.0000,  1.0000,  2.0000]]), tensor([2, 0, 1]))
    """
    ranked, layers = _sort(s, steepness, art)
    look(ranked, s=s)
    p = torch.eye(s.shape[1], dtype=s.dtype, device=s.device).expand(len(s), -1, -1)
    for first, keep in layers:
        p = _swapped(p, first, keep[:, None])
    return ranked, p


def top_probability(
    s: Float[Tensor, "batch n"], k: int, steepness: float = 1.0, art: float = 0.0
) -> Float[Tensor, "batch n"]:
    """Q[i] = sum_{r >= k} P[i, r] of `diff_sort`: how probable it is that input i is not among the k lowest.

    P itself is not made: the layers act on the n numbers [r >= k], last layer first.

    >>> q = top_probability(torch.tensor([[0.0, 1.0]]), k=1)  # 1/2 -+ atan(1)/pi
    >>> q
    tensor([[0.2500, 0.7500]])
    """
    _, layers = _sort(s, steepness, art)
    if not isinstance(k, int) or not 1 <= k < s.shape[1]:
        raise ValueError(f"k must be a whole number from 1 to {s.shape[1] - 1}, got {k}")
    top = (torch.arange(s.shape[1], device=s.device) >= k).to(s).expand_as(s)
    for first, keep in reversed(layers):  # every layer's matrix is symmetric
        top = _swapped(top, first, keep)
    top = top.clamp(0, 1)
    look(top, s=s)
    return top


def _sort(s: Tensor, steepness: float, art: float) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """Sorted values, and each layer's first place and probabilities of staying in order."""
    if s.ndim != 2 or s.shape[1] < 2:
        raise ValueError(f"s must be [batch, n] with n of at least 2, got {list(s.shape)}")
    if not s.is_floating_point():
        raise TypeError(f"s must be floating point, got {s.dtype}")
    if not 0 < steepness < math.inf:
        raise ValueError(f"steepness must be above 0 and finite, got {steepness}")
    if not 0 <= art < 1:
        raise ValueError(f"art must be at least 0 and below 1, got {art}")
    layers = []
    for layer in range(s.shape[1]):
        first = layer % 2
        a, b = _neighbours(s, first)
        x = b - a
        if art:
            x = x / (x.abs() + 1e-10) ** art  # kept off 0, where the power has no derivative
        layers.append((first, 0.5 + torch.atan(steepness * x) / math.pi))
        s = _swapped(s, *layers[-1])
    return s, layers


def _neighbours(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    last = x.shape[-1] - (x.shape[-1] - first) % 2
    return x[..., first:last:2], x[..., first + 1 : last : 2]


def _swapped(x: Tensor, first: int, keep: Tensor) -> Tensor:
    """One layer: neighbours a, b become keep a + (1 - keep) b and the reverse."""
    a, b = _neighbours(x, first)
    moved = (1 - keep) * (b - a)
    mixed = torch.stack([a + moved, b - moved], -1).flatten(-2)
    return torch.cat([x[..., :first], mixed, x[..., first + mixed.shape[-1] :]], -1)
