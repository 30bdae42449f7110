"""Adaptive multi-head contrastive learning (Wang, Koniusz, Gedeon and Zheng, 2023, arXiv 2310.05615).

Under many kinds of augmentation two views of one image may look less alike than views of two images, and one similarity
at one temperature cannot serve all pairs. AMCL compares views through several projection heads, and divides every
similarity by a temperature of that pair, which a small network per head gives:

    tau_ij = lo + (hi - lo) sigmoid(phi(z_i) . phi(z_j) + b)
    L = sum over heads of  mean_i [ -s_ip / tau_ip + log sum_{j != i} e^{s_ij / tau_ij} ]
                           + beta mean_{i != j} [ d/2 log tau_ij + 1 / tau_ij ]

With z_j Gaussian around z_i with variance tau_ij in all d directions, and both of norm 1, the negative log-likelihood
is d/2 log tau + 1/tau - s/tau and a constant: the second term is what the similarity leaves of it. Its logarithm keeps
tau from growing, its 1/tau from vanishing; alone it is least at tau = 2/d.

The authors' published code is not complete: it makes temperatures for the positive pair only, between 1e-5 and 2, by an
MLP on both embeddings side by side (so that tau_ij is not tau_ji). The symmetric form here, lo = 0.05 and the start at
0.2 are of this library; beta = 0.1, hi = 2 and three heads are as in that code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from palimpsest.contrast.checks import check_embeddings, check_pairs, check_positive
from palimpsest.contrast.heads import projection_head
from palimpsest.contrast.info_nce import info_nce

Heads = Float[Tensor, "batch heads d"]
# tau of every pair of two lists of embeddings, one function a head; or one number for all.
Temperatures = Sequence[Callable[[Tensor, Tensor], Tensor]] | float


class MultiHead(nn.Module):
    """Independent projectors on one backbone's features: [batch, in_dim] -> [batch, heads, out_dim], rows of norm 1.

    Args:
        in_dim: of the features.
        out_dim: d above.
        heads: how many.
        hidden: width of each head's hidden layer; by default `in_dim`.
        norm: "batch", "layer" or None, before its ReLU.

    >>> MultiHead(64)(torch.randn(8, 64)).shape
    torch.Size([8, 3, 16])
    """

    def __init__(
        self, in_dim: int, out_dim: int = 16, heads: int = 3, *, hidden: int | None = None, norm: str | None = "batch"
    ) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}")
        width = in_dim if hidden is None else hidden
        self.projectors = nn.ModuleList(projection_head(in_dim, width, out_dim, norm=norm) for _ in range(heads))

    def forward(self, features: Float[Tensor, "batch in_dim"]) -> Heads:
        return F.normalize(torch.stack([project(features) for project in self.projectors], 1), dim=2)


def pair_temperature(
    z: Float[Tensor, "batch d"],
    phi: Callable[[Tensor], Tensor],
    lo: float = 0.05,
    hi: float = 2.0,
    *,
    other: Float[Tensor, "others d"] | None = None,
    bias: float | Tensor | None = None,
) -> Float[Tensor, "batch others"]:
    """tau_ij = lo + (hi - lo) sigmoid(phi(z_i) . phi(z_j) + b), with a gradient for z, phi and b.

    Args:
        z: embeddings.
        phi: [rows, d] -> [rows, any width]; one pair of equal rows can only raise tau above that of phi = 0.
        lo, hi: the range, 0 < lo <= hi.
        other: the other side of the pairs; z itself by default.
        bias: b; by default what gives 0.2 where phi is 0 (the middle of the range, if 0.2 is not inside).

    Raises:
        ValueError, TypeError: shapes, dtypes, values that are not finite, a range that is none.

    >>> pair_temperature(torch.eye(2), torch.zeros_like)
    tensor([[0.2000, 0.2000],
            [0.2000, 0.2000]])
    """
    _check_range(lo, hi)
    check_embeddings(z=z) if other is None else check_embeddings(z=z, other=other)
    mine = phi(z)
    theirs = mine if other is None else phi(other)
    bias = start_bias(lo, hi) if bias is None else bias
    return lo + (hi - lo) * torch.sigmoid(mine @ theirs.T + bias)


def start_bias(lo: float, hi: float, start: float = 0.2) -> float:
    """The b at which tau = start where phi is 0; 0 (the middle) for a start outside the range.

    >>> round(start_bias(0.0, 2.0, 0.2), 3)  # log(0.1 / 0.9)
    -2.197
    """
    return math.log((start - lo) / (hi - start)) if lo < start < hi else 0.0


class PairTemperature(nn.Module):
    """`pair_temperature` with a two-layer phi and b to be learned, for one head.

    Args:
        dim: of the embeddings.
        hidden: of both layers.
        lo, hi: the range.
        start: tau is near it at first.

    >>> tau = PairTemperature(16)(F.normalize(torch.randn(5, 16)))
    >>> tau.shape, bool(((tau > 0.1) & (tau < 0.4)).all())
    (torch.Size([5, 5]), True)
    """

    def __init__(self, dim: int, hidden: int = 32, *, lo: float = 0.05, hi: float = 2.0, start: float = 0.2) -> None:
        super().__init__()
        _check_range(lo, hi)
        self.lo, self.hi = lo, hi
        self.phi = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden, bias=False))
        self.bias = nn.Parameter(torch.tensor(start_bias(lo, hi, start)))

    def forward(self, z: Float[Tensor, "batch d"], other: Float[Tensor, "others d"] | None = None) -> Tensor:
        return pair_temperature(z, self.phi, self.lo, self.hi, other=other, bias=self.bias)


def temperature_penalty(tau: Float[Tensor, "*pairs"], dim: int) -> Float[Tensor, "*pairs"]:
    """d/2 log tau + 1/tau for every pair; least at tau = 2/d.

    >>> temperature_penalty(torch.tensor([1.0]), 16)
    tensor([1.])
    """
    check_positive(tau, "tau")
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    return dim / 2 * tau.log() + 1 / tau


def amcl_loss(
    z1: Heads, z2: Heads, temperatures: Temperatures, beta: float = 0.1, *, rows: int = 512
) -> Float[Tensor, ""]:
    """L above for two views: for each head NT-Xent with a temperature a pair, and beta times its penalty.

    Pairs are visited `rows` queries at a time, and made once more for the gradient where that is not all of them, so
    that no array of the batch by the batch is held.

    Args:
        z1, z2: two views' heads, brought to norm 1 here.
        temperatures: one function (embeddings [n, d], others [m, d]) -> tau [n, m] a head, such as `PairTemperature`;
            or a number: then it is the sum of the heads' NT-Xent and a constant.
        beta: weight of the penalty, not negative.
        rows: queries at a time.

    Raises:
        ValueError, TypeError: shapes, dtypes, values that are not finite, a batch of one pair, too few or too many
            functions, temperatures that are not positive.

    >>> z = torch.eye(3)[:, None]  # one head
    >>> amcl_loss(z, z, 0.5, beta=0.0).item()  # -2 + log(e^2 + 4)
    0.4326...
    """
    _check(beta, rows, z1=z1, z2=z2)
    if len(z1) < 2:
        raise ValueError(
            f"a batch needs at least 2 pairs, got {len(z1)}: there are no negatives without another sample"
        )
    row = torch.arange(2 * len(z1), device=z1.device)
    total = z1.new_zeros((), dtype=torch.promote_types(z1.dtype, torch.float32))
    for of_head, temperature in zip(_unit(torch.cat([z1, z2])), _each(temperatures, z1.shape[1]), strict=True):
        total = total + _summed(
            of_head, of_head, temperature, beta, row.roll(len(z1)), lambda part: row[part, None] != row, rows
        )
    return total


def amcl_queue_loss(
    query: Heads,
    key: Heads,
    queue: Float[Tensor, "size heads d"],
    temperatures: Temperatures,
    beta: float = 0.1,
    *,
    rows: int = 512,
) -> Float[Tensor, ""]:
    """The form for MoCo: each query's positive is its key and its negatives are the queue, with a temperature a pair.

    Args:
        query, key: the query encoder's heads and the momentum encoder's, row by row a pair; brought to norm 1 here.
        queue: earlier keys of all heads, at least one.
        temperatures, beta, rows: as for `amcl_loss`; the penalty is a mean over the pairs that are compared.

    >>> z = torch.eye(2)[:, None]
    >>> amcl_queue_loss(z, z, -z, 1.0, beta=0.0).item()  # log(1 + e^-1 (e^-1 + 1))
    0.4076...
    """
    _check(beta, rows, query=query, key=key)
    if queue.ndim != 3 or queue.shape[1:] != key.shape[1:] or not len(queue):
        raise ValueError(f"queue must be [size, {key.shape[1]}, {key.shape[2]}], not empty, got {list(queue.shape)}")
    own = torch.arange(len(query), device=query.device)
    counted = torch.cat([own, own.new_full((len(queue),), -1)])
    total = query.new_zeros((), dtype=torch.promote_types(query.dtype, torch.float32))
    heads = zip(_unit(query), _unit(torch.cat([key, queue])), _each(temperatures, query.shape[1]), strict=True)
    for mine, theirs, temperature in heads:
        total = total + _summed(
            mine, theirs, temperature, beta, own, lambda part: (own[part, None] == counted) | (counted < 0), rows
        )
    return total


def multi_head_loss(loss: Callable[[Tensor, Tensor], Tensor], z1: Heads, z2: Heads) -> Float[Tensor, ""]:
    """Any loss of two views [batch, d], summed over heads: what is left of AMCL for losses without a temperature.

    >>> from palimpsest.losses import barlow_twins_loss
    >>> z = F.normalize(torch.randn(32, 3, 8), dim=2)
    >>> multi_head_loss(barlow_twins_loss, z, z) < multi_head_loss(barlow_twins_loss, z, z.roll(1, 0))
    tensor(True)
    """
    _check(0.0, 1, z1=z1, z2=z2)
    return torch.stack([loss(z1[:, head], z2[:, head]) for head in range(z1.shape[1])]).sum()


class AMCL(nn.Module):
    """`amcl_loss` with its learned temperatures: a module of two views' heads, for `palimpsest.contrast.Views`.

    Its parameters are trained with the model's (`Projected` takes it under `extra`).

    Args:
        dim: of a head's embeddings.
        heads: how many.
        beta: weight of the penalty.
        hidden, lo, hi, start: of `PairTemperature`.

    >>> from palimpsest.contrast import Projected, Views
    >>> from palimpsest.train import fit
    >>> model = Projected(nn.Linear(8, 8), MultiHead(8, 4), {"amcl": AMCL(4)})
    >>> batches = [{"views": torch.randn(16, 1, 8) + 0.1 * torch.randn(16, 2, 8)}]
    >>> history = fit(model, Views(model.extra["amcl"]), batches, steps=20)
    >>> history.steps[-1]["contrast"] < history.steps[0]["contrast"]
    True
    """

    def __init__(
        self,
        dim: int = 16,
        heads: int = 3,
        beta: float = 0.1,
        *,
        hidden: int = 32,
        lo: float = 0.05,
        hi: float = 2.0,
        start: float = 0.2,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.temperatures = nn.ModuleList(PairTemperature(dim, hidden, lo=lo, hi=hi, start=start) for _ in range(heads))

    def forward(self, z1: Heads, z2: Heads) -> Float[Tensor, ""]:
        return amcl_loss(z1, z2, self.temperatures, self.beta)


def _summed(
    query: Tensor,
    key: Tensor,
    temperature: Callable[[Tensor, Tensor], Tensor],
    beta: float,
    targets: Tensor,
    counted: Callable[[slice], Tensor],
    rows: int,
) -> Tensor:
    """One head: mean over queries of the contrast, and beta times the mean over counted pairs of the penalty."""

    def strip(query: Tensor, key: Tensor, part: slice) -> tuple[Tensor, Tensor, int]:
        tau, counts = temperature(query, key), counted(part)
        contrast = info_nce(query, key, tau, targets=targets[part], mask=counts, reduction="sum")
        penalty = temperature_penalty(tau, query.shape[1]).masked_fill(~counts, 0).sum()
        return contrast, penalty, int(counts.sum())

    parts = [slice(start, min(start + rows, len(query))) for start in range(0, len(query), rows)]
    if len(parts) == 1:
        found = [strip(query, key, parts[0])]
    else:
        found = [checkpoint(strip, query[part], key, part, use_reentrant=False) for part in parts]
    contrast, penalty, pairs = (sum(values) for values in zip(*found, strict=True))
    return contrast / len(query) + beta * penalty / pairs


def _unit(z: Heads) -> Float[Tensor, "heads rows d"]:
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=2).transpose(0, 1)


def _each(temperatures: Temperatures, heads: int) -> Sequence[Callable[[Tensor, Tensor], Tensor]]:
    if isinstance(temperatures, (int, float)):
        check_positive(temperatures, "temperature")
        return [lambda query, key: query.new_full((len(query), len(key)), temperatures)] * heads
    if len(temperatures) != heads:
        raise ValueError(f"there must be a temperature function for each of {heads} heads, got {len(temperatures)}")
    return temperatures


def _check(beta: float, rows: int, **views: Tensor) -> None:
    (name, first), (other, second) = views.items()
    if first.ndim != 3 or first.shape != second.shape:
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise ValueError(f"{name} and {other} must be [batch, heads, d] and alike, got {shapes}")
    check_pairs(**{name: z.flatten(1) for name, z in views.items()})
    if not beta >= 0:
        raise ValueError(f"beta must not be negative, got {beta}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")


def _check_range(lo: float, hi: float) -> None:
    if not 0 < lo <= hi:
        raise ValueError(f"temperatures need 0 < lo <= hi, got lo {lo} and hi {hi}")
