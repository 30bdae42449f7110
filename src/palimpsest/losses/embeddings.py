"""Losses of a batch of embeddings that many methods are compared with: contrastive, triplet, Barlow Twins.

Distances and correlations are taken in float32 at least (float64 for float64).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.renamed import renamed


def contrastive_loss(
    embeddings: Float[Tensor, "batch d"], labels: Int[Tensor, " batch"], margin: float = 1.0
) -> Float[Tensor, ""]:
    """Over all pairs of the batch: |x - x'|^2 for a pair of one class, [margin - |x - x'|]_+^2 for others; the mean of
    both kinds' means (0 for a kind that does not occur), so that the many pairs of two classes do not drown the rest.

    Hadsell, Chopra and LeCun (2006).

    Args:
        embeddings: taken as they are, not normalised.
        labels: one a row.
        margin: the distance at which pairs of two classes are left alone, above 0.

    Raises:
        ValueError: shapes that do not fit, a margin that is not above 0, embeddings that are not finite.
        TypeError: embeddings that are not of floats.

    >>> contrastive_loss(torch.tensor([[0.0], [0.5], [0.75]]), torch.tensor([0, 0, 1]))  # 0.25; 0.0625 and 0.5625
    tensor(0.2812)
    """
    embeddings = _labelled(embeddings, labels, margin)
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    same = labels[first] == labels[second]
    distance = F.pdist(embeddings)  # in the same order
    apart = (margin - distance).clamp(min=0)
    kinds = ((distance, same), (apart, ~same))
    loss = sum(values.square().where(kind, 0).sum() / kind.sum().clamp(min=1) for values, kind in kinds) / 2
    _look(loss, embeddings=embeddings)
    return loss


def triplet_loss(
    embeddings: Float[Tensor, "batch d"], labels: Int[Tensor, " batch"], margin: float = 0.2
) -> Float[Tensor, ""]:
    """[|a - p|^2 - |a - n|^2 + margin]_+ over all triplets of the batch, averaged over those that are above 0.

    Schroff, Kalenichenko and Philbin (2015, arXiv 1503.03832), over all triplets instead of mined ones. Memory grows as
    (pairs of one class) x batch. Arguments and errors are those of `contrastive_loss`.

    >>> triplet_loss(torch.tensor([[0.0], [0.5], [0.25]]), torch.tensor([0, 0, 1]))  # 0.25 - 0.0625 + 0.2, twice
    tensor(0.3875)
    """
    embeddings = _labelled(embeddings, labels, margin)
    squared = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist").square()
    same = labels[:, None] == labels
    anchor, positive = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero(as_tuple=True)
    excess = (squared[anchor, positive, None] - squared[anchor] + margin).masked_fill(same[anchor], 0).clamp(min=0)
    loss = excess.sum() / (excess > 0).sum().clamp(min=1)
    _look(loss, embeddings=embeddings)
    return loss


@renamed(z1="query", z2="key")
def barlow_twins_loss(
    query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"], off_diagonal: float = 5e-3, eps: float = 1e-5
) -> Float[Tensor, ""]:
    """sum_a (1 - C_aa)^2 + w sum_{a != b} C_ab^2, with C the correlations over the batch between the coordinates of two
    views: each is to repeat itself in the other view, and to say nothing about the others.

    Zbontar, Jing, Misra, LeCun and Deny (2021, arXiv 2103.03230). As in their code, variances get `eps` more.

    Args:
        query, key: two views, row by row a pair. A coordinate that does not vary has correlation 0.
        off_diagonal: w, not negative.
        eps: above 0.

    Raises:
        ValueError: shapes that differ, fewer than two pairs, a negative weight, an eps that is not above 0, views that
            are not finite.
        TypeError: views that are not of floats.

    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> barlow_twins_loss(z, z).item() < 1e-9
    True
    """
    if query.ndim != 2 or query.shape != key.shape or len(query) < 2:
        raise ValueError(
            f"query and key must be [batch, d], at least 2 pairs, got {list(query.shape)} and {list(key.shape)}"
        )
    if not off_diagonal >= 0:
        raise ValueError(f"off_diagonal must not be negative, got {off_diagonal}")
    if not eps > 0:
        raise ValueError(f"eps must be above 0, got {eps}")
    with torch.autocast(query.device.type, enabled=False):
        one, two = ((z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt() for z in map(_wide, (query, key)))
        correlation = one.T @ two / len(query)
        diagonal = correlation.diagonal()
        loss = (1 - diagonal).square().sum() + off_diagonal * (correlation.square().sum() - diagonal.square().sum())
    _look(loss, query=query, key=key)
    return loss


def _look(loss: Tensor, **inputs: Tensor) -> None:
    """Where the loss is no finite number, raises ValueError with the input that is to blame."""
    if not torch.compiler.is_compiling() and not loss.isfinite():
        for name, values in inputs.items():
            if not values.isfinite().all():
                place = (~values.isfinite()).nonzero()[0].tolist()
                raise ValueError(f"{name} must be finite, got {values[tuple(place)].item()} at {place}")


def _wide(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise TypeError(f"embeddings must be of floats, got {tensor.dtype}")
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _labelled(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"embeddings and labels must be [batch, d] and [batch], one a row, got {list(embeddings.shape)} and"
            f" {list(labels.shape)}"
        )
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    return _wide(embeddings)
