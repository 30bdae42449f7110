"""Debiased contrastive learning (Chuang, Robinson, Lin, Torralba and Jegelka, 2020, arXiv 2007.00224).

Other samples of a batch serve as negatives, but a share tau+ of them is of the anchor's own class: they are pushed away
although they belong near. A negative drawn from all samples is a mixture, p = tau+ p+ + (1 - tau+) p-, so the term
that true negatives would give can be had without labels, by taking the expected part of the positives off:

    g_i = max( (mean_j e^{s_ij} - tau+ mean_m e^{s_im}) / (1 - tau+), e^{-1/t} )                            (Eq. 7)
    l_i = -log( e^{p_i} / (e^{p_i} + N g_i) ),    s_ij = z_i . z_j / t,  p_i the score of the partner,      (Eq. 8)

over the N = 2 batch - 2 views of other samples and M positives of the anchor. e^{-1/t} is the least that a mean of e^s
over unit vectors can be. The correction takes views of a sample to be spread as its whole class is; where views are
nearer to each other than that, it takes off too much. With tau+ = 0 it is NT-Xent.

The negative sum is a log-sum-exp over pairs, streamed by `palimpsest.contrast.streaming`: no array of the batch by the
batch is held. Everything is done in logarithms, so that low temperatures do not overflow.

The variant with weights on hard negatives is of Robinson, Chuang, Sra and Jegelka (2021, arXiv 2010.04592).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast import streaming
from palimpsest.contrast.input_checks import check_pairs, check_positive, look, one_number
from palimpsest.contrast.precision import wide_dtype
from palimpsest.contrast.streaming import Pairs
from palimpsest.lazy import front_door
from palimpsest.renamed import renamed


@renamed(z1="query", z2="key")
def debiased_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    tau_plus: float = 0.1,
    temperature: float | Tensor = 0.5,
    *,
    more: Float[Tensor, "more batch d"] | None = None,
    rows: int | None = None,
) -> Float[Tensor, ""]:
    """mean_i of l_i above, over both views of every sample; embeddings are brought to norm 1.

    Args:
        query, key: two views of the same samples, row by row; at least two samples.
        tau_plus: the chance that a negative is of the anchor's class (for balanced classes one over their number),
            from 0 to below 1.
        temperature: above 0; a tensor of one element gets a gradient.
        more: further views of the samples, for the correction alone: with them M = 1 + more. (The partner of an anchor
            stays its one positive in the numerator, as in Eq. 8.)
        rows: of a strip of scores; by default what stays in cache.

    Raises:
        ValueError, TypeError: embeddings that do not fit each other or are not finite, fewer than two samples, a
            prior or a temperature out of range.

    >>> from palimpsest.contrast import nt_xent
    >>> query, key = torch.randn(6, 4), torch.randn(6, 4)
    >>> torch.allclose(debiased_loss(query, key, tau_plus=0.0), nt_xent(query, key, 0.5), atol=1e-6)
    True
    """
    return hard_debiased_loss(query, key, 0.0, tau_plus, temperature, more=more, rows=rows)


@renamed(z1="query", z2="key")
def hard_debiased_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    beta: float = 1.0,
    tau_plus: float = 0.1,
    temperature: float | Tensor = 0.5,
    *,
    more: Float[Tensor, "more batch d"] | None = None,
    rows: int | None = None,
) -> Float[Tensor, ""]:
    """As `debiased_loss`, with mean_j e^{s_ij} weighted towards near negatives: sum_j w_ij e^{s_ij}, w_ij =
    softmax_j(beta s_ij).

    The weights are of the scores as they stand in the exponent, cosine over temperature, and get a gradient too. Their
    mean is sum_j e^{(1 + beta) s_ij} / sum_j e^{beta s_ij}, two streamed log-sum-exps. With beta = 0 it is
    `debiased_loss`. Arguments as there, and beta, at least 0: how much harder negatives count more.

    >>> query, key = torch.randn(6, 4), torch.randn(6, 4)
    >>> bool(hard_debiased_loss(query, key, beta=2.0) > debiased_loss(query, key))
    True
    """
    if not (beta >= 0 and math.isfinite(beta)):
        raise ValueError(f"beta must be at least 0 and finite, got {beta}")
    positive, negatives = terms_of(query, key, tau_plus, temperature, more, beta, rows)
    loss = F.softplus(negatives - positive).mean()  # -log(e^p / (e^p + e^n)) = log(1 + e^{n - p})
    look_at(loss, query, key, more)
    return loss


def terms_of(query, key, tau_plus, temperature, more, beta, rows) -> tuple[Tensor, Tensor]:
    """Every anchor's positive score, and log(N g); values are looked at by the caller."""
    check_pairs(least=2, query=query, key=key, values=False)
    check_positive(temperature, "temperature")
    temperature = one_number(temperature, "temperature")
    if not 0 <= tau_plus < 1:
        raise ValueError(f"tau_plus must be from 0 to below 1, got {tau_plus}")
    wide = wide_dtype(query)
    z = F.normalize(torch.cat([query, key]).to(wide), dim=1)
    scaled = z / temperature
    own = torch.arange(len(z), device=z.device)
    partner = own.roll(len(query))
    n = len(z) - 2

    positive = (scaled * z[partner]).sum(1)
    positives = positive[None]
    if more is not None:
        if more.ndim != 3 or more.shape[1:] != query.shape:
            raise ValueError(f"more must be [views, {', '.join(map(str, query.shape))}], got {list(more.shape)}")
        check_pairs(values=False, **_numbered(more), query=query)
        further = F.normalize(more.to(wide), dim=2)
        positives = torch.cat([positives, (scaled * torch.cat([further, further], 1)).sum(2)])
    mean_positive = positives.logsumexp(0) - math.log(len(positives))

    negatives = Pairs(left_out=torch.stack([own, partner], 1))
    total = streaming.logsumexp(scaled * (1 + beta), z, pairs=negatives, rows=rows)[0]
    if beta:
        total = total - streaming.logsumexp(scaled * beta, z, pairs=negatives, rows=rows)[0] + math.log(n)

    floor = torch.as_tensor(math.log(n) - 1 / temperature, dtype=wide, device=z.device)
    if not tau_plus:
        return positive, total  # a mean is never below the least
    # log(e^total - N tau+ e^mean_positive), where that is a number; elsewhere the floor is taken.
    log_share = mean_positive + math.log(n * tau_plus) - total
    left = log_share < 0
    corrected = total + (-torch.expm1(log_share.where(left, -torch.inf))).log() - math.log(1 - tau_plus)
    return positive, torch.maximum(corrected.where(left, -torch.inf), floor)


def look_at(result: Tensor, query: Tensor, key: Tensor, more: Tensor | None) -> None:
    look(result, **({} if more is None else _numbered(more)), query=query, key=key)


def _numbered(more: Tensor) -> dict[str, Tensor]:
    return {f"more[{number}]": view for number, view in enumerate(more)}


_MOVED = {"contrast.debiased_cl_measures": ("Gap", "bias_gap", "log_negative_term", "oracle_loss")}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
