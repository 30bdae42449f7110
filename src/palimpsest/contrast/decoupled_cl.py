"""Decoupled contrastive learning (Yeh, Hong, Hsu, Liu, Chen and LeCun, 2021, arXiv 2110.06848).

In InfoNCE the positive stands in its own denominator. The whole gradient of a view is therefore multiplied by the
probability that the view does not yet pick its positive (the negative-positive coupling, NPC): it fades as soon as the
negatives are few or easy, as they are in small batches. Decoupled contrastive learning leaves the positive out:

    l_i = -z_i . z_i+ / tau + log sum_{z of other samples} e^{z_i . z / tau}        over 2 (batch - 1) views
    InfoNCE_i = log(1 + e^{l_i}),     grad InfoNCE_i = NPC_i grad l_i,     NPC_i = 1 - P_i(positive)

In the weighted form (DCLW) the positive term counts w_i = 2 - e^{p_i / sigma} / mean_j e^{p_j / sigma} times, with p_i
the cosine of the pair: pairs that are still far apart count more. Here w is a constant for the gradient. The paper
does not say so; of the public implementations some differentiate through it, others do not.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.info_nce import info_nce, nt_xent
from palimpsest.contrast.input_checks import Blaming, check_embeddings, check_pairs, check_positive, look, one_number
from palimpsest.contrast.precision import widened
from palimpsest.lazy import front_door
from palimpsest.renamed import renamed


@renamed(z1="query", z2="key", tau="temperature")
def dcl_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    temperature: float | Tensor = 0.1,
    *,
    reduction: str = "mean",
    normalize: bool = True,
) -> Float[Tensor, ""] | Float[Tensor, " views"]:
    """mean_i l_i over all views of both directions, with the positive left out of the sum. It may be negative.

    Args:
        query, key: two views, row by row a pair.
        temperature: tau, above 0.
        reduction: "mean", "sum", or "none" for the 2 batch values, the first view's first.
        normalize: bring rows to norm 1; otherwise dot products are taken as they are.

    Raises:
        ValueError, TypeError: shapes, dtypes, values that are not finite, a batch of fewer than two pairs (there are
            no negatives), a temperature that is not positive.

    >>> dcl_loss(torch.eye(3), torch.eye(3), 0.5).item()  # -2 + log 4
    -0.6137...
    """
    check_pairs(least=2, query=query, key=key, values=False)
    return nt_xent(query, key, temperature, decoupled=True, reduction=reduction, normalize=normalize)


@renamed(z1="query", z2="key", tau="temperature")
def dclw_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    temperature: float | Tensor = 0.1,
    sigma: float = 0.5,
) -> Float[Tensor, ""]:
    """mean_i (-w_i p_i / tau + log sum of the negatives), with `positive_weights` w; `dcl_loss` for large sigma.

    Args:
        query, key, temperature: as for `dcl_loss`.
        sigma: of the weights, above 0; the smaller, the less the closest pairs count.

    Raises:
        ValueError, TypeError: as `dcl_loss`, and for a sigma that is not positive.

    >>> a, b = torch.eye(3), torch.eye(3)  # all pairs are equally close: every weight is 1
    >>> torch.equal(dclw_loss(a, b), dcl_loss(a, b))
    True
    """
    temperature, loss = one_number(temperature, "temperature"), dcl_loss(query, key, temperature)
    return loss + ((1 - _positive_weights(query, key, sigma)) * _cosines(query, key) / temperature).mean()


@renamed(z1="query", z2="key")
def positive_weights(
    query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"], sigma: float = 0.5
) -> Float[Tensor, " batch"]:
    """w_i = 2 - e^{p_i / sigma} / mean_j e^{p_j / sigma}: at most 2, 1 on average, without a gradient.

    A pair far closer than the rest of its batch gets a negative weight: it is pushed apart.

    >>> positive_weights(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), sigma=1.0)
    tensor([0.5379, 1.4621])
    """
    check_pairs(least=2, query=query, key=key, values=False)
    weights = _positive_weights(query, key, sigma)
    look(weights, query=query, key=key)
    return weights


def _positive_weights(query: Tensor, key: Tensor, sigma: float) -> Float[Tensor, " batch"]:
    check_positive(sigma, "sigma")
    return 2 - len(query) * (_cosines(query, key).detach() / sigma).softmax(0)


@renamed(tau="temperature")
def dcl_queue_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    queue: Float[Tensor, "size d"],
    temperature: float | Tensor = 0.1,
    *,
    reduction: str = "mean",
    normalize: bool = True,
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """The form for MoCo: l_i = -q_i . k_i / tau + log sum over the queue alone. A batch of one is enough.

    Args:
        query, key: row by row a pair.
        queue: earlier keys, the negatives of every query; at least one.
        temperature, reduction, normalize: as for `dcl_loss`, with one value a query; the queue is normalised too.

    >>> dcl_queue_loss(torch.eye(2), torch.eye(2), -torch.eye(2), 1.0).item()  # -1 + log(e^-1 + 1)
    -0.6867...
    """
    check_pairs(query=query, key=key, values=False)
    check_embeddings(query=query, queue=queue, values=False)
    if not len(queue):
        raise ValueError("the queue is empty: decoupled contrastive learning needs negatives")
    with Blaming(query=query, key=key, queue=queue):
        return info_nce(
            query,
            key,
            temperature,
            negatives=queue,
            in_batch=False,
            decoupled=True,
            normalize=normalize,
            reduction=reduction,
        )


def _cosines(query: Tensor, key: Tensor) -> Float[Tensor, " batch"]:
    return F.cosine_similarity(widened(query), widened(key))


_MOVED = {"contrast.decoupled_cl_measures": ("npc_multiplier",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
