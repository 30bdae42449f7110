"""Momentum contrast with two anchors and the hardest negatives (Hoang, Ngo, Pham, Nguyen, Bao and Phan, 2025, arXiv
2501.16360).

MoCo picks a query's key among the keys of a queue, and counts them all. Two additions: of the queue only the nearest
negatives count, chosen anew for every anchor, and the loss is taken a second time with the key as the anchor:

    nce(a, p, N) = -a . p / tau + log( e^{a . p / tau} + sum_{n in N} e^{a . n / tau} )
    L = mean nce(q, k, N(q)) + lam mean nce(k, q, N(k)),      N(a): the share `keep` of the queue nearest to a

The key has no gradient; the second term moves the encoder through q as its positive, and weighs a pair by how hard the
key, not the query, is to tell from the queue. The momentum copy and the queue are `palimpsest.contrast.momentum`'s.

No code is published. The share that is kept, tau and the reading of the second term are ours; so is `drop_top`, which
spares the very nearest, where most keys of the anchor's own class are. keep=1, lam=0 is MoCo (He et al. 2019, arXiv
1911.05722).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from palimpsest.contrast.input_checks import Blaming, check_embeddings, check_pairs, check_positive
from palimpsest.contrast.moco import queue_nce, unit
from palimpsest.contrast.precision import without_autocast
from palimpsest.renamed import renamed


@renamed(anchor="query")
def hard_mask(
    query: Float[Tensor, "batch d"], queue: Float[Tensor, "queue d"], keep: float = 0.25, drop_top: float = 0.0
) -> Bool[Tensor, "batch queue"]:
    """Which keys of the queue are each anchor's negatives: by falling cosine, the first share `drop_top` is passed over
    and the next share `keep` is taken (what there is of it).

    Args:
        query, queue: embeddings of any norm but 0; cosines are in float32 at least.
        keep: share of the queue, above 0, up to 1; at least one key is kept.
        drop_top: share of the queue, from 0, below 1.

    Raises:
        ValueError, TypeError: shapes that do not fit, an empty queue, shares that are not such.

    >>> queue = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    >>> hard_mask(torch.tensor([[1.0, 0.0]]), queue, keep=0.5, drop_top=0.25)
    tensor([[False,  True,  True, False]])
    """
    check_embeddings(query=query, queue=queue)
    with torch.no_grad(), without_autocast(query):
        return hard_negatives(keep, drop_top)(slice(None), unit(query) @ unit(queue).T)


def hard_negatives(keep: float = 0.25, drop_top: float = 0.0) -> Callable[[slice, Tensor], Tensor]:
    """The same as a function of a slice of anchors and their products with the queue: the `mask` of `info_nce`, with
    which no array of the batch by the queue is held.

    >>> from palimpsest.contrast import info_nce
    >>> query, key, queue = (F.normalize(torch.randn(n, 4)) for n in (6, 6, 20))
    >>> loss = info_nce(query, key, 0.1, negatives=queue, in_batch=False, mask=hard_negatives(0.5))
    >>> torch.isclose(loss, queue_nce(query, key, queue, hard_mask(query, queue, 0.5)))
    tensor(True)
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, got {keep}")
    if not 0 <= drop_top < 1:
        raise ValueError(f"drop_top must be from 0 to below 1, got {drop_top}")

    def mask(part: slice, products: Tensor) -> Tensor:
        keys = products.shape[1]
        if not keys:
            raise ValueError("the queue is empty")
        first = min(round(drop_top * keys), keys - 1)
        last = min(first + max(1, round(keep * keys)), keys)
        chosen = products.topk(last, dim=1).indices[:, first:]
        return torch.zeros_like(products, dtype=torch.bool).scatter_(1, chosen, True)

    return mask


@renamed(tau="temperature")
def dual_view_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    queue: Float[Tensor, "queue d"],
    lam: float = 1.0,
    *,
    temperature: float = 0.1,
    keep: float = 0.25,
    drop_top: float = 0.0,
    swapped: tuple[Float[Tensor, "batch d"], Float[Tensor, "batch d"]] | None = None,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """L above: the query as anchor, plus lam times the key as anchor; each anchor has its own negatives.

    Args:
        query: one view by the trained encoder; only it gets a gradient.
        key: the other view by the momentum copy.
        queue: keys of earlier batches, of norm 1.
        lam: weight of the key's term, from 0.
        temperature: above 0.
        keep, drop_top: of the queue, as in `hard_mask`.
        swapped: query and key with the two views exchanged, for the symmetric form: the same of them is added.
        normalize: as for `queue_nce`.

    Raises:
        ValueError, TypeError: what does not fit, with its value.

    >>> query, key, queue = (F.normalize(torch.randn(n, 4)) for n in (6, 6, 20))
    >>> scores = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1)
    >>> moco = F.cross_entropy(scores / 0.1, torch.zeros(6, dtype=torch.long))
    >>> torch.isclose(dual_view_loss(query, key, queue, lam=0, keep=1), moco)
    tensor(True)
    """
    if not 0 <= lam < float("inf"):
        raise ValueError(f"lam must be finite and not negative, got {lam}")
    check_positive(temperature, "temperature")
    check_pairs(query=query, key=key, values=False)
    check_embeddings(query=query, queue=queue, values=False)
    hardest = None if keep == 1 and drop_top == 0 else hard_negatives(keep, drop_top)
    key, queue = key.detach(), queue.detach()
    with Blaming(query=query, key=key, queue=queue):
        loss = queue_nce(query, key, queue, hardest, temperature, normalize=normalize)
        if lam:
            loss = loss + lam * queue_nce(key, query, queue, hardest, temperature, normalize=normalize)
    if swapped is not None:
        options = {"temperature": temperature, "keep": keep, "drop_top": drop_top, "normalize": normalize}
        loss = loss + dual_view_loss(*swapped, queue, lam, **options)
    return loss
