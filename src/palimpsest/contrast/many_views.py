"""Losses of any number of views of a sample: NT-Xent, with all negatives or the hardest only, and their distance."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.input_checks import Blaming, check_embeddings, check_pairs, look
from palimpsest.contrast.precision import widened
from palimpsest.renamed import renamed


@renamed(z="views")
def views_nt_xent(
    views: Float[Tensor, "views batch d"],
    temperature: float | Tensor = 0.5,
    *,
    k_neg: int | None = None,
    stop_grad: bool = False,
) -> Float[Tensor, ""]:
    """The baselines of the paper: NT-Xent for any number of views, and with only the hardest negatives.

        mean over anchors i and their partners p of  -log( e^{s_ip} / (e^{s_ip} + sum_{j of other samples} e^{s_ij}) )

    For two views and all negatives it is `nt_xent`. An anchor's other partners are not among the negatives.

    Args:
        views: as for `groco_loss`.
        temperature: above 0.
        k_neg: only that many negatives of an anchor, those with the highest cosine in any view (ties are all kept).
        stop_grad: the gradient goes to anchors only.

    >>> views_nt_xent(torch.eye(3).expand(2, 3, 3)).item()  # -2 + log(e^2 + 4)
    0.4326...
    """
    z = checked_views(views)
    number, batch, _ = z.shape
    if batch < 2:
        raise ValueError(f"a batch needs at least 2 samples, got {batch}: there are no negatives without another")
    if k_neg is not None:
        check_negatives(k_neg, number * (batch - 1), batch)
    z = z.flatten(0, 1)
    sample = torch.arange(batch, device=z.device).repeat(number)

    def counted(part: slice, cosines: Tensor) -> Tensor:
        negative = sample[part, None] != sample
        if k_neg is None:
            return negative
        lowest = cosines.masked_fill(~negative, -torch.inf).topk(k_neg, 1).values[:, -1:]
        return negative & (cosines >= lowest)

    keys = z.detach() if stop_grad else z
    row = torch.arange(len(z), device=z.device)
    with Blaming(views=views.flatten(0, 1)):
        losses = [
            info_nce(z, keys, temperature, targets=row.roll(-shift * batch), mask=counted) for shift in range(1, number)
        ]
    return torch.stack(losses).mean()


def views_mse(*views: Float[Tensor, "batch d"], norm: bool = True) -> Float[Tensor, ""]:
    """The mean distance over pairs of views, which is 0 once all embeddings are the same: the baseline that collapses.

    Args:
        views: two or more, one argument each; row i of each is the embedding of a view of image i.
        norm: distances between unit vectors, 2 - 2 cos; otherwise |x - y|^2 / d.

    Raises:
        ValueError, TypeError: fewer than two views, views without rows, or views that do not match.

    >>> views_mse(torch.eye(2), torch.eye(2).flip(0), norm=False)
    tensor(1.0000)
    """
    loss = distance(stacked(views), norm)
    look(loss, **numbered(views))
    return loss


def stacked(views: tuple[Tensor, ...]) -> Float[Tensor, "views batch d"]:
    """In float32 at least: squares of half-precision embeddings overflow."""
    if len(views) < 2:
        raise ValueError(f"at least two views are compared, each an argument of its own, got {len(views)}")
    check_pairs(values=False, **numbered(views))
    return widened(torch.stack(views))


def numbered(views: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {f"view {number}": view for number, view in enumerate(views, 1)}


def distance(z: Float[Tensor, "views batch d"], norm: bool) -> Float[Tensor, ""]:
    """All pairs of views at once: sum_{a<b} |z_a - z_b|^2 = V sum_a |z_a - mean z|^2."""
    z = F.normalize(z, dim=-1) if norm else z / z.shape[-1] ** 0.5
    return 2 / (len(z) - 1) * (z - z.mean(0)).square().sum(-1).mean(-1).sum()


def checked_views(views: Tensor) -> Tensor:
    """The views at norm 1, in float32 or wider; values are looked at by the caller."""
    if not isinstance(views, Tensor):
        raise TypeError(f"views must be a tensor [views, batch, d], got {type(views).__name__}: stack the views")
    if views.ndim != 3 or len(views) < 2:
        raise ValueError(f"views must be [views, batch, d] with at least 2 views, got {list(views.shape)}")
    check_embeddings(views=views.flatten(0, 1), values=False)
    return F.normalize(widened(views), dim=2)


def check_negatives(k_neg: int, most: int, batch: int) -> None:
    if not isinstance(k_neg, int) or not 1 <= k_neg <= most:
        raise ValueError(f"k_neg must be a whole number from 1 to {most} for a batch of {batch}, got {k_neg}")
