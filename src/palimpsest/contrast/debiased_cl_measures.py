"""What labels tell of false negatives: the loss without them, and how far the negative term is off (Chuang et al. 2020,
arXiv 2007.00224)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast import streaming
from palimpsest.contrast.debiased_cl import look_at, terms_of
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.input_checks import check_labels, check_pairs, one_number
from palimpsest.contrast.precision import wide_dtype
from palimpsest.contrast.streaming import Pairs
from palimpsest.renamed import renamed


@renamed(z1="query", z2="key")
def oracle_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    labels: Int[Tensor, " batch"],
    temperature: float | Tensor = 0.5,
    *,
    rescaled: bool = True,
) -> Float[Tensor, ""]:
    """NT-Xent with the negatives of the anchor's own class removed: what the debiased loss estimates without labels.

    Args:
        query, key, temperature: as for `debiased_loss`.
        labels: the class of every sample.
        rescaled: true negatives, of which a batch has fewer than N, stand for all N: their sum is N times their mean,
            as in Eq. 8. Otherwise it is their plain sum. An anchor that has no true negative has loss 0.

    >>> z = torch.eye(4)
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> torch.allclose(oracle_loss(z, z, labels, 1.0, rescaled=False), torch.log(1 + 4 / torch.tensor(1.0).exp()))
    True
    """
    check_pairs(least=2, query=query, key=key, values=False)
    y = check_labels(labels, len(query)).to(query.device).repeat(2)  # of both views
    factor = torch.ones(len(y), dtype=torch.float64, device=y.device)
    if rescaled:
        factor = (len(y) - 2) / _others(y).clamp(min=1).double()
    factor = factor.to(wide_dtype(query))
    return nt_xent(query, key, temperature, pair_weights=lambda part, _: (y[part, None] != y) * factor[part, None])


class Gap(NamedTuple):
    """How far the negative term e^{s} of the mean anchor is from that of true negatives, its sign kept.

    Attributes:
        biased: with all other samples as negatives, minus the true one.
        debiased: g above, minus the true one.
        true: the term itself, for scale.
    """

    biased: Float[Tensor, ""]
    debiased: Float[Tensor, ""]
    true: Float[Tensor, ""]


@renamed(z1="query", z2="key")
@torch.no_grad()
def bias_gap(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    labels: Int[Tensor, " batch"],
    tau_plus: float = 0.1,
    temperature: float | Tensor = 0.5,
) -> Gap:
    """The bias of the negative term a negative, measured with labels, and what is left of it after the correction.

    Terms are averaged over anchors in float64; anchors without a true negative are left out. Arguments as for
    `debiased_loss` and `oracle_loss`.

    Raises:
        ValueError: no anchor has a negative of another class, and what `debiased_loss` raises.

    >>> z = F.normalize(torch.randn(20, 8))
    >>> gap = bias_gap(z, z, torch.arange(20) % 2, tau_plus=0.0)
    >>> bool(gap.biased == gap.debiased)
    True
    """
    check_pairs(least=2, query=query, key=key)
    y = check_labels(labels, len(query)).to(query.device).repeat(2)  # of both views
    others = _others(y)
    if not others.any():
        raise ValueError(f"bias_gap needs samples of two classes, got only {int(y[0])}")
    query, key, temperature = query.double(), key.double(), one_number(temperature, "temperature")
    if not temperature > 1 / 700:
        raise ValueError(f"temperature must be above 1/700 for terms that float64 can hold, got {float(temperature)}")
    log_n = math.log(len(y) - 2)
    biased, debiased = (log_negative_term(query, key, prior, temperature) - log_n for prior in (0.0, tau_plus))
    z = F.normalize(torch.cat([query, key]), dim=1)
    different = Pairs(keep=lambda part, _: y[part, None] != y)
    true = streaming.logsumexp(z / temperature, z, pairs=different)[0] - others.double().log()
    biased, debiased, true = (term[others > 0].exp().mean() for term in (biased, debiased, true))
    return Gap(biased - true, debiased - true, true)


def _others(y: Tensor) -> Tensor:
    """How many views are of another class than each."""
    ordered = y.sort().values
    return len(y) - (torch.searchsorted(ordered, y, right=True) - torch.searchsorted(ordered, y))


@renamed(z1="query", z2="key")
def log_negative_term(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    tau_plus: float = 0.1,
    temperature: float | Tensor = 0.5,
    *,
    more: Float[Tensor, "more batch d"] | None = None,
    beta: float = 0.0,
    rows: int | None = None,
) -> Float[Tensor, " two_batch"]:
    """log(N g_i) of every anchor, the first view's first. Arguments as for the losses.

    >>> far = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # as far from each other as can be: the floor, N e^{-1/t}
    >>> log_negative_term(far, far, tau_plus=0.3, temperature=1.0).exp() / 2
    tensor([0.3679, 0.3679, 0.3679, 0.3679])
    """
    terms = terms_of(query, key, tau_plus, temperature, more, beta, rows)[1]
    look_at(terms, query, key, more)
    return terms
