"""MoCo's loss: a query finds its key among those of a queue (He et al. 2019, arXiv 1911.05722)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.input_checks import Blaming, check_embeddings, check_pairs, check_unit
from palimpsest.contrast.precision import widened
from palimpsest.contrast.streaming import OfPairs
from palimpsest.renamed import renamed


@renamed(anchor="query", positive="key", tau="temperature")
def queue_nce(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    queue: Float[Tensor, "queue d"],
    mask: OfPairs | None = None,
    temperature: float = 0.1,
    *,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """mean over the batch of nce(a, p, N), above; N from the mask, all of the queue without one.

    Query (the anchor) and key (its positive) are brought to norm 1; gradients reach both.

    Args:
        query, key: row i of one goes with row i of the other.
        queue: keys of norm 1.
        mask: which pairs of query and queue count: boolean [batch, queue], or `hard_negatives(...)`.
        temperature: above 0.
        normalize: bring the queue to norm 1 too; otherwise its keys must have it.

    Raises:
        ValueError, TypeError: what does not fit, with its value.

    >>> a = torch.tensor([[1.0, 0.0]])
    >>> loss = queue_nce(a, a, torch.tensor([[0.0, 1.0]]), temperature=0.5)  # -2 + log(e^2 + 1)
    >>> torch.isclose(loss, torch.log1p(torch.exp(torch.tensor(-2.0))))
    tensor(True)
    """
    check_pairs(query=query, key=key, values=False)
    check_embeddings(query=query, queue=queue, values=False)
    if not normalize:
        check_unit(queue=queue)
    if not len(queue):
        raise ValueError("the queue is empty")
    with Blaming(query=query, key=key, queue=queue):
        return info_nce(*map(unit, (query, key)), temperature, negatives=unit(queue), in_batch=False, mask=mask)


def unit(z: Tensor) -> Tensor:
    """Rows of norm 1, in float32 at least: in half precision norms are off by up to 1%, and many cosines are equal."""
    return F.normalize(widened(z))
