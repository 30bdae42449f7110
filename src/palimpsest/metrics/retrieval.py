"""What is found where it is searched for by similarity."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
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
