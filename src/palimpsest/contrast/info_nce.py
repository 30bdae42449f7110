"""InfoNCE and its relatives, without an array of the batch by the batch.

    l_i = -log( e^{s_ii} / sum_j e^{s_ij} ),        s_ij = q_i . k_j / temperature                    (one direction)

Oord et al. (2018, arXiv 1807.03748); as NT-Xent in SimCLR (Chen et al. 2020, arXiv 2002.05709), with a queue in MoCo
(He et al. 2019, arXiv 1911.05722), in both directions in CLIP (Radford et al. 2021, arXiv 2103.00020), with several
positives a query in SupCon (Khosla et al. 2020, arXiv 2004.11362). Scores are streamed, see
`palimpsest.contrast.streaming`; `reference_info_nce` is the plain expression of the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast import streaming
from palimpsest.contrast.checks import (
    Blaming,
    check_embeddings,
    check_finite,
    check_labels,
    check_of_pairs,
    check_pairs,
    check_positive,
    look,
)
from palimpsest.contrast.distributed import gather_rows, position
from palimpsest.contrast.precision import wide_dtype, without_autocast
from palimpsest.contrast.streaming import OfPairs, Pairs

# Up to how many scores the plain expression is faster, in one direction and in both: see benchmarks/contrast.py.
SMALL = {False: 448**2, True: 320**2}
DIGITS = 1e-3  # below it the cross-entropy in float32 has fewer than four right digits

Labels = Int[Tensor, " queries"] | tuple[Int[Tensor, " queries"], Int[Tensor, " keys"]]


def info_nce(
    query: Float[Tensor, "queries d"],
    key: Float[Tensor, "keys d"],
    temperature: float | Tensor | Callable = 0.07,
    *,
    symmetric: bool = False,
    targets: Int[Tensor, " queries"] | None = None,
    labels: Labels | None = None,
    negatives: Float[Tensor, "queue d"] | Float[Tensor, "queries hard d"] | None = None,
    in_batch: bool = True,
    exclude_self: bool = False,
    mask: OfPairs | None = None,
    pair_weights: OfPairs | None = None,
    margin: float = 0.0,
    decoupled: bool = False,
    sample_weights: Float[Tensor, " queries"] | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    group: Any = None,
    rows: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, " queries"]:
    """The contrastive cross-entropy of picking each query's positive among the keys.

        l_i = -p_i + log( e^{p_i} + sum_{j in N(i)} w_ij e^{s_ij} ),      s_ij = q_i . k_j / temperature
        p_i = s_{i, target(i)} - margin / temperature

    N(i) are all other keys, the queue and the query's own hard negatives. With labels every key of the query's label is
    a positive, and l_i = -mean_p s_ip + log sum_j w_ij e^{s_ij} over all keys, the positives among them ("out" in
    SupCon). Symmetric is the mean of this and of the same with queries and keys exchanged.

    Memory grows as queries + keys, not as their product (a table of up to 448 x 448 scores, in both directions 320 x
    320, is held, where that is faster). The gradient is computed in the forward pass, unless
    `reduction="none"`; second derivatives (`create_graph=True`) take the plain expression, with all its memory.

    Args:
        query, key: float32, float64, bfloat16 or float16; sums are in float32 (float64 for float64).
        temperature: above 0; a number, a tensor with one element, one a query, or one for every pair ([queries, keys],
            or a function of a slice of rows and their q . k, which gets no gradient). Tensors get a gradient.
        symmetric: both directions; queue and hard negatives count for the queries only.
        targets: which key is each query's positive; by default that of its own row (further keys are negatives). With a
            group they are among the process's own keys.
        labels: of queries and keys (one tensor where both are the same): equal ones are positives. Queries whose label
            no key has are left out of the mean, with a warning that counts them; theirs is 0 with `reduction="none"`.
        negatives: more keys: a queue for all [queue, d], or hard ones of each query [queries, hard, d].
        in_batch: whether the other queries' keys count; without them `negatives` are needed (as in MoCo).
        exclude_self: key holds the queries themselves, row by row, and no query is compared with itself.
        mask: which pairs of query and key count (True) as negatives, or, with labels, at all in the sum; [queries, keys
            then queue] or a function of a slice of rows and their q . k. Targets always count.
        pair_weights: w above, not negative, in the shape of `mask`; no gradient. Targets have weight 1.
        margin: taken off the positive's cosine: the positive must win by that much.
        decoupled: leave the positive out of the sum (as decoupled contrastive learning does).
        sample_weights: times each query's loss, before the mean over queries; no gradient.
        normalize: bring all embeddings to norm 1; otherwise dot products are taken as they are.
        reduction: "mean", "sum", or "none" for a value a query, which costs a visit more in the backward pass.
        group: a group of processes (`torch.distributed.group.WORLD` for all) whose batches, of equal size, are taken
            together: each process gets the loss of its own queries against the keys of all. With `reduction="mean"` the
            mean over processes is the loss of the joint batch, and so are gradients that are averaged over processes,
            as DDP does (with labels, where all processes have equally many queries with a positive). There are no
            second derivatives.
        rows: of a strip of scores; by default what stays in cache.

    Raises:
        ValueError, TypeError: what does not fit, with its value: shapes, dtypes, a temperature of 0, values that are
            not finite, a target that is no key, no negative at all (a batch of one; if decoupled, also for one query
            alone), no query with a positive.

    >>> q, k = F.normalize(torch.randn(6, 4)), F.normalize(torch.randn(6, 4))
    >>> loss = info_nce(q, k, 0.1)
    >>> torch.allclose(loss, F.cross_entropy(q @ k.T / 0.1, torch.arange(6)), atol=1e-6)
    True
    """
    given = dict(locals())
    group, rows = given.pop("group"), given.pop("rows")
    loss = None
    with without_autocast(query):
        if group is None and rows is None:
            loss = _small(**given)
        if loss is None:
            loss = _streamed(rows)(_problem(**given)) if group is None else _across(_streamed(rows), given, group)
    beside = {"negatives": negatives, "sample_weights": sample_weights}
    looked = look(loss, query=query, key=key, **{name: each for name, each in beside.items() if each is not None})
    if not looked and isinstance(pair_weights, Tensor):
        check_finite(pair_weights, "pair_weights")
        if bool((pair_weights < 0).any()):
            raise ValueError(f"pair_weights must not be negative, got {pair_weights.min().item()}")
    if decoupled and not torch.compiler.is_compiling():
        _check_negatives(loss)
    return loss


def reference_info_nce(query: Tensor, key: Tensor, temperature: Any = 0.07, **options: Any) -> Tensor:
    """`info_nce` by the plain expression, which holds all scores; for tests, and any number of derivatives."""
    with without_autocast(query):
        return _plain(_problem(**{**_DEFAULTS, "query": query, "key": key, "temperature": temperature, **options}))


def nt_xent(
    z1: Float[Tensor, "batch d"], z2: Float[Tensor, "batch d"], temperature: float | Tensor = 0.5, **options: Any
) -> Float[Tensor, ""]:
    """SimCLR's loss of two views: every view picks its partner among all 2 batch - 1 other views, by cosine.

    Options are those of `info_nce`; with a `group` the other views are those of all processes. With
    `reduction="none"` there are 2 batch values, the first view's first.

    >>> nt_xent(torch.eye(3), torch.eye(3), 0.5).item()  # -2 + log(e^2 + 4)
    0.4326...
    """
    check_pairs(z1=z1, z2=z2, values=False)
    z = torch.cat([z1, z2])
    partner = torch.arange(len(z), device=z.device).roll(len(z1))
    with Blaming(z1=z1, z2=z2):
        return info_nce(z, z, temperature, targets=partner, exclude_self=True, normalize=True, **options)


_DEFAULTS: dict[str, Any] = {
    name: default for name, default in (info_nce.__kwdefaults__ or {}).items() if name not in ("group", "rows")
}


def _small(
    query: Tensor,
    key: Tensor,
    temperature: Any,
    symmetric: bool,
    targets: Tensor | None,
    exclude_self: bool,
    margin: float,
    normalize: bool,
    reduction: str,
    **others: Any,
) -> Tensor | None:
    """The loss of a small batch by PyTorch's own cross-entropy, which is faster there; None where that does not fit:
    with other options, and where the loss is so small that cross-entropy rounds it away.
    """
    if (
        not isinstance(query, Tensor)
        or not isinstance(key, Tensor)
        or len(query) * len(key) > SMALL[symmetric]
        or reduction == "none"
        or margin
        or (exclude_self and targets is None)
        or callable(temperature)
        or (isinstance(temperature, Tensor) and temperature.numel() != 1)
        or any(value is not _DEFAULTS[name] for name, value in others.items())
    ):
        return None
    check_embeddings(query=query, key=key, values=False)
    targets = _check_options(query, key, None, None, symmetric, targets, None, True, exclude_self, reduction, 0)
    wide = wide_dtype(query)
    query, key = (F.normalize(e.to(wide), dim=-1) if normalize else e.to(wide) for e in (query, key))
    scores = query * _inverse(temperature, query) @ key.T
    rows = torch.arange(len(query), device=query.device)
    targets = rows if targets is None else targets
    if exclude_self:  # but a target counts, whichever it is
        scores = scores.diagonal_scatter(scores.diagonal().masked_fill(targets != rows, -torch.inf))
    loss = F.cross_entropy(scores, targets, reduction=reduction)
    if symmetric:
        loss = (loss + F.cross_entropy(scores.T, targets, reduction=reduction)) / 2
    if not torch.compiler.is_compiling() and loss < (DIGITS if reduction == "mean" else DIGITS * len(query)):
        return None
    return loss


@dataclass
class _Problem:
    """What is left of the arguments when everything but the scores is dealt with."""

    inputs: tuple  # of streaming.logsumexp
    pairs: Pairs
    linear: Tensor | None  # positives that are only taken off, one a query
    column_linear: Tensor | None
    row_weights: Tensor
    column_weights: Tensor | None
    reduction: str


def _streamed(rows: int | None) -> Callable[[_Problem], Tensor]:
    def loss(problem: _Problem) -> Tensor:
        if problem.reduction == "none":
            return _per_sample(problem, *streaming.logsumexp(*problem.inputs, pairs=problem.pairs, rows=rows))
        total = streaming.weighted_logsumexp(
            *problem.inputs,
            row_weights=problem.row_weights,
            column_weights=problem.column_weights,
            pairs=problem.pairs,
            rows=rows,
        )
        for linear, weights in (
            (problem.linear, problem.row_weights),
            (problem.column_linear, problem.column_weights),
        ):
            if linear is not None:
                total = total - (linear * weights).sum()
        return total

    return loss


def _plain(problem: _Problem) -> Tensor:
    found = _per_sample(problem, *streaming.reference_logsumexp(*problem.inputs, pairs=problem.pairs))
    return found if problem.reduction == "none" else found.sum()


def _per_sample(problem: _Problem, by_row: Tensor, by_column: Tensor) -> Tensor:
    def side(lse: Tensor, linear: Tensor | None, weights: Tensor) -> Tensor:
        values = lse if linear is None else lse - linear
        return values.masked_fill(weights == 0, 0) * weights

    found = side(by_row, problem.linear, problem.row_weights)
    if problem.column_weights is not None:
        found = found + side(by_column, problem.column_linear, problem.column_weights)
    return found


def _across(loss: Callable[[_Problem], Tensor], given: dict[str, Any], group: Any) -> Tensor:
    """The loss of this process's queries against the keys of all, and, if symmetric, the other way round."""
    query, key, labels = given["query"], given["key"], given["labels"]
    one_temperature = not isinstance(given["temperature"], Tensor) or given["temperature"].numel() == 1
    if given["symmetric"] and (
        any(given[name] is not None for name in ("mask", "pair_weights"))
        or callable(given["temperature"])
        or not one_temperature
    ):
        raise ValueError(
            "where processes are taken together, mask, pair_weights and temperatures of queries or pairs are of one"
            " direction only: leave symmetric out"
        )
    start = position(len(key), group)
    here = {**given, "symmetric": False, "start": start}
    if given["targets"] is not None:
        here["targets"] = start + check_labels(given["targets"], len(query), name="targets")
    of_query, of_key = labels if isinstance(labels, tuple) else (labels, labels)

    def one_way(own: Tensor, others: Tensor, own_labels: Tensor | None, other_labels: Tensor | None) -> Tensor:
        gathered = None if labels is None else (own_labels, gather_rows(other_labels, group))
        return loss(_problem(**{**here, "query": own, "key": gather_rows(others, group), "labels": gathered}))

    forth = one_way(query, key, of_query, of_key)
    if not given["symmetric"]:
        return forth
    here["negatives"] = None
    return (forth + one_way(key, query, of_key, of_query)) / 2


def _problem(
    query: Tensor,
    key: Tensor,
    temperature: Any,
    symmetric: bool,
    targets: Tensor | None,
    labels: Labels | None,
    negatives: Tensor | None,
    in_batch: bool,
    exclude_self: bool,
    mask: OfPairs | None,
    pair_weights: OfPairs | None,
    margin: float,
    decoupled: bool,
    sample_weights: Tensor | None,
    normalize: bool,
    reduction: str,
    start: int = 0,
) -> _Problem:
    check_embeddings(query=query, key=key, values=False)
    if negatives is not None and not isinstance(negatives, Tensor):
        raise TypeError(f"negatives must be a tensor, got {type(negatives).__name__}")
    n = len(query)
    queue = negatives if negatives is not None and negatives.ndim == 2 else None
    hard = negatives if negatives is not None and negatives.ndim != 2 else None
    targets = _check_options(
        query, key, queue, hard, symmetric, targets, labels, in_batch, exclude_self, reduction, start
    )
    if labels is not None:
        both = labels if isinstance(labels, tuple) else (labels, labels)
        of_query, of_key = (
            check_labels(of, rows, name=f"labels of the {name}")
            for of, rows, name in zip(both, (n, len(key)), ("queries", "keys"), strict=True)
        )
    wide = wide_dtype(query)
    query, key, queue, hard = (
        None if e is None else (F.normalize(e.to(wide), dim=-1) if normalize else e.to(wide))
        for e in (query, key, queue, hard)
    )

    scale, inverse = None, None
    if callable(temperature):
        scale = _reciprocal(temperature)
    elif isinstance(temperature, Tensor) and temperature.ndim == 2 and temperature.shape[1] != 1:
        scale = _checked_inverse(temperature.to(wide))
    else:
        inverse = _inverse(temperature, query)
        query = query * inverse
    if scale is not None and (hard is not None or labels is not None or not in_batch):
        raise ValueError("a temperature a pair goes with the keys' own rows only: leave labels and negatives out")

    if not math.isfinite(margin):
        raise ValueError(f"margin must be finite, got {margin}")
    if labels is not None and margin and isinstance(temperature, Tensor):
        raise ValueError("a margin beside labels needs a number as temperature")

    bank = key if queue is None else torch.cat([key, queue]) if in_batch else queue
    bank = bank if in_batch or queue is not None else key[:0]
    check_of_pairs(mask, "mask", n, len(bank), mask=True)
    check_of_pairs(pair_weights, "pair_weights", n, len(bank))
    check_of_pairs(scale, "temperature", n, len(bank))
    bias = None if pair_weights is None else _log(pair_weights)
    keep, left_out, extra = mask, [], []
    own = torch.arange(start, start + n, device=query.device)
    if exclude_self and in_batch:
        left_out.append(own)
    if hard is not None:
        extra.append(torch.einsum("nd,nhd->nh", query, hard))

    valid = query.new_ones(n)
    column_valid = query.new_ones(len(key)) if symmetric else None
    if labels is None:
        targets = own if targets is None else targets
        positive = (query * key[targets]).sum(1)
        if scale is not None:
            positive = positive * _of_targets(scale, query, key, targets)
        if margin:
            taken = margin if inverse is None else margin * inverse.reshape(-1)
            positive = positive - (taken if scale is None else margin * _of_targets(scale, query, key, targets))
        if in_batch:
            left_out.append(targets)
        column_positive = positive if symmetric else None
        linear, column_linear = (positive, column_positive) if decoupled else (None, None)
        if decoupled:
            positive = column_positive = None
    else:
        same = _same_label(of_query, of_key)
        if decoupled:
            keep = _and(keep, lambda part, products: ~same(part, products), len(key))
        if margin:
            bias = _plus(bias, _margin(same, margin, inverse, len(key)))
        positive = column_positive = None
        linear, count = _mean_score(query, key, of_query, of_key, own if exclude_self else None)
        linear = linear - (margin * inverse if margin else 0)
        valid = (count > 0).to(wide)
        column_linear = None
        if symmetric:
            column_linear, count = _mean_score(key, query, of_key, of_query, own if exclude_self else None)
            column_linear = column_linear - (margin * inverse if margin else 0)
            column_valid = (count > 0).to(wide)
        _check_positives(valid, of_query)

    pairs = Pairs(
        left_out=torch.stack(left_out, 1) if left_out and len(bank) else None,
        keep=_unscaled(keep, inverse),
        bias=_unscaled(bias, inverse),
        columns=len(key) if symmetric else 0,
    )
    if sample_weights is not None:
        if not isinstance(sample_weights, Tensor):
            raise TypeError(f"sample_weights must be a tensor, got {type(sample_weights).__name__}")
        if sample_weights.shape != (n,):
            raise ValueError(f"sample_weights must be [{n}], got {list(sample_weights.shape)}")
    row_weights, column_weights = (
        None if counted is None else _weights(counted, sample_weights, reduction) / (2 if symmetric else 1)
        for counted in (valid, column_valid)
    )
    inputs = (query, bank, positive, column_positive, torch.cat(extra, 1) if extra else None, scale)
    return _Problem(inputs, pairs, linear, column_linear, row_weights, column_weights, reduction)


def _weights(valid: Tensor, sample_weights: Tensor | None, reduction: str) -> Tensor:
    weights = valid / valid.sum() if reduction == "mean" else valid
    return weights if sample_weights is None else weights * sample_weights.detach().to(weights)


def _inverse(temperature: Any, query: Tensor) -> Tensor:
    """1 / temperature as a tensor: one element, or [queries, 1]."""
    if not isinstance(temperature, Tensor):  # numbers are looked at without a device's help
        check_positive(temperature, "temperature")
        if not math.isfinite(temperature):
            raise ValueError(f"temperature must be finite, got {temperature}")
        if 1 / temperature > torch.finfo(query.dtype).max:
            raise ValueError(f"1 / temperature must be finite, got inf for {temperature}")
        return torch.full((), 1 / temperature, dtype=query.dtype, device=query.device)
    temperature = temperature.to(query)
    if temperature.numel() == 1:
        temperature = temperature.reshape(())
    elif temperature.numel() == len(query):
        temperature = temperature.reshape(-1, 1)
    else:
        raise ValueError(
            f"temperature must have one element, one a query or one a pair, got {list(temperature.shape)} for"
            f" {len(query)} queries"
        )
    return _checked_inverse(temperature)


def _checked_inverse(temperature: Tensor) -> Tensor:
    """1 / temperature; one look tells whether all is well."""
    inverse = 1 / temperature
    if not torch.compiler.is_compiling() and not ((inverse > 0) & (inverse < math.inf)).all():
        check_finite(temperature, "temperature")
        check_positive(temperature, "temperature")
        check_finite(inverse, "1 / temperature")
    return inverse


def _mean_score(
    query: Tensor, key: Tensor, of_query: Tensor, of_key: Tensor, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Each query's mean score over the keys of its label (0 without any), by sums over labels; and their number."""
    # A label's number is the place of its first key in their order: no device is waited for how many labels there are.
    ordered = of_key.sort().values
    key_class = torch.searchsorted(ordered, of_key)
    query_class = torch.searchsorted(ordered, of_query).clamp(max=len(key) - 1)
    known = ordered[query_class] == of_query
    sums = torch.zeros_like(key).index_add(0, key_class, key)[query_class] * known[:, None]
    count = torch.zeros_like(key_class).index_add(0, key_class, torch.ones_like(key_class))[query_class] * known
    if own is not None:
        sums, count = sums - key[own], count - 1
    return (query * sums).sum(1) / count.clamp(min=1), count


def _same_label(of_query: Tensor, of_key: Tensor) -> Callable:
    return lambda part, products: of_query[part, None] == of_key


# Functions of a strip: they see scores before the temperature, and columns of the keys, then of the queue.


def _unscaled(values: OfPairs | None, inverse: Tensor | None) -> OfPairs | None:
    """Gives a function the dot products of the embeddings as they came, not those divided by the temperature."""
    if not callable(values) or inverse is None:
        return values
    temperature = 1 / inverse.detach()
    return lambda part, products: values(part, products * (temperature if temperature.ndim == 0 else temperature[part]))


def _reciprocal(temperature: Callable) -> Callable:
    return lambda part, products: 1 / temperature(part, products).detach()


def _of_targets(scale: OfPairs, query: Tensor, key: Tensor, targets: Tensor) -> Tensor:
    """The scale of each query's target, strip by strip where it is a function."""
    if isinstance(scale, Tensor):
        return scale.gather(1, targets[:, None])[:, 0]
    found = []
    for first in range(0, len(query), streaming.LEAST):
        part = slice(first, min(first + streaming.LEAST, len(query)))
        values = scale(part, query[part].detach() @ key.detach().T)
        found.append(values.gather(1, targets[part, None])[:, 0])
    return torch.cat(found)


def _log(weights: OfPairs) -> OfPairs:
    if callable(weights):
        return lambda part, products: weights(part, products).detach().log()
    return weights.detach().log()


def _and(first: OfPairs | None, second: Callable, keys: int) -> OfPairs:
    """Both masks; the second is of the keys alone, without the queue."""

    def both(part: slice, products: Tensor) -> Tensor:
        kept = products.new_ones(products.shape, dtype=torch.bool)
        if first is not None:
            kept &= first(part, products) if callable(first) else first[part]
        kept[:, :keys] &= second(part, products)
        return kept

    return both


def _margin(same: Callable, margin: float, inverse: Tensor, keys: int) -> Callable:
    def bias(part: slice, products: Tensor) -> Tensor:
        values = torch.zeros_like(products)
        values[:, :keys] -= same(part, products) * (margin * inverse)
        return values

    return bias


def _plus(first: OfPairs | None, second: Callable) -> Callable:
    if first is None:
        return second
    return lambda part, products: streaming.of_pairs(first, part, products) + second(part, products)


def _check_positives(valid: Tensor, of_query: Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    alone = int((valid == 0).sum())
    if alone == len(valid):
        raise ValueError(f"no query has a positive: no key has label {of_query[0].item()} (query 0), nor any other's")
    if alone:
        warnings.warn(f"{alone} of {len(valid)} queries have no positive and are left out", stacklevel=6)


def _check_negatives(loss: Tensor) -> None:
    """Without its positive and without negatives a query's sum is empty."""
    empty = loss.isneginf()
    if empty.any():
        which = f"query {int(empty.nonzero()[0])}" if loss.ndim else "a query"
        raise ValueError(f"{which} has no negative left, and the decoupled loss needs one: look at mask and labels")


def _check_options(
    query: Tensor,
    key: Tensor,
    queue: Tensor | None,
    hard: Tensor | None,
    symmetric: bool,
    targets: Tensor | None,
    labels: Labels | None,
    in_batch: bool,
    exclude_self: bool,
    reduction: str,
    start: int,
) -> Tensor | None:
    """The targets as int64, when everything fits."""
    n = len(query)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
    if not n:
        raise ValueError("query is empty")
    if queue is not None:
        check_embeddings(query=query, negatives=queue, values=False)
    if hard is not None:
        if hard.ndim != 3 or hard.shape[0] != n or hard.shape[2] != query.shape[1]:
            raise ValueError(
                f"negatives must be [queue, {query.shape[1]}] or [{n}, hard, {query.shape[1]}], got {list(hard.shape)}"
            )
        check_embeddings(query=query, negatives=hard.flatten(0, 1), values=False)
    if symmetric and (targets is not None or not in_batch or n != len(key)):
        raise ValueError(
            f"symmetric needs as many keys as queries, in the batch and without targets, got {n} queries and"
            f" {len(key)} keys"
        )
    if exclude_self and start + n > len(key):
        raise ValueError(f"exclude_self needs the queries among the keys, got {n} queries and {len(key)} keys")
    if labels is not None:
        if targets is not None or not in_batch:
            raise ValueError("labels need the batch's keys and no targets")
    elif targets is None and start + n > len(key):
        raise ValueError(f"query {len(key)} has no positive: there are {n} queries and {len(key)} keys; give targets")
    if targets is not None:
        targets = check_labels(targets, n, name="targets")
        outside = () if torch.compiler.is_compiling() else ((targets < 0) | (targets >= len(key))).nonzero()
        if len(outside):
            query_row = int(outside[0])
            raise ValueError(
                f"query {query_row} has no positive: its target is {targets[query_row].item()}, of {len(key)} keys"
            )
    more = (0 if queue is None else len(queue)) + (0 if hard is None else hard.shape[1])
    if not in_batch and not more:
        given = "none" if queue is None and hard is None else "empty ones"
        raise ValueError(f"without the batch's keys negatives are needed, got {given}: give a queue, or hard negatives")
    if in_batch and len(key) - exclude_self < 2 and not more:
        raise ValueError(f"a batch of {n} has no negatives: give more pairs, or negatives")
    return targets
