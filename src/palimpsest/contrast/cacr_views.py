"""Contrastive attraction and repulsion among several views of every image, in a batch and with a queue (Zheng et al.
2021, arXiv 2105.03746)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.contrast.cacr import cacr_loss
from palimpsest.contrast.input_checks import Blaming, check_embeddings
from palimpsest.renamed import renamed


@renamed(z="views")
def multi_view_cacr(
    views: Float[Tensor, "images views d"], t_pos: float = 1.0, t_neg: float = 2.0, *, detach: bool = True
) -> Float[Tensor, ""]:
    """Every view in turn is the query; the image's other views are its positives, all views of the others its
    negatives. Arguments as for `cacr_loss`.

    >>> multi_view_cacr(torch.eye(3)[:, None].expand(3, 5, 3))  # views agree, images are orthogonal
    tensor(-2.)
    """
    others, own = _groups(views)
    query = views.flatten(0, 1)
    with Blaming(views=query):
        return cacr_loss(query, views[:, others].flatten(0, 1), query, t_pos, t_neg, left_out=own, detach=detach)


def queue_cacr(
    query: Float[Tensor, "images views d"],
    key: Float[Tensor, "images views d"],
    queue: Float[Tensor, "queue d"],
    t_pos: float = 1.0,
    t_neg: float = 2.0,
    *,
    detach: bool = True,
) -> Float[Tensor, ""]:
    """With a momentum encoder: a view's query is attracted by the keys of the image's other views, and repelled by the
    queue and by the queries of the other images. Keys and queue get no gradient.

    Negatives of the batch are all views of the other images, as in `multi_view_cacr`, so that an empty queue leaves
    that loss. The authors' code takes one view of the other images only, the positive's, and keys, not queries. It also
    makes the scores against the queue once, for the first view, and takes them again for every other view, whose own
    queries the queue then does not repel; here each view's query is scored against the queue itself.

    Args:
        query, key: the same views by the trained encoder and by its momentum copy
            (`palimpsest.contrast.momentum.MomentumPair`).
        queue: keys of earlier batches; may be empty.
        t_pos, t_neg, detach: as in `cacr_loss`.

    >>> z = torch.eye(3)[:2, None].expand(2, 2, 3)
    >>> queue_cacr(z, z, torch.eye(3)[2:])
    tensor(-2.)
    """
    others, own = _groups(query)
    if key.shape != query.shape:
        raise ValueError(f"query and key must have the same shape, got {list(query.shape)} and {list(key.shape)}")
    check_embeddings(query=query.flatten(0, 1), queue=queue, values=False)
    flat, keys = query.flatten(0, 1), key.detach()[:, others].flatten(0, 1)
    bank = torch.cat([flat, queue.detach()])
    with Blaming(query=flat, key=key.flatten(0, 1), queue=queue):
        return cacr_loss(flat, keys, bank, t_pos, t_neg, left_out=own, detach=detach)


def _groups(z: Tensor) -> tuple[Tensor, Tensor]:
    """Of every view the other views [views, views - 1]; of every query the rows of its own image."""
    if z.ndim != 3 or z.shape[1] < 2:
        raise ValueError(f"views must be [images, views, d] with two views at least, got {list(z.shape)}")
    images, views, _ = z.shape
    view = torch.arange(views, device=z.device)
    own = torch.arange(images * views, device=z.device).reshape(images, views).repeat_interleave(views, 0)
    return (view[:, None] + view[1:]) % views, own
