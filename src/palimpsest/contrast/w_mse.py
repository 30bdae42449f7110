"""Whitening MSE (Ermolov, Siarohin, Sangineto and Sebe, 2020, arXiv 2007.06346).

Pulling the views of an image together has a trivial solution: all embeddings the same. Negatives rule it out, so do
momentum encoders and stopped gradients. W-MSE does it with one linear map: the embeddings of a batch are whitened, so
that they cannot but be centred and spread over all dimensions, and then only the views' distance is left to minimise:

    whiten(v) = (v - mu) L^-T,   L L^T = (1 - eps) cov(v) + eps I
    loss = mean over pairs of views a < b and images i of dist(z_a,i, z_b,i),   z_a = whiten(v_a)

with dist(x, y) = 2 - 2 cos(x, y), or |x - y|^2 / d. Each view of a batch is cut into slices of a few times d rows, at
random but alike for all views, and each slice is whitened by its own statistics: the noise of a single estimate of
them is averaged over the slices of a cut, and over several cuts.

How much of its d dimensions an embedding uses is measured by `palimpsest.metrics.probes.effective_rank`.
"""

from __future__ import annotations

from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.contrast.input_checks import Blaming, look
from palimpsest.contrast.many_views import distance, numbered, stacked
from palimpsest.contrast.precision import without_autocast
from palimpsest.lazy import front_door

# The share of a dimension's variance that earlier ones do not explain must be above this. Of dependent dimensions, rows
# rounded to float32 mostly leave less (about 1e-12); of independent ones twice as many rows leave more (about 1e-3).
LEFT = 1e-10


def w_mse(
    *views: Float[Tensor, "batch d"],
    w_size: int | None = None,
    w_iter: int = 1,
    norm: bool = True,
    eps: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """The mean distance between the views of an image, each whitened slice by slice; no negatives are needed.

    Args:
        views: two or more, one argument each; row i of each is the embedding of a view of image i.
        w_size: rows in a slice, above d; by default 2 d, or the whole batch where that is smaller. Rows that do not
            fill a slice are left out of this evaluation.
        w_iter: how many times the batch is shuffled and cut anew; the loss is the mean.
        norm: distances between unit vectors, 2 - 2 cos; otherwise |x - y|^2 / d, the mean over coordinates, as in the
            authors' code.
        eps: see `whiten`.
        generator: of the shuffling, on the CPU; by default torch's own.

    Raises:
        ValueError, TypeError: fewer than two views, views that do not match, slices that are not longer than d or
            longer than the batch, or whose covariance has no inverse.

    >>> z = torch.randn(64, 8)
    >>> near = w_mse(z, z + 0.1 * torch.randn(64, 8), w_size=32)
    >>> far = w_mse(z, torch.randn(64, 8), w_size=32)
    >>> bool(w_mse(z, 3 * z + 5) < 1e-5 < near < far)
    True
    """
    together = stacked(views)
    n, d = together.shape[1:]
    size = min(2 * d, n) if w_size is None else w_size
    for name, value in (("w_size", size), ("w_iter", w_iter)):
        if not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
    if not d < size <= n:
        raise ValueError(f"a slice must have more rows than d = {d} and at most the batch's {n}, got {size}")
    if w_iter < 1:
        raise ValueError(f"w_iter must be at least 1, got {w_iter}")
    slices, total = n // size, together.new_zeros(())
    with Blaming(**numbered(views)):
        for _ in range(w_iter):
            rows = torch.randperm(n, generator=generator)[: slices * size].to(together.device)
            cut = together[:, rows].unflatten(1, (slices, size))
            total = total + distance(whiten(cut, eps).flatten(1, 2), norm)
    look(total, **numbered(views))
    return total / w_iter


def whiten(v: Float[Tensor, "*slices n d"], eps: float = 0.0) -> Float[Tensor, "*slices n d"]:
    """Rows moved and mapped so that their mean is 0 and, with eps = 0, their covariance I. Differentiable, also in the
    statistics.

        out = (v - mu) L^-T,        L L^T = (1 - eps) cov(v) + eps I

    Cov has n - 1 in its denominator. L is the Cholesky factor: the cheapest of the maps that whiten, and one under
    which dimension k depends on the first k only. It is found in float64, which the device must have (Apple's GPUs do
    not): with twice as many rows as dimensions the covariance is so near to singular that in float32 the result would
    not be white, and dependent dimensions would not be noticed.

    Args:
        v: one or more slices of rows; each is whitened by its own statistics. n must be above d.
        eps: shrinks the covariance towards I, in [0, 1]; a little helps where dimensions are nearly dependent.

    Returns:
        The whitened rows, in the dtype of v.

    Raises:
        ValueError: too few rows, eps out of range, or a covariance that has no inverse.

    >>> out = whiten(torch.randn(100, 3) @ torch.randn(3, 3) + 7)
    >>> torch.allclose(torch.cov(out.T), torch.eye(3), atol=1e-5)
    True
    """
    if not isinstance(v, Tensor) or not v.is_floating_point():
        raise TypeError(f"v must be a tensor of floats, got {getattr(v, 'dtype', type(v).__name__)}")
    if v.ndim < 2 or not v.shape[-1]:
        raise ValueError(f"v must be [..., n, d], got {list(v.shape)}")
    n, d = v.shape[-2:]
    if n <= d:
        raise ValueError(f"whitening {d} dimensions needs more than {d} rows, got {n}")
    if not 0 <= eps <= 1:
        raise ValueError(f"eps must be in [0, 1], got {eps}")
    with without_autocast(v):
        wide = v.double()
        mean = wide.mean(-2, keepdim=True)
        centred = wide - mean
        covariance = centred.mT @ centred / (n - 1)
        shrunk = (1 - eps) * covariance + eps * torch.eye(d, dtype=wide.dtype, device=wide.device)
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        with torch.no_grad():
            # The second term is for constant dimensions, of whose mean rounding leaves 1e-16: their variance is not 0.
            known = shrunk.diagonal(dim1=-2, dim2=-1) + 1e-14 * mean.squeeze(-2).square()
            independent = factor.diagonal(dim1=-2, dim2=-1).square() > LEFT * known
        if not torch.compiler.is_compiling() and (failed.any() | ~independent.all()):
            raise ValueError(
                f"the covariance of {n} rows in {d} dimensions has no inverse: some are constant, dependent or not"
                " finite; take larger slices or eps above 0"
            )
        return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT.to(v.dtype)


_MOVED = {"contrast.many_views": ("views_mse",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
