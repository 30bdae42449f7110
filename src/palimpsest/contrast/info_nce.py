"""InfoNCE and its relatives, without an array of the batch by the batch.

    l_i = -log( e^{s_ii} / sum_j e^{s_ij} ),        s_ij = q_i . k_j / temperature                    (one direction)

Oord et al. (2018, arXiv 1807.03748); as NT-Xent in SimCLR (Chen et al. 2020, arXiv 2002.05709), with a queue in MoCo
(He et al. 2019, arXiv 1911.05722), in both directions in CLIP (Radford et al. 2021, arXiv 2103.00020), with several
positives a query in SupCon (Khosla et al. 2020, arXiv 2004.11362). Scores are streamed, see
`palimpsest.contrast.streaming`; `reference_info_nce` is the plain expression of the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast import streaming
from palimpsest.contrast.comparison import Comparison, Labels, Problem, inverse_temperature
from palimpsest.contrast.distributed import gather_rows, position
from palimpsest.contrast.input_checks import Blaming, check_finite, check_labels, check_pairs, look
from palimpsest.contrast.precision import wide_dtype, without_autocast
from palimpsest.contrast.streaming import OfPairs
from palimpsest.renamed import renamed

# Up to how many scores the plain expression is faster, in one direction and in both: see benchmarks/contrast.py.
SMALL = {False: 448**2, True: 320**2}
DIGITS = 1e-3  # below it the cross-entropy in float32 has fewer than four right digits


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
    asked = Comparison(
        query,
        key,
        temperature,
        symmetric=symmetric,
        targets=targets,
        labels=labels,
        negatives=negatives,
        in_batch=in_batch,
        exclude_self=exclude_self,
        mask=mask,
        pair_weights=pair_weights,
        margin=margin,
        decoupled=decoupled,
        sample_weights=sample_weights,
        normalize=normalize,
        reduction=reduction,
    )
    loss = None
    with without_autocast(query):
        if group is None and rows is None:
            loss = _small(asked)
        if loss is None:
            loss = _streamed(asked.problem(), rows) if group is None else _across(asked, group, rows)
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
        return _plain(Comparison(query, key, temperature, **options).problem())


@renamed(z1="query", z2="key")
def nt_xent(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    temperature: float | Tensor = 0.5,
    *,
    normalize: bool = True,
    **options: Any,
) -> Float[Tensor, ""]:
    """SimCLR's loss of two views: every view picks its partner among all 2 batch - 1 other views, by cosine (by dot
    products as they are without `normalize`).

    Other options are those of `info_nce`; with a `group` the other views are those of all processes. With
    `reduction="none"` there are 2 batch values, the first view's first.

    >>> nt_xent(torch.eye(3), torch.eye(3), 0.5).item()  # -2 + log(e^2 + 4)
    0.4326...
    """
    check_pairs(query=query, key=key, values=False)
    z = torch.cat([query, key])
    partner = torch.arange(len(z), device=z.device).roll(len(query))
    with Blaming(query=query, key=key):
        return info_nce(z, z, temperature, targets=partner, exclude_self=True, normalize=normalize, **options)


# Arguments of which the plain expression has the default only; so it has of the margin.
_LARGE_ONLY = ("labels", "negatives", "in_batch", "mask", "pair_weights", "decoupled", "sample_weights")


def _small(asked: Comparison) -> Tensor | None:
    """The loss of a small batch by PyTorch's own cross-entropy, which is faster there; None where that does not fit:
    with other options, and where the loss is so small that cross-entropy rounds it away.
    """
    query, key, temperature, targets = asked.query, asked.key, asked.temperature, asked.targets
    if (
        not isinstance(query, Tensor)
        or not isinstance(key, Tensor)
        or len(query) * len(key) > SMALL[asked.symmetric]
        or asked.reduction == "none"
        or (asked.exclude_self and targets is None)
        or callable(temperature)
        or (isinstance(temperature, Tensor) and temperature.numel() != 1)
        or asked.margin
        or any(getattr(asked, name) is not getattr(Comparison, name) for name in _LARGE_ONLY)
    ):
        return None
    targets = asked.checked_targets()
    wide = wide_dtype(query)
    query, key = (F.normalize(e.to(wide), dim=-1) if asked.normalize else e.to(wide) for e in (query, key))
    scores = query * inverse_temperature(temperature, query) @ key.T
    rows = torch.arange(len(query), device=query.device)
    targets = rows if targets is None else targets
    if asked.exclude_self:  # but a target counts, whichever it is
        scores = scores.diagonal_scatter(scores.diagonal().masked_fill(targets != rows, -torch.inf))
    loss = F.cross_entropy(scores, targets, reduction=asked.reduction)
    if asked.symmetric:
        loss = (loss + F.cross_entropy(scores.T, targets, reduction=asked.reduction)) / 2
    if not torch.compiler.is_compiling() and loss < (DIGITS if asked.reduction == "mean" else DIGITS * len(query)):
        return None
    return loss


def _streamed(problem: Problem, rows: int | None) -> Tensor:
    if problem.reduction == "none":
        return _per_sample(problem, *streaming.logsumexp(*problem.inputs, pairs=problem.pairs, rows=rows))
    total = streaming.weighted_logsumexp(
        *problem.inputs,
        row_weights=problem.row_weights,
        column_weights=problem.column_weights,
        pairs=problem.pairs,
        rows=rows,
    )
    for linear, weights in ((problem.linear, problem.row_weights), (problem.column_linear, problem.column_weights)):
        if linear is not None:
            total = total - (linear * weights).sum()
    return total


def _plain(problem: Problem) -> Tensor:
    found = _per_sample(problem, *streaming.reference_logsumexp(*problem.inputs, pairs=problem.pairs))
    return found if problem.reduction == "none" else found.sum()


def _per_sample(problem: Problem, by_row: Tensor, by_column: Tensor) -> Tensor:
    def side(lse: Tensor, linear: Tensor | None, weights: Tensor) -> Tensor:
        values = lse if linear is None else lse - linear
        return values.masked_fill(weights == 0, 0) * weights

    found = side(by_row, problem.linear, problem.row_weights)
    if problem.column_weights is not None:
        found = found + side(by_column, problem.column_linear, problem.column_weights)
    return found


def _across(asked: Comparison, group: Any, rows: int | None) -> Tensor:
    """The loss of this process's queries against the keys of all, and, if symmetric, the other way round."""
    temperature, labels = asked.temperature, asked.labels
    one_temperature = not isinstance(temperature, Tensor) or temperature.numel() == 1
    of_pairs = asked.mask is not None or asked.pair_weights is not None or callable(temperature)
    if asked.symmetric and (of_pairs or not one_temperature):
        raise ValueError(
            "where processes are taken together, mask, pair_weights and temperatures of queries or pairs are of one"
            " direction only: leave symmetric out"
        )
    start, targets = position(len(asked.key), group), asked.targets
    if targets is not None:
        targets = start + check_labels(targets, len(asked.query), name="targets")
    here = replace(asked, symmetric=False, start=start, targets=targets)
    of_query, of_key = labels if isinstance(labels, tuple) else (labels, labels)

    def one_way(here: Comparison, own_labels: Tensor | None, other_labels: Tensor | None) -> Tensor:
        gathered = None if labels is None else (own_labels, gather_rows(other_labels, group))
        return _streamed(replace(here, key=gather_rows(here.key, group), labels=gathered).problem(), rows)

    forth = one_way(here, of_query, of_key)
    if not asked.symmetric:
        return forth
    back = replace(here, query=asked.key, key=asked.query, negatives=None)
    return (forth + one_way(back, of_key, of_query)) / 2


def _check_negatives(loss: Tensor) -> None:
    """Without its positive and without negatives a query's sum is empty."""
    empty = loss.isneginf()
    if empty.any():
        which = f"query {int(empty.nonzero()[0])}" if loss.ndim else "a query"
        raise ValueError(f"{which} has no negative left, and the decoupled loss needs one: look at mask and labels")
