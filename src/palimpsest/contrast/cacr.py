"""Contrastive attraction and contrastive repulsion (Zheng, Chen, Yao, Yang, Li, Zhang, Zhang, Tsang, Zhou and Zhou,
2021, arXiv 2105.03746).

InfoNCE lets positives and negatives compete in one softmax. CACR asks two questions apart: of a query's positives,
which is still far, and of its negatives, which is too near? Each group gets a softmax of its own, and both terms are
costs c(x, y) = |x - y|^2 = 2 - 2 x . y between features of norm 1:

    CA_i = sum_k w+_ik c(q_i, p_ik),     w+_i = softmax_k( t+ c(q_i, p_ik) )      the farther positive is pulled harder
    CR_i = -sum_n w-_in c(q_i, n_n),     w-_i = softmax_n( -t- c(q_i, n_n) )      the nearer negative is pushed harder
    L = mean_i (CA_i + CR_i)

Weights without gradient make CR a streamed log-sum-exp: its gradient is that of (1/t-) log sum_n e^{-t- c(q_i, n_n)}.
With one positive, the whole loss then moves an encoder as decoupled InfoNCE at temperature 1 / (2 t-) does, divided by
t-. With gradient, a cost's slope is w+_k (1 + t+ (c_k - c)) and -w-_n (1 - t- (c_n - c)), c the weighted mean cost: a
negative that is farther than 1 / t- above the mean is attracted.

The authors' code (JegZheng/CACR-SSL) does both: weights carry gradient in the experiments on small images, not in those
with a momentum encoder (there only the share of negatives that comes from the batch keeps it). t+ is 1 everywhere; t-
is 0.9 for CIFAR-10 and 2 for CIFAR-100, STL-10 and ImageNet. Its small experiments take a softmax over negatives for
each pair of views; here, as in the formula, a query has one softmax over all views of the other images. With a
momentum encoder their default cost is not |x - y|^2 but that of an RBF kernel: InfoNCE at temperature T for every view,
times 2 T w+, with the positive in its softmax. That does not hold attraction and repulsion apart, and is not offered.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.input_checks import check_embeddings, look
from palimpsest.contrast.precision import widened, without_autocast
from palimpsest.contrast.streaming import Pairs, of_strips, strip_rows, weighted_logsumexp
from palimpsest.lazy import front_door


def cacr_loss(
    query: Float[Tensor, "queries d"],
    positives: Float[Tensor, "queries k d"],
    negatives: Float[Tensor, "negatives d"],
    t_pos: float = 1.0,
    t_neg: float = 2.0,
    *,
    left_out: Int[Tensor, "queries out"] | None = None,
    detach: bool = True,
) -> Float[Tensor, ""]:
    """mean_i (CA_i + CR_i), above.

    No array of the queries by the negatives is held.

    Args:
        query, positives, negatives: features, brought to norm 1 here; negatives are common to all queries, a queue or
            the batch.
        t_pos, t_neg: sharpness of the weights, from 0, where they are uniform.
        left_out: columns of `negatives` that are none of a query's: those of its own image.
        detach: weights carry no gradient.

    Raises:
        ValueError, TypeError: shapes and dtypes that do not fit, values that are not finite, a negative sharpness, a
            column that is not there, no negative left.

    >>> query, near, far = torch.eye(2)[:1], torch.eye(2)[:1], torch.eye(2)[1:]
    >>> cacr_loss(query, near[None], far)  # a cost of 0 to the positive, of 2 to the negative
    tensor(-2.)
    """
    with without_autocast(query):
        q, p, n = features(query, positives, negatives, t_pos, t_neg, left_out)
        cost = positive_costs(q, p)
        attraction = (group_weights(cost, t_pos, detach) * cost).sum(1).mean()
        if detach and t_neg > 0 and not torch.compiler.is_compiling():
            loss = attraction + _streamed_repulsion(q, n, t_neg, left_out)
        else:
            loss = attraction + _repulsion(q, n, t_neg, detach, left_out)
    look(loss, query=query, positives=positives.flatten(0, 1), negatives=negatives)
    return loss


def _streamed_repulsion(query: Tensor, negatives: Tensor, t_neg: float, left_out: Tensor | None) -> Tensor:
    """mean CR with constant weights: the value from sum_n w-_in n_n, which is the log-sum-exp's own gradient."""
    needed = torch.is_grad_enabled() and (query.requires_grad or negatives.requires_grad)
    with torch.inference_mode(False), torch.enable_grad():
        negatives = negatives.clone() if negatives.is_inference() else negatives  # others cannot be differentiated
        sharp = 2 * t_neg * query
        sharp = sharp if sharp.requires_grad else sharp.requires_grad_()
        rows = query.new_full((len(query),), 1 / len(query))
        lse = weighted_logsumexp(sharp, negatives, row_weights=rows, pairs=Pairs(left_out=left_out))
        (centre,) = torch.autograd.grad(lse, sharp, retain_graph=needed)
    value = 2 * (query.detach() * centre).sum() - 2
    return value + (lse - lse.detach()) / t_neg if needed else value


def _repulsion(query: Tensor, negatives: Tensor, t_neg: float, detach: bool, left_out: Tensor | None) -> Tensor:
    """mean CR by its formula, strip by strip."""

    def strip(part: slice) -> Tensor:
        cost = 2 - 2 * query[part] @ negatives.T
        return (group_weights(cost, -t_neg, detach, None if left_out is None else left_out[part]) * cost).sum()

    return -sum(of_strips(strip, len(query), strip_rows(query, negatives, None))) / len(query)


def group_weights(cost: Tensor, t: float, detach: bool, left_out: Tensor | None = None) -> Tensor:
    scores = t * (cost.detach() if detach else cost)
    return (scores if left_out is None else scores.scatter(1, left_out, -torch.inf)).softmax(1)


def positive_costs(query: Tensor, positives: Tensor) -> Tensor:
    return 2 - 2 * torch.einsum("qd,qkd->qk", query, positives)


def features(
    query: Tensor, positives: Tensor, negatives: Tensor, t_pos: float, t_neg: float, left_out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    for name, t in (("t_pos", t_pos), ("t_neg", t_neg)):
        if isinstance(t, Tensor):  # it would get a gradient that is not the loss's
            raise TypeError(f"{name} must be a number, got a tensor")
        if not 0 <= t < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {t}")
    check_embeddings(query=query, negatives=negatives, values=False)
    if positives.ndim != 3 or len(positives) != len(query) or not positives.shape[1]:
        raise ValueError(f"positives must be [{len(query)}, k, {query.shape[1]}], got {list(positives.shape)}")
    check_embeddings(query=query, positives=positives.flatten(0, 1), negatives=negatives, values=False)
    if not len(query):
        raise ValueError("query is empty")
    out = 0
    if left_out is not None:
        if left_out.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"left_out must name columns by whole numbers, got {left_out.dtype}")
        if left_out.ndim != 2 or len(left_out) != len(query):
            raise ValueError(f"left_out must be [{len(query)}, out], got {list(left_out.shape)}")
        out = left_out.shape[1]
        outside = (left_out < 0) | (left_out >= len(negatives))
        if not torch.compiler.is_compiling() and outside.any():
            raise ValueError(f"left_out names column {int(left_out[outside][0])}, of {len(negatives)} negatives")
    if len(negatives) <= out:
        raise ValueError(f"no negatives are left: there are {len(negatives)}, and {out} are left out")
    return tuple(F.normalize(widened(e), dim=-1) for e in (query, positives, negatives))


_MOVED = {
    "contrast.cacr_measures": ("cacr_weights", "weights_report"),
    "contrast.cacr_views": ("multi_view_cacr", "queue_cacr"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
