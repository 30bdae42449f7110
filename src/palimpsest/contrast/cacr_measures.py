"""How many positives and negatives act on a query (Zheng et al. 2021, arXiv 2105.03746)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.contrast.cacr import cacr_weights


def weights_report(
    query: Float[Tensor, "queries d"],
    positives: Float[Tensor, "queries k d"],
    negatives: Float[Tensor, "negatives d"],
    t_pos: float = 1.0,
    t_neg: float = 2.0,
    *,
    left_out: Int[Tensor, "queries out"] | None = None,
) -> dict[str, Float[Tensor, " queries"]]:
    """How many positives and negatives act on each query: 1 / sum of squared weights, from 1 (a single one does) to all
    of them (uniform weights). Arguments as for `cacr_loss`.

    >>> weights_report(torch.eye(2)[:1], torch.eye(2)[None], torch.eye(2), t_pos=0.0, t_neg=50.0)
    {'positives': tensor([2.]), 'negatives': tensor([1.])}
    """
    found = cacr_weights(query, positives, negatives, t_pos, t_neg, left_out=left_out)
    return {name: 1 / w.square().sum(1) for name, w in zip(("positives", "negatives"), found, strict=True)}
