"""Losses of logits and labels that methods for frequent and rare classes, wrong labels and sets of candidates are
compared with. Softmaxes are taken in float32 at least."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def logit_adjusted_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    counts: Int[Tensor, " classes"],
    tau: float = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of logits + tau log prior, with the prior of the training rows: the frequent classes' advantage is
    given in training, and so is not learned. With tau = 1 what is learned minimises the balanced error.

    Menon et al. (2021, arXiv 2007.07314), equation 10.

    Args:
        counts: training rows of each class; a class without any counts as if it had one.
        tau: how much of the prior, not negative; 0 is cross-entropy.

    Raises:
        ValueError: counts that do not fit the logits, or a negative tau.

    >>> logits, labels = torch.zeros(1, 2), torch.tensor([1])
    >>> round(logit_adjusted_cross_entropy(logits, labels, torch.tensor([3, 1])).exp().item(), 4)  # 1 / prior
    4.0
    """
    counts = _counts(logits, counts)
    if not tau >= 0:
        raise ValueError(f"tau must not be negative, got {tau}")
    return F.cross_entropy(logits + tau * (counts / counts.sum()).log(), labels)


def class_balanced_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    counts: Int[Tensor, " classes"],
    beta: float = 0.999,
) -> Float[Tensor, ""]:
    """Cross-entropy with weights (1 - beta) / (1 - beta^n) for a class of n training rows, scaled so that the classes'
    mean weight is 1; the mean over rows. As beta goes to 1 the weights go to 1 / n.

    Cui et al. (2019, arXiv 1901.05555), equation 2.

    Args:
        counts: training rows of each class; a class without any counts as if it had one.
        beta: in [0, 1); 0 is cross-entropy.

    Raises:
        ValueError: counts that do not fit the logits, or a beta out of its range.

    >>> logits, labels = torch.zeros(1, 2), torch.tensor([1])
    >>> loss = class_balanced_cross_entropy(logits, labels, torch.tensor([3, 1]), beta=0.5)
    >>> round((loss / F.cross_entropy(logits, labels)).item(), 4)  # of the weights 4 / 7 and 1
    1.2727
    """
    counts = _counts(logits, counts)
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    weights = (1 - beta) / (1 - beta**counts)
    weights = weights / weights.mean()
    return (weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()


def generalized_cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], q: float = 0.7
) -> Float[Tensor, ""]:
    """(1 - p^q) / q, with p the probability of the label: cross-entropy as q goes to 0, the absolute error, which wrong
    labels cannot mislead when they are symmetric, at q = 1.

    Zhang and Sabuncu (2018, arXiv 1805.07836), equation 6.

    Args:
        q: in (0, 1].

    Raises:
        ValueError: a q out of its range.

    >>> generalized_cross_entropy(torch.zeros(1, 4), torch.tensor([2]), q=0.5)  # (1 - 1 / 2) / 0.5
    tensor(1.)
    """
    if not 0 < q <= 1:
        raise ValueError(f"q must be in (0, 1], got {q}")
    log_p = -F.cross_entropy(_wide(logits), labels, reduction="none")
    return -(torch.expm1(q * log_p) / q).mean()


def candidate_cross_entropy(
    logits: Float[Tensor, "batch classes"], candidates: Bool[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """-log sum of the probabilities of a row's candidates: cross-entropy where there is one candidate.

    Feng et al. (2020, arXiv 2007.08929), equation 13, the classifier-consistent loss of partial labels.

    Raises:
        ValueError: shapes that differ, or a row without candidates.

    >>> candidate_cross_entropy(torch.zeros(1, 4), torch.tensor([[True, True, False, False]])).exp()
    tensor(2.)
    """
    candidates = _candidates(logits, candidates)
    log_p = _wide(logits).log_softmax(1)
    return -log_p.masked_fill(~candidates, -torch.inf).logsumexp(1).mean()


def average_candidate_cross_entropy(
    logits: Float[Tensor, "batch classes"], candidates: Bool[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Cross-entropy with each of a row's candidates in turn, averaged: the candidates are taken for equally true.

    Raises:
        ValueError: shapes that differ, or a row without candidates.

    >>> average_candidate_cross_entropy(torch.zeros(1, 4), torch.tensor([[True, True, False, False]])).exp()
    tensor(4.)
    """
    candidates = _candidates(logits, candidates)
    return F.cross_entropy(_wide(logits), candidates / candidates.sum(1, keepdim=True))


def weak_negative_cross_entropy(
    logits: Float[Tensor, "batch labels"], labels: Int[Tensor, "batch labels"], weight: float = 1.0
) -> Float[Tensor, ""]:
    """Binary cross-entropy in which a label that was not observed is taken for absent, with a weight: the mean over
    rows and labels. Weight 1 is binary cross-entropy; 1 / (labels - 1) makes up for one observed positive of many.

    Cole et al. (2021, arXiv 2106.09708), equations 3 ("assume negative") and 4 ("weak assume negative").

    Args:
        labels: 1 where a label was observed, 0 elsewhere.
        weight: of what was not observed, not negative.

    Raises:
        ValueError: shapes that differ, or a negative weight.

    >>> loss = weak_negative_cross_entropy(torch.zeros(1, 4), torch.tensor([[0, 1, 0, 0]]), weight=1 / 3)
    >>> round((loss / torch.tensor(2.0).log()).item(), 4)  # (1 + 3 / 3) / 4
    0.5
    """
    if labels.shape != logits.shape:
        raise ValueError(f"labels must be {list(logits.shape)} like the logits, got {list(labels.shape)}")
    if not weight >= 0:
        raise ValueError(f"weight must not be negative, got {weight}")
    logits, labels = _wide(logits), labels.to(logits)
    return -(labels * F.logsigmoid(logits) + weight * (1 - labels) * F.logsigmoid(-logits)).mean()


def _counts(logits: Tensor, counts: Tensor) -> Tensor:
    if counts.shape != logits.shape[1:]:
        raise ValueError(f"counts must be [{logits.shape[1]}], one a class, got {list(counts.shape)}")
    return counts.to(logits.device, torch.promote_types(logits.dtype, torch.float32)).clamp(min=1)


def _candidates(logits: Tensor, candidates: Tensor) -> Tensor:
    if candidates.shape != logits.shape:
        raise ValueError(f"candidates must be {list(logits.shape)} like the logits, got {list(candidates.shape)}")
    if not bool(candidates.any(1).all()):
        raise ValueError(f"row {int((~candidates.any(1)).nonzero()[0])} has no candidate")
    return candidates.bool()


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
