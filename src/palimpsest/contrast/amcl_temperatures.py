"""Several heads on one backbone, and a temperature for every pair of a head's embeddings (Wang et al. 2023, arXiv
2310.05615)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.heads import projection_head
from palimpsest.contrast.input_checks import check_embeddings, check_positive, look
from palimpsest.contrast.streaming import of_strips
from palimpsest.renamed import renamed

Heads = Float[Tensor, "batch heads d"]
ELEMENTS = 2**20  # numbers of a hidden layer of pairs that are held at a time


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
    sides = {"z": z} if other is None else {"z": z, "other": other}
    check_embeddings(**sides, values=False)
    mine = phi(z)
    theirs = mine if other is None else phi(other)
    bias = start_bias(lo, hi) if bias is None else bias
    tau = lo + (hi - lo) * torch.sigmoid(mine @ theirs.T + bias)
    look(tau, **sides)
    return tau


def start_bias(lo: float, hi: float, start: float = 0.2) -> float:
    """The b at which tau = start where phi is 0; 0 (the middle) for a start outside the range.

    >>> round(start_bias(0.0, 2.0, 0.2), 3)  # log(0.1 / 0.9)
    -2.197
    """
    return math.log((start - lo) / (hi - start)) if lo < start < hi else 0.0


class PairTemperature(nn.Module):
    """The learned temperature of one head's pairs: [n, d] and [m, d] -> [n, m]; one argument is paired with itself.

    Args:
        dim: of the embeddings.
        hidden: width of phi's hidden layer, and of what it gives in the first form.
        lo, hi: the range.
        start: tau is near it at first.
        form: "product" is `pair_temperature` with a two-layer phi. "concatenated" has phi([z_i, z_j]) + b, one number,
            in the sigmoid: a like pair can then get a lower tau than an unlike one. It costs a hidden layer a pair,
            which is made `ELEMENTS` numbers at a time, and once more for the gradient.

    >>> tau = PairTemperature(16, form="concatenated")(F.normalize(torch.randn(5, 16)))
    >>> tau.shape, bool(((tau > 0.1) & (tau < 0.4)).all())
    (torch.Size([5, 5]), True)
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 32,
        *,
        lo: float = 0.05,
        hi: float = 2.0,
        start: float = 0.2,
        form: str = "product",
    ) -> None:
        super().__init__()
        _check_range(lo, hi)
        if form not in ("product", "concatenated"):
            raise ValueError(f'form must be "product" or "concatenated", got {form!r}')
        if min(dim, hidden) < 1:
            raise ValueError(f"dim and hidden must be at least 1, got {dim} and {hidden}")
        self.dim, self.lo, self.hi, self.form = dim, lo, hi, form
        wide, out = (dim, hidden) if form == "product" else (2 * dim, 1)
        self.phi = nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, out, bias=False))
        self.bias = nn.Parameter(torch.tensor(start_bias(lo, hi, start)))

    def forward(self, z: Float[Tensor, "batch d"], other: Float[Tensor, "others d"] | None = None) -> Tensor:
        z, other = (side.to(self.bias.dtype) for side in (z, z if other is None else other))
        check_embeddings(z=z, other=other, values=False)
        if z.shape[1] != self.dim:
            raise ValueError(f"embeddings must be [rows, {self.dim}], got {list(z.shape)}")
        if self.form == "product":
            return pair_temperature(z, self.phi, self.lo, self.hi, other=other, bias=self.bias)
        # The first layer of phi([z_i, z_j]) is a sum of z_i's part and of z_j's.
        first, rest = self.phi[0], self.phi[1:]
        mine, theirs = F.linear(z, first.weight[:, : self.dim], first.bias), other @ first.weight[:, self.dim :].T

        def strip(part: slice) -> Tensor:
            return rest(mine[part, None] + theirs)[..., 0]

        found = torch.cat(of_strips(strip, len(mine), max(1, ELEMENTS // max(1, theirs.numel()))))
        tau = self.lo + (self.hi - self.lo) * torch.sigmoid(found + self.bias)
        look(tau, z=z, other=other)
        return tau


@renamed(tau="temperature")
def temperature_penalty(temperature: Float[Tensor, "*pairs"], dim: int) -> Float[Tensor, "*pairs"]:
    """d/2 log tau + 1/tau for every pair; least at tau = 2/d.

    >>> temperature_penalty(torch.tensor([1.0]), 16)
    tensor([1.])
    """
    check_positive(temperature, "temperature")
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    return pair_penalty(temperature, dim)


def pair_penalty(tau: Tensor, dim: int) -> Tensor:
    return dim / 2 * tau.log() + 1 / tau


def _check_range(lo: float, hi: float) -> None:
    if not 0 < lo <= hi < math.inf:
        raise ValueError(f"temperatures need 0 < lo <= hi, both finite, got lo {lo} and hi {hi}")
