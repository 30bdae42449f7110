"""What is found where it is searched for by similarity."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def recall_at_1(
    query: Float[Tensor, "n dim"], key: Float[Tensor, "n dim"], fitting: Bool[Tensor, "n n"] | None = None
) -> tuple[float, float]:
    """R@1 both ways: the share of queries whose nearest key fits them, and of keys whose nearest query they fit.

    Args:
        query, key: embeddings, row by row a pair; the nearest has the largest inner product.
        fitting: which key (column) fits which query (row); by default its own alone.

    Raises:
        ValueError: the shapes do not go together, or a value is not finite.

    >>> recall_at_1(torch.eye(3), torch.eye(3)[[1, 0, 2]])
    (0.333..., 0.333...)
    """
    if query.ndim != 2 or query.shape != key.shape or not len(query):
        raise ValueError(f"query and key must be [n, dim] each, got {list(query.shape)} and {list(key.shape)}")
    for name, embeddings in (("query", query), ("key", key)):
        if not embeddings.isfinite().all():
            raise ValueError(f"{name} must be finite")
    rows = torch.arange(len(query), device=query.device)
    fitting = rows[:, None] == rows if fitting is None else fitting
    if fitting.shape != (len(query), len(query)):
        raise ValueError(f"fitting must be [{len(query)}, {len(query)}], got {list(fitting.shape)}")
    scores = query @ key.T
    forth, back = fitting[rows, scores.argmax(1)], fitting[scores.argmax(0), rows]
    return forth.float().mean().item(), back.float().mean().item()


def ranks(scores: Float[Tensor, "n items"], right: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The place of the right item of each row, from 1, by falling scores; of equal ones their mean place.

    Raises:
        ValueError: the shapes do not go together, or a score is NaN.

    >>> ranks(torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.2, 0.0]]), torch.tensor([2, 0]))
    tensor([2.0000, 1.5000])
    """
    if scores.ndim != 2 or right.shape != scores.shape[:1]:
        raise ValueError(f"scores must be [n, items] and right [n], got {list(scores.shape)} and {list(right.shape)}")
    if scores.isnan().any():
        raise ValueError("scores must not be NaN")
    own = scores.gather(1, right[:, None])
    return (scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2


def discounted_gain(rank: Float[Tensor, " n"], k: int) -> Float[Tensor, " n"]:
    """nDCG@k of queries with one right item each: 1 / log2(1 + rank), and 0 beyond the first k.

    Source: Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques.

    >>> discounted_gain(torch.tensor([1.0, 3.0, 4.0]), k=3)
    tensor([1.0000, 0.5000, 0.0000])
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return (rank <= k) / (1 + rank).log2()


def average_precision(hits: Bool[Tensor, "queries ranks"]) -> Float[Tensor, " queries"]:
    """Mean precision at the ranks of the right answers: 1 where all of these come first, 0 where there is none.

        AP_i = sum_k hits_ik precision_i(k) / sum_k hits_ik

    Args:
        hits: whether the answer at each rank is right, the best rank first; all answers are ranked.

    >>> average_precision(torch.tensor([[True, False, True], [False, False, False]]))
    tensor([0.8333, 0.0000])
    """
    if hits.ndim != 2 or hits.dtype != torch.bool:
        raise ValueError(f"hits must be booleans [queries, ranks], got {hits.dtype} {list(hits.shape)}")
    precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return (hits * precision).sum(1) / hits.sum(1).clamp(min=1)
