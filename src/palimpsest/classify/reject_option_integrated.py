"""Rejectors that are learned with their predictor, of those that a survey names (Hendrickx et al. 2021, arXiv
2107.11277): a selection head at a target coverage (Geifman and El-Yaniv 2019, arXiv 1901.09192), and a class more for
not answering (Liu et al. 2019, arXiv 1907.00208)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.classify.logits import checked
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost


def selective_loss(
    logits: Float[Tensor, "batch classes"],
    selection: Float[Tensor, " batch"],
    labels: Int[Tensor, " batch"],
    coverage: float = 0.8,
    weight: float = 32.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of the rows that are selected, and `weight` times the square of what coverage is short of its
    target.

    Args:
        selection: logits of answering; their sigmoids weigh the rows.

    Raises:
        ValueError: shapes or labels that do not fit, or a coverage that is not in (0, 1].

    >>> logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    >>> round(selective_loss(logits, torch.zeros(2), labels, coverage=0.75).item(), 4)  # log 2 + 32 / 16
    2.6931
    """
    if selection.shape != labels.shape or not 0 < coverage <= 1:
        raise ValueError(f"need a selection for each of {len(labels)} rows and coverage in (0, 1], got {coverage}")
    own = F.cross_entropy(checked(logits, labels), labels, reduction="none")
    share = selection.to(own).sigmoid()
    risk = (share * own).sum() / share.sum().clamp(min=torch.finfo(own.dtype).tiny)
    return risk + weight * (coverage - share.mean()).clamp(min=0).square()


def abstain_loss(
    logits: Float[Tensor, "batch classes+1"], labels: Int[Tensor, " batch"], odds: float = 2.0
) -> Float[Tensor, ""]:
    """-log(p_y + p_abstain / odds), where the last output is that of not answering: a bet that gives the stake back
    in part. Probabilities of not answering are what rows are then ordered by.

    Args:
        odds: above 1; the larger, the less is abstained.

    Raises:
        ValueError: shapes or labels that do not fit, a label that is the last output, or odds that are not above 1.

    >>> abstain_loss(torch.zeros(1, 3), torch.tensor([0]), odds=2.0).exp()  # 1 / (1/3 + 1/6)
    tensor(2.)
    """
    logits = checked(logits, labels, classes=3)
    if int(labels.max()) == logits.shape[1] - 1:
        raise ValueError(f"the last output is that of not answering: labels must be below {logits.shape[1] - 1}")
    if not odds > 1:
        raise ValueError(f"odds must be above 1, got {odds}")
    log_p = logits.log_softmax(1)
    stake = log_p[:, -1] - torch.tensor(odds, dtype=log_p.dtype).log()
    return -torch.logaddexp(log_p.gather(1, labels[:, None])[:, 0], stake).mean()


class SelectiveHeads(nn.Module):
    """A body with three heads: one that predicts, one that selects, and an auxiliary one that keeps the body learning
    from the rows that are not selected.

    >>> heads = SelectiveHeads(nn.Identity(), 4, 3)
    >>> [tuple(each.shape) for each in heads(torch.zeros(2, 4))]
    [(2, 3), (2,), (2, 3)]
    """

    def __init__(self, body: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.predict, self.auxiliary = nn.Linear(features, classes), nn.Linear(features, classes)
        self.select = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """logits, selection logits and auxiliary logits of a batch."""
        features = self.body(x)
        return self.predict(features), self.select(features)[:, 0], self.auxiliary(features)


@dataclass(frozen=True)
class SelectiveNet(Objective):
    """Train `SelectiveHeads`: half the selective loss, half the auxiliary head's cross-entropy."""

    coverage: Annotated[float, Above(0), AtMost(1)] = 0.8
    """The share of rows that should be answered."""
    weight: Annotated[float, AtLeast(0)] = 32.0
    """Of the square of what is missing."""
    auxiliary: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    """The share of the auxiliary head's loss."""

    def loss(self, state: None, model: SelectiveHeads, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        logits, selection, beside = model(batch["pixel_values"] if "pixel_values" in batch else batch["x"])
        labels = batch["labels"]
        return {
            "selective": (1 - self.auxiliary) * selective_loss(logits, selection, labels, self.coverage, self.weight),
            "auxiliary": self.auxiliary * F.cross_entropy(beside, labels),
        }
