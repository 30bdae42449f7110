"""Contrastive loss of a batch of any size, in tiles (Cheng, Zhang, Li, Leng, Hu, Wu, Zhao, Li and Bing, 2024, arXiv
2410.17243).

The score matrix of a batch, [batch, batch], is what bounds the batch. Here it exists one tile at a time: forward, each
tile's log-sum-exp is merged into that of its rows and columns; backward, the tile is made again.

    L = 1/B sum_i (row_i - S_ii),        S_ij = scale q_i . k_j,        row_i = log sum_j e^{S_ij}
    G_ij = (e^{S_ij - row_i} - [i = j]) / B,     dL/dq = scale G k,     dL/dk = scale G' q,     dL/dscale = <q, G k>

and, if symmetric, the mean of this and of the same with rows and columns exchanged. Several processes form a ring: keys
travel round it, each with the log-sum-exp of its column, and in the backward pass with its gradient too, so that no
process ever holds the keys of all. Positives are kept apart from the sums and enter as log(1 + e^{row - positive}), so
that a small loss is not the difference of two large numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from palimpsest.contrast.distributed import OneProcess, Processes
from palimpsest.contrast.inf_cl_ring import ring_loss
from palimpsest.contrast.input_checks import one_scale
from palimpsest.lazy import front_door
from palimpsest.renamed import renamed


@renamed(q="query", k="key")
def tiled_nce(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    scale: float | Float[Tensor, ""] | None = None,
    tile: int = 1024,
    symmetric: bool = True,
    *,
    temperature: float | Float[Tensor, ""] | None = None,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """1/B sum_i (log sum_j e^{scale q_i . k_j} - scale q_i . k_i), or its mean with the other direction.

    `palimpsest.contrast.info_nce.info_nce` gives the same value and takes every option of the family. Prefer it up to
    some hundred thousand keys: one direction costs it three matrix products, not four, and with both it is as fast.
    Its strips hold whole rows, at least 128 of them, and so grow with the number of keys; and it makes the gradient in
    the forward pass and keeps it. Prefer this where either is too much: memory here is two tiles whatever the batch,
    and one number a row and column is kept for the backward pass. There is no second derivative. (Under `torch.compile`
    tiles are strips of `tile` rows and all columns, so that all of it is in the graph.)

    Args:
        query, key: row i of one goes with row i of the other; float32, float64, bfloat16 or float16: sums and gradients
            are gathered in float32 (float64 for float64).
        scale: 1 / temperature, above 0; a tensor gets a gradient.
        tile: rows and columns of a tile.
        symmetric: both directions, as in CLIP.
        temperature: in the place of the scale.
        normalize: bring rows to norm 1; otherwise they are taken as they are.

    Raises:
        ValueError, TypeError: what does not fit, with its value: shapes, dtypes, an empty batch, a tile below 1, a
            scale that is not above 0, values that are not finite; scale and temperature both, or neither.

    >>> q, k = F.normalize(torch.randn(6, 4)), F.normalize(torch.randn(6, 4))
    >>> loss = tiled_nce(q, k, 10.0, tile=4, symmetric=False)
    >>> torch.allclose(loss, F.cross_entropy(10 * q @ k.T, torch.arange(6)), atol=1e-5)
    True
    """
    return ring_loss(OneProcess(1), [query], [key], one_scale(scale, temperature), tile, symmetric, normalize)


@renamed(q_shards="query_shards", k_shards="key_shards")
def ring_nce(
    query_shards: Sequence[Float[Tensor, "rows d"]] | Float[Tensor, "rows d"],
    key_shards: Sequence[Float[Tensor, "rows d"]] | Float[Tensor, "rows d"],
    scale: float | Float[Tensor, ""] | None = None,
    tile: int = 1024,
    symmetric: bool = True,
    group: Any = None,
    *,
    temperature: float | Float[Tensor, ""] | None = None,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """`tiled_nce` of a batch that is spread over ranks.

    Without a group the shards of all ranks are given, and one process plays them all: the value is the loss of the
    joint batch. With one, each process gives its own shards and gets the loss of its own rows (and columns). The mean
    over processes is then the loss of the joint batch, and so are gradients that are averaged over processes, as DDP
    does; every process must call this, and its backward pass, in the same order. A rank holds two sets of keys at a
    time, and two tiles.

    Args:
        query_shards, key_shards: one tensor a rank, all of one shape; with a group, this process's own two tensors.
        scale, tile, symmetric, temperature, normalize: as in `tiled_nce`. Each process's gradient of the scale holds
            its rows' part.
        group: a group of processes, `torch.distributed.group.WORLD` for all.

    Raises:
        ValueError, TypeError: as in `tiled_nce`; shards of different shapes or dtypes, in all processes alike. (What is
            wrong in one process alone, such as a value that is not finite, stops that process only.)

    >>> q, k = F.normalize(torch.randn(6, 4)), F.normalize(torch.randn(6, 4))
    >>> torch.allclose(ring_nce(q.split(2), k.split(2), 10.0), tiled_nce(q, k, 10.0), atol=1e-5)
    True
    """
    scale = one_scale(scale, temperature)
    if group is not None:
        return ring_loss(Processes(group), [query_shards], [key_shards], scale, tile, symmetric, normalize)
    if isinstance(query_shards, Tensor) or isinstance(key_shards, Tensor) or len(query_shards) != len(key_shards):
        raise ValueError(
            "query_shards and key_shards must be equally many tensors, one a rank, unless a group is given"
        )
    return ring_loss(
        OneProcess(len(query_shards)), list(query_shards), list(key_shards), scale, tile, symmetric, normalize
    )


_MOVED = {"contrast.inf_cl_tiles": ("SAFE",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
