"""What InfoNCE compares with what: its arguments, and what is left of them when everything but scores is dealt with.

`Comparison` holds the arguments of `palimpsest.contrast.info_nce.info_nce`. Two builders make a `Problem` of it, in the
terms of `palimpsest.contrast.streaming`: `by_targets`, where each query has one positive, and `by_labels`, where all
keys of its label are.
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
from palimpsest.contrast.input_checks import (
    check_embeddings,
    check_finite,
    check_labels,
    check_of_pairs,
    check_positive,
)
from palimpsest.contrast.precision import wide_dtype
from palimpsest.contrast.streaming import OfPairs, Pairs

Labels = Int[Tensor, " queries"] | tuple[Int[Tensor, " queries"], Int[Tensor, " keys"]]


@dataclass(frozen=True)
class Comparison:
    """The arguments of `info_nce`, which explains them, and `start`, the row of the keys at which the queries' own
    begin."""

    query: Float[Tensor, "queries d"]
    key: Float[Tensor, "keys d"]
    temperature: float | Tensor | Callable = 0.07
    symmetric: bool = False
    targets: Int[Tensor, " queries"] | None = None
    labels: Labels | None = None
    negatives: Float[Tensor, "queue d"] | Float[Tensor, "queries hard d"] | None = None
    in_batch: bool = True
    exclude_self: bool = False
    mask: OfPairs | None = None
    pair_weights: OfPairs | None = None
    margin: float = 0.0
    decoupled: bool = False
    sample_weights: Float[Tensor, " queries"] | None = None
    normalize: bool = False
    reduction: str = "mean"
    start: int = 0

    def problem(self) -> Problem:
        """What is left of it, when all fits; the errors are those of `info_nce`."""
        return by_targets(self) if self.labels is None else by_labels(self)

    def checked_targets(self) -> Tensor | None:
        """The targets as int64, when everything fits."""
        query, key, targets = self.query, self.key, self.targets
        check_embeddings(query=query, key=key, values=False)
        if self.negatives is not None and not isinstance(self.negatives, Tensor):
            raise TypeError(f"negatives must be a tensor, got {type(self.negatives).__name__}")
        n, queue, hard = len(query), self.queue, self.hard
        if self.reduction not in ("mean", "sum", "none"):
            raise ValueError(f'reduction must be "mean", "sum" or "none", got {self.reduction!r}')
        if not n:
            raise ValueError("query is empty")
        if queue is not None:
            check_embeddings(query=query, negatives=queue, values=False)
        if hard is not None:
            if hard.ndim != 3 or hard.shape[0] != n or hard.shape[2] != query.shape[1]:
                raise ValueError(
                    f"negatives must be [queue, {query.shape[1]}] or [{n}, hard, {query.shape[1]}], got"
                    f" {list(hard.shape)}"
                )
            check_embeddings(query=query, negatives=hard.flatten(0, 1), values=False)
        if self.symmetric and (targets is not None or not self.in_batch or n != len(key)):
            raise ValueError(
                f"symmetric needs as many keys as queries, in the batch and without targets, got {n} queries and"
                f" {len(key)} keys"
            )
        if self.exclude_self and self.start + n > len(key):
            raise ValueError(f"exclude_self needs the queries among the keys, got {n} queries and {len(key)} keys")
        if self.labels is not None:
            if targets is not None or not self.in_batch:
                raise ValueError("labels need the batch's keys and no targets")
        elif targets is None and self.start + n > len(key):
            raise ValueError(
                f"query {len(key)} has no positive: there are {n} queries and {len(key)} keys; give targets"
            )
        if targets is not None:
            targets = check_labels(targets, n, name="targets")
            outside = () if torch.compiler.is_compiling() else ((targets < 0) | (targets >= len(key))).nonzero()
            if len(outside):
                query_row = int(outside[0])
                raise ValueError(
                    f"query {query_row} has no positive: its target is {targets[query_row].item()}, of {len(key)} keys"
                )
        more = (0 if queue is None else len(queue)) + (0 if hard is None else hard.shape[1])
        if not self.in_batch and not more:
            given = "none" if queue is None and hard is None else "empty ones"
            raise ValueError(
                f"without the batch's keys negatives are needed, got {given}: give a queue, or hard negatives"
            )
        if self.in_batch and len(key) - self.exclude_self < 2 and not more:
            raise ValueError(f"a batch of {n} has no negatives: give more pairs, or negatives")
        return targets

    @property
    def queue(self) -> Tensor | None:
        """The negatives that all queries share."""
        return self.negatives if self.negatives is not None and self.negatives.ndim == 2 else None

    @property
    def hard(self) -> Tensor | None:
        """The negatives that each query has for itself."""
        return self.negatives if self.negatives is not None and self.negatives.ndim != 2 else None


@dataclass(frozen=True)
class Problem:
    """Log-sum-exps to be taken, what is taken off them, and how much each counts.

    Attributes:
        inputs: of `palimpsest.contrast.streaming.logsumexp`.
        pairs: what becomes of the pairs' scores.
        linear, column_linear: positives that are only taken off, one a query and one a key.
        row_weights, column_weights: of the queries and keys in the loss.
        reduction: "none" for a value a query.
    """

    inputs: tuple
    pairs: Pairs
    linear: Tensor | None
    column_linear: Tensor | None
    row_weights: Tensor
    column_weights: Tensor | None
    reduction: str


def by_targets(asked: Comparison) -> Problem:
    """The problem in which each query has one positive, its target, which stands beside the sum of the others.

    >>> by_targets(Comparison(torch.eye(2), torch.eye(2), 0.5)).inputs[2]
    tensor([2., 2.])
    """
    scored, margin = _scored(asked), asked.margin
    query, key, scale, inverse = scored.query, scored.key, scored.scale, scored.inverse
    targets = scored.own if scored.targets is None else scored.targets
    positive = (query * key[targets]).sum(1)
    if scale is not None:
        positive = positive * _of_targets(scale, query, key, targets)
    if margin:
        taken = margin if inverse is None else margin * inverse.reshape(-1)
        positive = positive - (taken if scale is None else margin * _of_targets(scale, query, key, targets))
    column_positive = positive if asked.symmetric else None
    beside, linear = (positive, column_positive), (None, None)
    return _problem(
        asked,
        scored,
        keep=asked.mask,
        bias=scored.bias,
        left_out=[*scored.left_out, targets] if asked.in_batch else scored.left_out,
        beside=linear if asked.decoupled else beside,
        linear=beside if asked.decoupled else linear,
        counted=(query.new_ones(len(query)), query.new_ones(len(key)) if asked.symmetric else None),
    )


def by_labels(asked: Comparison) -> Problem:
    """The problem in which all keys of a query's label are its positives, whose mean score is taken off the sum.

    >>> labels = torch.tensor([0, 0, 1])
    >>> by_labels(Comparison(torch.eye(3), torch.eye(3), 0.5, labels=labels)).linear
    tensor([1., 1., 2.])
    """
    both = asked.labels if isinstance(asked.labels, tuple) else (asked.labels, asked.labels)
    scored, margin = _scored(asked), asked.margin
    query, key, inverse = scored.query, scored.key, scored.inverse
    of_query, of_key = (
        check_labels(of, rows, name=f"labels of the {name}")
        for of, rows, name in zip(both, (len(query), len(key)), ("queries", "keys"), strict=True)
    )
    same, keep, bias = _same_label(of_query, of_key), asked.mask, scored.bias
    if asked.decoupled:
        keep = _and(keep, lambda part, products: ~same(part, products), len(key))
    if margin:
        bias = _plus(bias, _margin(same, margin, inverse, len(key)))
    own = scored.own if asked.exclude_self else None
    linear, counted = [], []
    for sides in ((query, key, of_query, of_key), (key, query, of_key, of_query))[: 1 + asked.symmetric]:
        mean, count = _mean_score(*sides, own)
        linear.append(mean - (margin * inverse if margin else 0))
        counted.append((count > 0).to(query))
    _check_positives(counted[0], of_query)
    if not asked.symmetric:
        linear, counted = (*linear, None), (*counted, None)
    return _problem(asked, scored, keep, bias, scored.left_out, (None, None), linear, counted)


@dataclass(frozen=True)
class _Scored:
    """Checked embeddings in the wide dtype, queries over their temperature unless there is a `scale` a pair."""

    query: Tensor
    key: Tensor
    bank: Tensor  # the keys that count for every query
    extra: Tensor | None  # scores of each query's own hard negatives
    scale: OfPairs | None
    inverse: Tensor | None
    bias: OfPairs | None
    own: Tensor  # the row of each query's own key
    left_out: list[Tensor]
    targets: Tensor | None


def _scored(asked: Comparison) -> _Scored:
    targets = asked.checked_targets()
    query, key, temperature, in_batch = asked.query, asked.key, asked.temperature, asked.in_batch
    wide, n = wide_dtype(query), len(query)
    query, key, queue, hard = (
        None if e is None else (F.normalize(e.to(wide), dim=-1) if asked.normalize else e.to(wide))
        for e in (query, key, asked.queue, asked.hard)
    )
    scale, inverse = None, None
    if callable(temperature):
        scale = _reciprocal(temperature)
    elif isinstance(temperature, Tensor) and temperature.ndim == 2 and temperature.shape[1] != 1:
        scale = _checked_inverse(temperature.to(wide))
    else:
        inverse = inverse_temperature(temperature, query)
        query = query * inverse
    if scale is not None and (hard is not None or asked.labels is not None or not in_batch):
        raise ValueError("a temperature a pair goes with the keys' own rows only: leave labels and negatives out")
    if not math.isfinite(asked.margin):
        raise ValueError(f"margin must be finite, got {asked.margin}")
    if asked.labels is not None and asked.margin and isinstance(temperature, Tensor):
        raise ValueError("a margin beside labels needs a number as temperature")

    bank = key if queue is None else torch.cat([key, queue]) if in_batch else queue
    bank = bank if in_batch or queue is not None else key[:0]
    check_of_pairs(asked.mask, "mask", n, len(bank), mask=True)
    check_of_pairs(asked.pair_weights, "pair_weights", n, len(bank))
    check_of_pairs(scale, "temperature", n, len(bank))
    own = torch.arange(asked.start, asked.start + n, device=query.device)
    return _Scored(
        query,
        key,
        bank,
        extra=None if hard is None else torch.einsum("nd,nhd->nh", query, hard),
        scale=scale,
        inverse=inverse,
        bias=None if asked.pair_weights is None else _log(asked.pair_weights),
        own=own,
        left_out=[own] if asked.exclude_self and in_batch else [],
        targets=targets,
    )


def _problem(
    asked: Comparison,
    scored: _Scored,
    keep: OfPairs | None,
    bias: OfPairs | None,
    left_out: list[Tensor],
    beside: tuple[Tensor | None, Tensor | None],
    linear: tuple[Tensor | None, Tensor | None],
    counted: tuple[Tensor, Tensor | None],
) -> Problem:
    pairs = Pairs(
        left_out=torch.stack(left_out, 1) if left_out and len(scored.bank) else None,
        keep=_unscaled(keep, scored.inverse),
        bias=_unscaled(bias, scored.inverse),
        columns=len(scored.key) if asked.symmetric else 0,
    )
    given = asked.sample_weights
    if given is not None:
        if not isinstance(given, Tensor):
            raise TypeError(f"sample_weights must be a tensor, got {type(given).__name__}")
        if given.shape != scored.own.shape:
            raise ValueError(f"sample_weights must be [{len(scored.own)}], got {list(given.shape)}")
    weights = (
        None if valid is None else _weights(valid, given, asked.reduction) / (2 if asked.symmetric else 1)
        for valid in counted
    )
    inputs = (scored.query, scored.bank, *beside, scored.extra, scored.scale)
    return Problem(inputs, pairs, *linear, *weights, asked.reduction)


def _weights(valid: Tensor, sample_weights: Tensor | None, reduction: str) -> Tensor:
    weights = valid / valid.sum() if reduction == "mean" else valid
    return weights if sample_weights is None else weights * sample_weights.detach().to(weights)


def inverse_temperature(temperature: Any, query: Tensor) -> Tensor:
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
        warnings.warn(f"{alone} of {len(valid)} queries have no positive and are left out", stacklevel=5)
