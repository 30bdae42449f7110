"""Answers that are withheld: the three ways to build a rejector (Hendrickx et al. 2021, arXiv 2107.11277, a survey).

A separated rejector looks at the input alone, before the predictor, and knows what is novel
(`palimpsest.classify.reject_option_novelty`). A dependent one looks at what the predictor says, and knows what is
ambiguous. An integrated one is learned with the predictor (`palimpsest.classify.reject_option_integrated`). All give a
score, high where an answer is trusted, and answer where it is not below a threshold that is chosen on validation rows;
`palimpsest.metrics.rejection` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Trust = Literal["probability", "margin", "entropy", "energy"]


def trust(logits: Float[Tensor, "batch classes"], kind: Trust = "probability") -> Float[Tensor, " batch"]:
    """How far a predictor's own output is to be trusted: its largest probability; the margin between its two largest;
    minus its entropy; or minus its energy, which is log sum exp of the logits.

    Raises:
        ValueError: logits of fewer than two classes, or an unknown kind.

    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 1.0986123]])
    >>> trust(logits), trust(logits, "margin"), trust(logits, "energy").exp()
    (tensor([0.5000, 0.7500]), tensor([0.0000, 0.5000]), tensor([2., 4.]))
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"need logits [batch, two classes or more], got {list(logits.shape)}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    p = logits.softmax(1)
    if kind == "probability":
        return p.max(1).values
    if kind == "margin":
        first, second = p.topk(2, dim=1).values.unbind(1)
        return first - second
    if kind == "entropy":
        return -torch.special.entr(p).sum(1)
    if kind == "energy":
        return logits.logsumexp(1)
    raise ValueError(f"kind must be probability, margin, entropy or energy, got {kind!r}")


def agreement(probabilities: Float[Tensor, "members batch classes"]) -> Float[Tensor, " batch"]:
    """Minus the disagreement of an ensemble: the mean divergence of its members from their mean (mutual information).

    >>> agreement(torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]))  # 0 and -log 2
    tensor([ 0.0000, -0.6931])
    """
    mean = torch.special.entr(probabilities.mean(0)).sum(1)
    return torch.special.entr(probabilities).sum(2).mean(0) - mean


def chow(probabilities: Float[Tensor, "batch classes"], cost: float) -> Bool[Tensor, " batch"]:
    """Which rows to reject where a rejection costs `cost` of an error and the probabilities are true: those whose
    chance of an error is larger (Chow 1970).

    Raises:
        ValueError: a cost out of [0, 1].

    >>> chow(torch.tensor([[0.6, 0.4], [0.9, 0.1]]), cost=0.3)
    tensor([ True, False])
    """
    if not 0 <= cost <= 1:
        raise ValueError(f"cost must be in [0, 1], got {cost}")
    return 1 - probabilities.max(1).values > cost


def fit_threshold(
    scores: Float[Tensor, " n"],
    right: Bool[Tensor, " n"],
    *,
    budget: float | None = None,
    cost: float | None = None,
    accuracy: float | None = None,
) -> float:
    """The threshold below which rows are rejected, chosen on validation rows; rows of one score stay together.

    Args:
        scores: high where an answer is trusted.
        right: whether it is right.
        budget: the largest share of rows that may be rejected: the threshold that rejects as many as it allows.
        cost: of a rejection, in errors: the threshold of the lowest cost, the lowest of these.
        accuracy: of the rows that are answered: the lowest threshold that reaches it, infinity where none does.

    Raises:
        ValueError: shapes that do not fit, or not exactly one of the three aims.

    >>> scores, right = torch.tensor([0.9, 0.8, 0.6, 0.5]), torch.tensor([True, True, True, False])
    >>> [round(fit_threshold(scores, right, **aim), 1) for aim in ({"budget": 0.5}, {"cost": 0.3}, {"accuracy": 1.0})]
    [0.8, 0.6, 0.6]
    """
    if scores.shape != right.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"need as many scores as answers, at least one, got {scores.shape} and {right.shape}")
    if sum(aim is not None for aim in (budget, cost, accuracy)) != 1:
        raise ValueError("give one of budget, cost and accuracy")
    values, place, size = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    wrong = torch.zeros(len(values) + 1, dtype=torch.float64).index_add_(0, place, (~right.bool()).double())
    thresholds = torch.cat([values, values.new_tensor([torch.inf])])
    n = len(scores)
    rejected = torch.cat([size.new_zeros(1), size.cumsum(0)]).double()  # by each threshold
    errors = wrong.flip(0).cumsum(0).flip(0)  # that are answered at it
    if budget is not None:
        best = int((rejected <= budget * n + 1e-9).nonzero()[-1])
    elif cost is not None:
        best = int((errors + cost * rejected).argmin())
    else:
        reached = (1 - errors / (n - rejected) >= accuracy).nonzero()
        best = int(reached[0]) if len(reached) else len(values)
    return float(thresholds[best])


@dataclass(frozen=True)
class Rejector:
    """Answers where every one of its scores is at its threshold or above: a filter for what is novel, then one for
    what is ambiguous, or one of them alone.

    >>> sure = Rejector(scores=(lambda x: trust(x),), thresholds=(0.6,))
    >>> sure.rejects(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
    tensor([ True, False])
    """

    scores: tuple[Callable[[Tensor], Tensor], ...]
    thresholds: tuple[float, ...]

    def rejects(self, x: Tensor) -> Bool[Tensor, " batch"]:
        below = [score(x) < at for score, at in zip(self.scores, self.thresholds, strict=True)]
        return torch.stack(below).any(0)
