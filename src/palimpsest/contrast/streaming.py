"""Log-sum-exp over the rows and columns of a score matrix that is never held.

    S_ij = g_ij q_i . k_j + b_ij          row_i    = log( sum_j e^{S_ij} + sum_e e^{x_ie} )
                                          column_j = log( sum_i e^{S_ij} )

    and, against the score p_i of a positive that is not among them, row_i <- log(1 + e^{row_i - p_i}): the
    cross-entropy of picking the positive; columns likewise. So a small loss is not the difference of two large numbers.

Scores are made in strips of a few hundred rows, small enough for the processor's cache; a strip is overwritten by its
exponentials, by its slopes, and then by the next strip. It holds whole rows, so that rows alone need one visit: three
matrix products for value and gradient, as many as PyTorch's plain expression takes. With columns the strips are visited
twice, the second time for the gradient, which takes four.

Where the weight of every row in the loss is known beforehand (for a mean it is one over the batch), the gradient is
computed in the forward pass and the backward pass only scales it. What lives in between is as large as the inputs.
Where it is not (one loss a row), the backward pass visits the strips again.

Where |q| |k| is below `SAFE`, exponentials cannot overflow and need no maximum taken off: the row sums then scale
[rows, d] instead of the strip, and rows and columns share one exponential.

Second derivatives (`create_graph=True`) take the plain expression, with as many [queries, keys] arrays as it needs.

Under `torch.compile` the strips are plain expressions, made once more for the gradient: all of it is in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# A value for every pair: a tensor [queries, keys], or a function of a slice of rows and of these rows' q . k, which
# must give the same whenever it is called.
OfPairs = Tensor | Callable[[slice, Float[Tensor, "rows keys"]], Tensor]

STRIP = {"cpu": 2**22, "other": 2**26}  # elements of a strip
LEAST, MOST = 128, 512  # rows of a strip, on a processor
SAFE = 60.0  # e^60 times a million keys is far below the largest float32


@dataclass(frozen=True)
class Pairs:
    """What becomes of the pairs' scores; none of it gets a gradient.

    Attributes:
        left_out: columns that do not count in a row, nor the row in these columns.
        keep: which pairs count.
        bias: added to the scores.
        columns: how many keys, from the first, have a log-sum-exp of their own.
    """

    left_out: Int[Tensor, "queries out"] | None = None
    keep: OfPairs | None = None
    bias: OfPairs | None = None
    columns: int = 0


NOTHING = Pairs()


def logsumexp(
    query: Float[Tensor, "queries d"],
    keys: Float[Tensor, "keys d"],
    positive: Float[Tensor, " queries"] | None = None,
    column_positive: Float[Tensor, " columns"] | None = None,
    extra: Float[Tensor, "queries more"] | None = None,
    scale: OfPairs | None = None,
    *,
    pairs: Pairs = NOTHING,
    rows: int | None = None,
) -> tuple[Float[Tensor, " queries"], Float[Tensor, " columns"]]:
    """Rows and columns as above; -inf where nothing counts. The backward pass visits the scores again.

    Args:
        query, keys: float32 or float64.
        positive, column_positive: p above.
        extra: x above, scores beside those of the keys.
        scale: g above; gets a gradient where it is a tensor that asks for one.
        rows: of a strip; by default what keeps it in cache.

    >>> q, k = torch.randn(5, 3), torch.randn(7, 3)
    >>> torch.allclose(logsumexp(q, k, rows=2)[0], (q @ k.T).logsumexp(1), atol=1e-6)
    True
    """
    inputs = (query, keys, positive, column_positive, extra, scale)
    if torch.compiler.is_compiling():
        return _traceable(*inputs, pairs, strip_rows(query, keys, rows))
    return _Each.apply(*inputs, pairs, strip_rows(query, keys, rows))


def weighted_logsumexp(
    query: Float[Tensor, "queries d"],
    keys: Float[Tensor, "keys d"],
    positive: Float[Tensor, " queries"] | None = None,
    column_positive: Float[Tensor, " columns"] | None = None,
    extra: Float[Tensor, "queries more"] | None = None,
    scale: OfPairs | None = None,
    *,
    row_weights: Float[Tensor, " queries"],
    column_weights: Float[Tensor, " columns"] | None = None,
    pairs: Pairs = NOTHING,
    rows: int | None = None,
) -> Float[Tensor, ""]:
    """sum_i w_i row_i + sum_j v_j column_j with constant weights, the others as in `logsumexp`; what has weight 0 does
    not count. The gradient is computed here, and the backward pass scales it.

    >>> q, k, w = torch.randn(5, 3), torch.randn(7, 3), torch.full((5,), 0.2)
    >>> torch.allclose(weighted_logsumexp(q, k, row_weights=w), (q @ k.T).logsumexp(1).mean(), atol=1e-6)
    True
    """
    inputs = (query, keys, positive, column_positive, extra, scale)
    if torch.compiler.is_compiling():
        by_row, by_column = _traceable(*inputs, pairs, strip_rows(query, keys, rows))
        total = _weighted(by_row, row_weights)
        return total + _weighted(by_column, column_weights) if pairs.columns else total
    return _Total.apply(*inputs, row_weights, column_weights, pairs, strip_rows(query, keys, rows))


def reference_logsumexp(
    query: Tensor,
    keys: Tensor,
    positive: Tensor | None = None,
    column_positive: Tensor | None = None,
    extra: Tensor | None = None,
    scale: OfPairs | None = None,
    *,
    pairs: Pairs = NOTHING,
) -> tuple[Tensor, Tensor]:
    """`logsumexp` by the plain expression, which holds all scores; differentiable any number of times."""
    return _traceable(query, keys, positive, column_positive, extra, scale, pairs, max(1, len(query)))


def _traceable(
    query: Tensor,
    keys: Tensor,
    positive: Tensor | None,
    column_positive: Tensor | None,
    extra: Tensor | None,
    scale: OfPairs | None,
    pairs: Pairs,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """Plain expressions strip by strip."""

    def strip(part: slice) -> tuple[Tensor, Tensor]:
        scores = _finish(query[part] @ keys.T, part, scale, pairs)
        by_column = scores[:, : pairs.columns].logsumexp(0)
        return (scores if extra is None else torch.cat([scores, extra[part]], 1)).logsumexp(1), by_column

    by_row, by_column = zip(*of_strips(strip, len(query), rows), strict=True)
    by_column = by_column[0] if len(by_column) == 1 else torch.stack(by_column).logsumexp(0)
    return _against(torch.cat(by_row), positive), _against(by_column, column_positive)


def of_strips(strip: Callable[[slice], Any], length: int, rows: int) -> list[Any]:
    """What a function gives for each strip of rows; of several none is held for the gradient, but made once more.

    >>> of_strips(lambda part: torch.arange(5.0)[part].sum(), 5, rows=2)
    [tensor(1.), tensor(5.), tensor(4.)]
    """
    parts = [slice(start, min(start + rows, length)) for start in range(0, max(1, length), rows)]
    if len(parts) == 1:
        return [strip(parts[0])]
    return [checkpoint(strip, part, use_reentrant=False) for part in parts]


def _against(lse: Tensor, positive: Tensor | None) -> Tensor:
    return lse if positive is None else torch.logaddexp(lse - positive, torch.zeros_like(lse))


def _slope(lse: Tensor, positive: Tensor | None, weights: Tensor) -> Tensor:
    """The derivative of weights * _against(lse, positive) by lse."""
    return weights if positive is None else weights * torch.sigmoid(lse - positive)


def _finish(products: Tensor, part: slice, scale: OfPairs | None, pairs: Pairs) -> Tensor:
    """The scores of a strip of q . k, as a new tensor."""
    scores = products
    if scale is not None:
        scores = scores * of_pairs(scale, part, products)
    if pairs.bias is not None:
        scores = scores + of_pairs(pairs.bias, part, products)
    if pairs.keep is not None:
        scores = scores.masked_fill(~of_pairs(pairs.keep, part, products), -torch.inf)
    if pairs.left_out is not None:
        scores = scores.scatter(1, pairs.left_out[part], -torch.inf)
    return scores


def of_pairs(values: OfPairs, part: slice, products: Tensor) -> Tensor:
    """The values of a strip's pairs."""
    return values(part, products.detach()) if callable(values) else values[part]


def strip_rows(query: Tensor, keys: Tensor, rows: int | None) -> int:
    """Rows of a strip: as asked for, or what keeps it in cache."""
    if rows is not None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        return rows
    if query.device.type == "cpu":
        return min(MOST, max(LEAST, STRIP["cpu"] // max(1, len(keys))))
    return max(LEAST, STRIP["other"] // max(1, len(keys)))


class _Visit:
    """Goes through the scores strip by strip, and collects gradients."""

    def __init__(
        self,
        query: Tensor,
        keys: Tensor,
        positive: Tensor | None,
        column_positive: Tensor | None,
        extra: Tensor | None,
        scale: OfPairs | None,
        pairs: Pairs,
        rows: int,
    ) -> None:
        self.query, self.keys, self.extra, self.scale, self.pairs, self.rows = query, keys, extra, scale, pairs, rows
        self.positive, self.column_positive = positive, column_positive
        self.buffer = query.new_empty(min(rows, len(query)), len(keys))
        largest = [query.norm(dim=1).max() * keys.norm(dim=1).max()] if len(query) and len(keys) else []
        largest += [extra.abs().max()] if extra is not None and extra.numel() else []
        bare = scale is None and pairs.bias is None
        self.safe = bare and (not largest or torch.stack(largest).max().item() < SAFE)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.query), self.rows):
            part = slice(start, min(start + self.rows, len(self.query)))
            strip = torch.mm(self.query[part], self.keys.T, out=self.buffer[: part.stop - start])
            if self.scale is None and self.pairs.bias is None and self.pairs.keep is None:
                if self.pairs.left_out is not None:
                    strip.scatter_(1, self.pairs.left_out[part], -torch.inf)
                yield part, strip
            else:
                self.products = strip
                yield part, _finish(strip, part, self.scale, self.pairs)

    def second_buffer(self, strip: Tensor, width: int) -> Tensor:
        if not hasattr(self, "_second"):
            self._second = torch.empty_like(self.buffer)
        return self._second[: len(strip), :width]

    def prepare(self, needs: tuple[bool, ...]) -> None:
        """Makes room for the gradients of the inputs that need one, in the order of `logsumexp`."""
        inputs = (self.query, self.keys, self.positive, self.column_positive, self.extra, self.scale)
        room = [torch.zeros_like(value) if needed else None for value, needed in zip(inputs, needs, strict=True)]
        self.d_query, self.d_keys, self.d_positive, self.d_column_positive, self.d_extra, self.d_scale = room

    @property
    def collected(self) -> tuple[Tensor | None, ...]:
        return self.d_query, self.d_keys, self.d_positive, self.d_column_positive, self.d_extra, self.d_scale

    def add(self, part: slice, slopes: Tensor, factor: Tensor | None = None) -> None:
        """Takes in the slopes of a strip's scores, each row times its `factor`."""
        if self.scale is not None:
            if factor is not None:
                slopes, factor = slopes.mul_(factor[:, None]), None
            if self.d_scale is not None:
                torch.mul(slopes, self.products, out=self.d_scale[part])
            slopes.mul_(of_pairs(self.scale, part, self.products))
        if self.d_query is not None:
            torch.mm(slopes, self.keys, out=self.d_query[part])
            if factor is not None:
                self.d_query[part].mul_(factor[:, None])
        if self.d_keys is not None:
            rows = self.query[part] if factor is None else self.query[part] * factor[:, None]
            self.d_keys.addmm_(slopes.T, rows)

    def row_sums(self, part: slice, strip: Tensor) -> tuple[Tensor, Tensor]:
        """Overwrites the scores by exp(score - top); gives top (0 where that is safe) and the sums, extra included."""
        extra = None if self.extra is None else self.extra[part]
        if self.safe:
            top = strip.new_zeros(len(strip))
        else:
            top = strip.amax(1) if strip.shape[1] else strip.new_full((len(strip),), -torch.inf)
            if extra is not None and extra.shape[1]:
                top = torch.maximum(top, extra.amax(1))
            top = top.masked_fill(top == -torch.inf, 0)
            strip.sub_(top[:, None])
        sums = strip.exp_().sum(1)
        if extra is not None:
            sums += (extra - top[:, None]).exp().sum(1)
        return top, sums

    def rows_only(self, weights: Tensor | None) -> Tensor:
        """One visit: the rows' log-sum-exp, and with weights the gradient of the rows' weighted sum."""
        found = self.query.new_empty(len(self.query))
        for part, strip in self:
            top, sums = self.row_sums(part, strip)
            found[part] = top + sums.log()
            if weights is not None:
                positive = None if self.positive is None else self.positive[part]
                # Where nothing counts the sum is 0, and so are the slopes.
                self.add(part, strip, _slope(found[part], positive, weights[part]) / sums.where(sums > 0, 1))
        if weights is not None:
            self.add_beside(found, _slope(found, self.positive, weights))
        return found

    def add_beside(self, lse: Tensor, slopes: Tensor) -> None:
        """The gradients of what stands beside the scores, from the slopes of the rows' log-sum-exp."""
        if self.d_extra is not None:
            torch.exp(self.extra - _finite(lse)[:, None], out=self.d_extra).mul_(slopes[:, None])
        if self.d_positive is not None:
            torch.neg(slopes, out=self.d_positive)

    def both(self) -> tuple[Tensor, Tensor]:
        """One visit: the rows' and the columns' log-sum-exp."""
        columns = self.pairs.columns
        found = self.query.new_empty(len(self.query))
        # float64, because a column's sum is put together from many strips.
        sums = self.query.new_zeros(columns, dtype=torch.float64)
        tops = self.query.new_full((columns,), 0.0 if self.safe else -torch.inf)
        for part, strip in self:
            if not self.safe:
                above = torch.maximum(tops, strip[:, :columns].amax(0))
                shift = above.masked_fill(above == -torch.inf, 0)
                shifted = torch.sub(strip[:, :columns], shift, out=self.second_buffer(strip, columns)).exp_()
                sums.mul_((tops - shift).exp()).add_(shifted.sum(0))
                tops = above
            top, row_sums = self.row_sums(part, strip)
            found[part] = top + row_sums.log()
            if self.safe:
                sums += strip[:, :columns].sum(0)
        return found, (_finite(tops).double() + sums.log()).to(found.dtype)

    def gradients(self, lse: Tensor, by_column: Tensor, weights: Tensor, column_weights: Tensor | None) -> None:
        """A second visit, for the gradient of the weighted sum of rows and columns."""
        columns, finite = self.pairs.columns, _finite(lse)
        weights = _slope(lse, self.positive, weights)
        self.add_beside(lse, weights)
        if columns:
            column_weights = _slope(by_column, self.column_positive, column_weights)
            if self.d_column_positive is not None:
                torch.neg(column_weights, out=self.d_column_positive)
            by_column = _finite(by_column)
        # Where no top was taken off, e^S is the same for rows and columns: slope = e^S (w e^-row + v e^-column).
        if self.safe:
            factors = weights * (-finite).exp()
            if columns:
                column_factors = self.query.new_zeros(len(self.keys))
                column_factors[:columns] = column_weights * (-by_column).exp()
        for part, strip in self:
            if self.safe and columns:
                both = self.second_buffer(strip, len(self.keys))
                self.add(part, strip.exp_().mul_(torch.add(factors[part, None], column_factors, out=both)))
            elif self.safe:
                self.add(part, strip.exp_(), factors[part])
            else:
                if columns:
                    down = torch.sub(strip[:, :columns], by_column, out=self.second_buffer(strip, columns)).exp_()
                    down.mul_(column_weights)
                strip.sub_(finite[part, None]).exp_().mul_(weights[part, None])
                if columns:
                    strip[:, :columns] += down
                self.add(part, strip)


def _finite(lse: Tensor) -> Tensor:
    """With 0 for -inf: what does not count then gives e^-inf = 0, and not e^(-inf + inf)."""
    return lse.masked_fill(lse == -torch.inf, 0)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """sum of weights * values, without what has no weight: -inf times 0 is no number."""
    return (values.masked_fill(weights == 0, 0) * weights).sum()


INPUTS = 6  # of `logsumexp` that may need a gradient


class _Each(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, keys, positive, column_positive, extra, scale, pairs, rows):
        visit = _Visit(query, keys, positive, column_positive, extra, scale, pairs, rows)
        lse, by_column = visit.both() if pairs.columns else (visit.rows_only(None), query.new_empty(0))
        _save(ctx, (query, keys, positive, column_positive, extra), scale, lse, by_column)
        ctx.pairs, ctx.rows = pairs, rows
        return _against(lse, positive), _against(by_column, column_positive)

    @staticmethod
    def backward(ctx, row_grad, column_grad):
        inputs, lse, by_column = _saved(ctx)
        needs = ctx.needs_input_grad[:INPUTS]
        if torch.is_grad_enabled():
            outputs = reference_logsumexp(*inputs, pairs=ctx.pairs)
            return (*_plain_gradients(outputs, (row_grad, column_grad), inputs, needs), None, None)
        visit = _Visit(*inputs, ctx.pairs, ctx.rows)
        visit.prepare(needs)
        visit.gradients(lse, by_column, row_grad, column_grad)
        return (*visit.collected, None, None)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, keys, positive, column_positive, extra, scale, row_weights, column_weights, pairs, rows):
        visit = _Visit(query, keys, positive, column_positive, extra, scale, pairs, rows)
        needs = ctx.needs_input_grad[:INPUTS]
        differentiate = any(needs)
        if differentiate:
            visit.prepare(needs)
        if pairs.columns:
            lse, by_column = visit.both()
            total = _weighted(_against(by_column, column_positive), column_weights)
            if differentiate:
                visit.gradients(lse, by_column, row_weights, column_weights)
        else:
            lse, total = visit.rows_only(row_weights if differentiate else None), 0
        if differentiate:
            ctx.gradients = visit.collected
            _save(ctx, (query, keys, positive, column_positive, extra), scale)
            ctx.pairs, ctx.weights = pairs, (row_weights, column_weights)
        return total + _weighted(_against(lse, positive), row_weights)

    @staticmethod
    def backward(ctx, grad):
        constant = (None,) * 4
        if not torch.is_grad_enabled():
            return (*(None if value is None else value * grad for value in ctx.gradients), *constant)
        inputs, row_weights, column_weights = *_saved(ctx), *ctx.weights
        by_row, by_column = reference_logsumexp(*inputs, pairs=ctx.pairs)
        total = _weighted(by_row, row_weights)
        if ctx.pairs.columns:
            total = total + _weighted(by_column, column_weights)
        return (*_plain_gradients((total,), (grad,), inputs, ctx.needs_input_grad[:INPUTS]), *constant)


def _save(ctx, inputs: tuple, scale: OfPairs | None, *more: Tensor) -> None:
    """Keeps the inputs for the backward pass; a function among them is no tensor."""
    ctx.function = None if isinstance(scale, Tensor) else scale
    ctx.save_for_backward(*inputs, scale if ctx.function is None else None, *more)


def _saved(ctx) -> tuple:
    saved = ctx.saved_tensors  # once: a checkpoint hands each tensor over only once
    *inputs, scale = saved[:INPUTS]
    return ((*inputs, ctx.function if scale is None else scale), *saved[INPUTS:])


def _plain_gradients(outputs: tuple, grads: tuple, inputs: tuple, needs: tuple[bool, ...]) -> list[Tensor | None]:
    wanted = [value for value, needed in zip(inputs, needs, strict=True) if needed]
    outputs, grads = zip(*(pair for pair in zip(outputs, grads, strict=True) if pair[0].requires_grad), strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in needs]
