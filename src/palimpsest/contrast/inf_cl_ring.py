"""The loss of `palimpsest.contrast.inf_cl` on a ring of ranks: what is asked of their shards, and how it is made."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.distributed import OneProcess, Processes
from palimpsest.contrast.inf_cl_tiles import Ring
from palimpsest.contrast.input_checks import check_finite, check_pairs, check_positive, look
from palimpsest.contrast.precision import wide_dtype, widened, without_autocast
from palimpsest.contrast.streaming import Pairs, logsumexp


def ring_loss(
    ring: OneProcess | Processes,
    q: list[Tensor],
    k: list[Tensor],
    scale: float | Tensor,
    tile: int,
    symmetric: bool,
    normalize: bool,
) -> Tensor:
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise ValueError(f"tile must be a whole number of at least 1, got {tile!r}")
    if not q:
        raise ValueError("there are no shards")
    for own, keys in zip(q, k, strict=True):
        check_pairs(query=own, key=keys, values=False)
        if own.shape != q[0].shape or own.dtype != q[0].dtype:
            raise ValueError(f"shards must be alike, got {list(q[0].shape)} and {list(own.shape)}")
    scale = torch.as_tensor(scale, dtype=wide_dtype(q[0]))
    if scale.numel() != 1:
        raise ValueError(f"scale must have one element, got {list(scale.shape)}")
    if not torch.compiler.is_compiling() and not 0 < scale.item() < math.inf:  # a number waits for no device
        check_finite(scale, "scale")
        check_positive(scale, "scale")
    scale = scale.to(q[0].device).reshape(())
    given = zip(q, k, strict=True)
    if normalize:
        q, k = ([F.normalize(widened(own), dim=1) for own in side] for side in (q, k))
    if torch.compiler.is_compiling() and isinstance(ring, OneProcess):
        return _of_strips(torch.cat(q), torch.cat(k), scale, tile, symmetric)
    keys_need = any(keys.requires_grad for keys in k)
    ring.check(q[0], symmetric=symmetric, keys_need_gradients=keys_need)
    try:
        return Ring.apply(ring, tile, symmetric, keys_need, scale, *q, *k)
    except ValueError:  # scores overflow, maybe for a value that is not finite
        for own, keys in given:
            look(query=own, key=keys)
        raise


def _of_strips(q: Tensor, k: Tensor, scale: Tensor, tile: int, symmetric: bool) -> Tensor:
    with without_autocast(q):
        queries, keys = q.to(scale.dtype) * scale, k.to(scale.dtype)
        positive = (queries * keys).sum(1)
        own = torch.arange(len(q), device=q.device)[:, None]
        pairs = Pairs(left_out=own, columns=len(k) if symmetric else 0)
        sides = logsumexp(queries, keys, positive, positive if symmetric else None, pairs=pairs, rows=tile)
        return torch.cat(sides).mean()
