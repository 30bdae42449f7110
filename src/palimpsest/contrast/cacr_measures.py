"""The weights of positives and negatives, and how many of them act on a query (Zheng et al. 2021, arXiv 2105.03746)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.contrast.cacr import features, group_weights, positive_costs
from palimpsest.contrast.input_checks import look
from palimpsest.contrast.precision import without_autocast


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


def cacr_weights(
    query: Float[Tensor, "queries d"],
    positives: Float[Tensor, "queries k d"],
    negatives: Float[Tensor, "negatives d"],
    t_pos: float = 1.0,
    t_neg: float = 2.0,
    *,
    left_out: Int[Tensor, "queries out"] | None = None,
) -> tuple[Float[Tensor, "queries k"], Float[Tensor, "queries negatives"]]:
    """w+ and w-, each row with sum 1 (w- is 0 where left out). Arguments as for `cacr_loss`.

    >>> query, positives = torch.eye(2)[:1], torch.eye(2)[None]
    >>> cacr_weights(query, positives, torch.eye(2), t_pos=0.0, t_neg=1.0)
    (tensor([[0.5000, 0.5000]]), tensor([[0.8808, 0.1192]]))
    """
    with without_autocast(query):
        q, p, n = features(query, positives, negatives, t_pos, t_neg, left_out)
        weights = (
            group_weights(positive_costs(q, p), t_pos, True),
            group_weights(2 - 2 * q @ n.T, -t_neg, True, left_out),
        )
    look(*weights, query=query, positives=positives.flatten(0, 1), negatives=negatives)
    return weights
