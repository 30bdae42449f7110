"""Several heads compared pair by pair: what is asked of them, and the streamed sum over them with a temperature for
every pair (Wang et al. 2023, arXiv 2310.05615)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.amcl_temperatures import Heads, pair_penalty
from palimpsest.contrast.input_checks import check_embeddings, check_finite, check_pairs, check_positive, look
from palimpsest.contrast.precision import widened, without_autocast
from palimpsest.contrast.streaming import Pairs, logsumexp, of_strips
from palimpsest.renamed import renamed

# tau of every pair of two lists of embeddings, one function a head; or a number a head, or one for all.
Temperatures = Sequence[Callable[[Tensor, Tensor], Tensor]] | float | Tensor


@renamed(z1="query", z2="key")
def multi_head_loss(loss: Callable[[Tensor, Tensor], Tensor], query: Heads, key: Heads) -> Float[Tensor, ""]:
    """Any loss of two views [batch, d], summed over heads: what is left of AMCL for losses without a temperature.

    >>> from palimpsest.losses import barlow_twins_loss
    >>> z = F.normalize(torch.randn(32, 3, 8), dim=2)
    >>> multi_head_loss(barlow_twins_loss, z, z) < multi_head_loss(barlow_twins_loss, z, z.roll(1, 0))
    tensor(True)
    """
    units(1, query=query, key=key)
    return torch.stack([loss(query[:, head], key[:, head]) for head in range(query.shape[1])]).sum()


def summed(
    queries: Float[Tensor, "heads n d"],
    keys: Float[Tensor, "heads m d"],
    temperatures: Temperatures,
    beta: float,
    rows: int,
    targets: Tensor,
    counted: Callable[[slice], Tensor],
    counts: int,
) -> Tensor:
    """Over heads: the contrast's mean over queries, and beta times the penalty's mean over counted pairs, of which
    every query has `counts`."""
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and not negative, got {beta}")
    if not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows must be a whole number of at least 1, got {rows}")
    functions = _each(temperatures, len(queries))
    n = queries.shape[1]

    def of_pairs(head: int, part: slice) -> Tensor:
        query, key = queries[head, part], keys[head]
        tau = functions[head](query, key)
        if tau.shape != (len(query), len(key)):
            raise ValueError(f"temperatures must be [{len(query)}, {len(key)}], one a pair, got {list(tau.shape)}")
        return tau.to(query)

    def strip(head: int, part: slice) -> tuple[Tensor, Tensor]:
        query, key, target = queries[head, part], keys[head], targets[part, None]
        tau = of_pairs(head, part)
        scale = 1 / tau
        positive = (query * key[target[:, 0]]).sum(1) * scale.gather(1, target)[:, 0]
        # A checkpoint drops what autograd saves, but not a mask that is a tensor, nor the gradients that a reduction
        # makes in the forward pass.
        pairs = Pairs(left_out=target, keep=lambda inner, _: counted(part)[inner])
        contrast = logsumexp(query, key, positive, scale=scale, pairs=pairs, rows=len(query))[0].sum()
        penalty = pair_penalty(tau, query.shape[1]).masked_fill(~counted(part), 0).sum()
        return contrast / n + beta * penalty / (n * counts), tau.detach().amin()

    with without_autocast(queries):
        each = [strips for head in range(len(queries)) for strips in of_strips(partial(strip, head), n, rows)]
        losses, lowest = zip(*each, strict=True)
        loss = sum(losses)
        if not look(loss, queries=queries, keys=keys) or not _all_positive(lowest):
            for head in range(len(queries)):
                tau = of_pairs(head, slice(0, n))
                check_finite(tau, "temperature")
                check_positive(tau, "temperature")
    return loss


def _all_positive(lowest: Sequence[Tensor]) -> bool:
    return torch.compiler.is_compiling() or bool(torch.stack(lowest).amin() > 0)


def _each(temperatures: Temperatures, heads: int) -> Sequence[Callable[[Tensor, Tensor], Tensor]]:
    if isinstance(temperatures, (int, float, Tensor)):
        check_positive(temperatures, "temperature")
        tau = torch.as_tensor(temperatures, dtype=None if isinstance(temperatures, Tensor) else torch.float64)
        if tau.ndim > 1 or tau.numel() not in (1, heads):
            raise ValueError(
                f"temperature must have one element or one for each of {heads} heads, got {list(tau.shape)}"
            )
        each = tau.reshape(-1).expand(heads)
        return [lambda query, key, own=own: own.to(query).expand(len(query), len(key)) for own in each]
    if not isinstance(temperatures, (Sequence, nn.ModuleList)) or not all(map(callable, temperatures)):
        raise TypeError(f"temperatures must be a number or one function a head, got {type(temperatures).__name__}")
    if len(temperatures) != heads:
        raise ValueError(f"there must be a temperature function for each of {heads} heads, got {len(temperatures)}")
    return temperatures


def units(least: int, *, queue: Tensor | None = None, **pair: Tensor) -> list[Float[Tensor, "heads rows d"]]:
    """The checked embeddings at norm 1, in float32 or wider, head by head."""
    views = pair if queue is None else {**pair, "queue": queue}
    like = next(iter(views.values()))
    for name, z in views.items():
        if not isinstance(z, Tensor):
            raise TypeError(f"{name} must be a tensor [batch, heads, d], got {type(z).__name__}")
        if z.ndim != 3 or z.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"{' and '.join(views)} must be [batch, heads, d] and alike, got {list(z.shape)} as {name}"
            )
    flat = {name: z.flatten(1) for name, z in views.items()}
    check_embeddings(**flat)
    check_pairs(least=least, **{name: flat[name] for name in pair})
    if queue is not None and not len(queue):
        raise ValueError("queue must not be empty: its keys are the negatives")
    return [F.normalize(widened(z), dim=2).transpose(0, 1) for z in views.values()]
