"""The pairwise sigmoid loss, without an array of the batch by the batch.

    L = 1/B sum_ij softplus( -z_ij x_ij ),     x_ij = exp(log_scale) q_i . k_j + bias,     z_ii = 1, else z_ij = -1

Zhai et al. (2023, arXiv 2303.15343). Every pair counts for itself, so that strips need one visit: three matrix products
for value and gradient, and the gradient is computed in the forward pass.
`reference_sigmoid_nce` is the plain expression.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.input_checks import check_embeddings, check_finite, check_of_pairs, look, one_number
from palimpsest.contrast.precision import widened
from palimpsest.contrast.streaming import OfPairs, of_pairs, of_strips, strip_rows


def sigmoid_nce(
    query: Float[Tensor, "queries d"],
    key: Float[Tensor, "keys d"],
    log_scale: float | Float[Tensor, ""],
    bias: float | Float[Tensor, ""] = 0.0,
    *,
    positives: bool = True,
    mask: OfPairs | None = None,
    normalize: bool = False,
    rows: int | None = None,
) -> Float[Tensor, ""]:
    """The sigmoid loss of a batch of pairs, divided by the number of queries.

    Args:
        query, key: row i of one belongs to row i of the other; float32, float64, bfloat16 or float16, sums in float32
            (float64 for float64).
        log_scale: the logarithm of 1 / temperature.
        bias: added to every score. Both may be tensors with one element, which get a gradient.
        positives: False counts all pairs as negatives: keys that come from elsewhere (there may be any number of them).
        mask: which pairs count (True): [queries, keys], or a function of a slice of rows and their q . k times
            exp(log_scale), which must give the same whenever it is called.
        normalize: bring embeddings to norm 1.
        rows: of a strip of scores; by default what stays in cache.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit, values that are not finite.

    >>> q, k = F.normalize(torch.randn(5, 3)), F.normalize(torch.randn(5, 3))
    >>> torch.allclose(sigmoid_nce(q, k, 2.3, -10.0), reference_sigmoid_nce(q, k, 2.3, -10.0))
    True
    """
    check_of_pairs(mask, "mask", len(query), len(key), mask=True)
    wide, others, log_scale, scale, bias = _prepared(query, key, log_scale, bias, positives, normalize)
    rows = strip_rows(query, key, rows)
    if torch.compiler.is_compiling():
        loss = _plain(wide * scale, others, bias, positives, mask, rows)
    else:
        loss = _Sigmoid.apply(wide * scale, others, bias, positives, mask, rows)
    if not look(loss, scale, query=query, key=key, log_scale=log_scale, bias=bias):
        check_finite(scale, f"the scale e^{log_scale.item():g}")
    return loss


def reference_sigmoid_nce(
    query: Tensor,
    key: Tensor,
    log_scale: float | Tensor,
    bias: float | Tensor = 0.0,
    *,
    positives: bool = True,
    mask: OfPairs | None = None,
    normalize: bool = False,
) -> Tensor:
    """`sigmoid_nce` by the plain expression, which holds all scores; differentiable any number of times."""
    query, key, _, scale, bias = _prepared(query, key, log_scale, bias, positives, normalize)
    return _plain(query * scale, key, bias, positives, mask, len(query))


def _plain(query: Tensor, key: Tensor, bias: Tensor, positives: bool, mask: OfPairs | None, rows: int) -> Tensor:
    row = torch.arange(len(key), device=query.device)

    def strip(part: slice) -> Tensor:
        products = query[part] @ key.T
        scores = products + bias
        if positives:
            scores = scores.where(row[part, None] != row, -scores)
        values = F.softplus(scores)
        if mask is not None:
            values = values.masked_fill(~of_pairs(mask, part, products), 0)
        return values.sum()

    return sum(of_strips(strip, len(query), rows)) / len(query)


def _prepared(query, key, log_scale, bias, positives, normalize) -> tuple[Tensor, ...]:
    """Queries and keys in the wide dtype; the scale's logarithm, the scale and the bias as tensors of one element."""
    check_embeddings(query=query, key=key, values=False)
    if not len(query) or not len(key):
        raise ValueError(f"query and key must have rows, got {len(query)} and {len(key)}")
    if positives and len(query) != len(key):
        raise ValueError(f"query and key must have equally many rows, got {len(query)} and {len(key)}")
    query, key = widened(query), widened(key)
    if normalize:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    log_scale, bias = (
        one_number(torch.as_tensor(value, dtype=query.dtype, device=query.device), name)
        for name, value in (("log_scale", log_scale), ("bias", bias))
    )
    return query, key, log_scale, log_scale.exp(), bias


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, bias, positives, mask, rows):
        needs = ctx.needs_input_grad[:3]
        d_query = torch.empty_like(query) if needs[0] else None
        d_key = torch.zeros_like(key) if needs[1] else None
        d_bias = query.new_zeros((), dtype=torch.float64)
        total = query.new_zeros((), dtype=torch.float64)
        scores = query.new_empty(min(rows, len(query)), len(key))
        values = torch.empty_like(scores)
        for start in range(0, len(query), rows):
            part = slice(start, min(start + rows, len(query)))
            strip = torch.mm(query[part], key.T, out=scores[: part.stop - start])
            dropped = None if mask is None else ~of_pairs(mask, part, strip)
            strip += bias
            diagonal = strip[:, part].diagonal() if positives else None
            if positives:
                diagonal.neg_()
            if dropped is not None:
                strip.masked_fill_(dropped, -torch.inf)
            total += torch.ops.aten.softplus.out(strip, out=values[: len(strip)]).sum()
            strip.sigmoid_()  # the derivative by the score with its sign
            if positives:
                diagonal.neg_()
            d_bias += strip.sum()
            if needs[0]:
                torch.mm(strip, key, out=d_query[part])
            if needs[1]:
                d_key.addmm_(strip.T, query[part])
        ctx.save_for_backward(query, key, bias, d_query, d_key, d_bias)
        ctx.positives, ctx.mask = positives, mask
        return (total / len(query)).to(query.dtype)

    @staticmethod
    def backward(ctx, grad):
        query, key, bias, d_query, d_key, d_bias = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a second derivative is asked for
            wanted = [value for value, needed in zip((query, key, bias), needs, strict=True) if needed]
            loss = _plain(query, key, bias, ctx.positives, ctx.mask, len(query))
            found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=True))
            return (*(next(found) if needed else None for needed in needs), None, None, None)
        each = grad / len(query)
        d_bias = (d_bias * each).to(bias) if needs[2] else None
        return (
            None if d_query is None else d_query * each,
            None if d_key is None else d_key * each,
            d_bias,
            *(None,) * 3,
        )
