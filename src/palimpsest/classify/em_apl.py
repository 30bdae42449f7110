"""Entropy maximization and asymmetric pseudo-labels for one observed positive a row (Zhou, Chen and others, 2022, arXiv
2203.16219).

Where one positive of each row was observed, to take all other labels for absent teaches that the hidden positives are
absent. They are acknowledged as unknown instead: on them the entropy of what is said is maximised, which pulls little
where the network is sure and nothing where it does not know. Then, epoch by epoch, those that are said to be least
likely become negatives with the probability that the network gave them; no unknown label ever becomes a positive.

    observed positives:  -log p                      unknown:  -alpha H(p)                         (Eq. 2, 4)
    pseudo-negatives:    -beta [ q log p + (1 - q) log(1 - p) ],  q the probability when it was chosen    (Eq. 7)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.losses.multilabel import alike
from palimpsest.models.forward import evaluating
from palimpsest.train.classification import logits_of
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost, require

EPS = 1e-5  # the authors', within every logarithm
ROWS = 1024  # at a time, where all are asked


def em_apl_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Float[Tensor, "batch classes"],
    alpha: float = 0.1,
    beta: float = 0.2,
) -> Float[Tensor, ""]:
    """The mean of this over rows and classes, in float32 at least; with beta 0 entropy maximization alone.

    Args:
        labels: 1 an observed positive, 0 unknown, -q (below 0, -1 at least) a negative pseudo-label of probability q.
        alpha: of the unknown labels' entropy, not negative.
        beta: of the pseudo-labels, not negative.

    Raises:
        ValueError: shapes that differ, labels outside [-1, 1], a negative alpha or beta.

    >>> loss = em_apl_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), alpha=0.5)
    >>> round((loss / torch.tensor(2.0).log()).item(), 3)  # (1 - 0.5) / 2
    0.25
    """
    logits, labels = alike(logits, labels)
    if not (alpha >= 0 and beta >= 0):
        raise ValueError(f"alpha and beta must not be negative, got {alpha} and {beta}")
    if labels.numel() and not -1 <= labels.min() <= labels.max() <= 1:
        raise ValueError(f"labels must be in [-1, 1], got {labels.min():g} to {labels.max():g}")
    p = logits.sigmoid()
    log_p, log_not_p = (p + EPS).log(), ((-logits).sigmoid() + EPS).log()
    entropy = -p * log_p - (1 - p) * log_not_p
    pseudo = labels * log_p - (1 + labels) * log_not_p
    return torch.where(labels > 0, -log_p, torch.where(labels < 0, beta * pseudo, -alpha * entropy)).mean()


@torch.no_grad()
def update_pseudo(
    p: Float[Tensor, "rows classes"],
    labels: Float[Tensor, "rows classes"],
    unknown: Float[Tensor, " classes"],
    ratio: float = 0.9,
    epochs: int = 10,
    warmup: int = 5,
) -> Float[Tensor, "rows classes"]:
    """Labels of which, in each class, the unknown ones with the lowest p have become pseudo-negatives -p: as many as
    floor(ratio * unknown / (epochs - warmup)), or all that are left. What is no longer unknown stays.

    Args:
        p: what the network says of all training rows, in eval mode.
        unknown: how many labels of each class were unknown at first.
        ratio: the share of these that has a pseudo-label after epochs - warmup calls.

    Raises:
        ValueError: shapes that differ, a ratio outside [0, 1], no epoch after the warm-up.

    >>> labels = torch.tensor([[1.0], [0.0], [0.0]])
    >>> update_pseudo(torch.tensor([[0.9], [0.2], [0.4]]), labels, torch.tensor([2]), 0.5, epochs=2, warmup=1).T
    tensor([[ 1.0000, -0.2000,  0.0000]])
    """
    if p.shape != labels.shape or unknown.shape != p.shape[1:] or not 0 <= ratio <= 1 or epochs <= warmup:
        raise ValueError(
            f"need p and labels of one shape, a count a class, ratio in [0, 1] and epochs above the warm-up, got "
            f"{list(p.shape)}, {list(labels.shape)}, {list(unknown.shape)}, {ratio}, {epochs} and {warmup}"
        )
    many = (ratio * unknown / (epochs - warmup)).floor()
    place = p.masked_fill(labels != 0, torch.inf).argsort(dim=0, stable=True).argsort(dim=0)
    # a probability of exactly 0 must not read as unknown again
    return torch.where((labels == 0) & (place < many), -p.clamp(min=torch.finfo(p.dtype).tiny), labels)


@dataclass(frozen=True)
class EMAPL(Objective):
    """Training by `em_apl_loss`, with pseudo-labels that are renewed in equal spans of the steps.

    The data is `Labelled` rows whose `y` [n, classes] is 1 where a positive was observed; alpha and beta of the paper:
    0.2 and 0.02 on VOC, 0.1 and 0.9 on COCO, 0.1 and 0.2 on NUS, 0.01 and 0.4 on CUB.
    """

    alpha: Annotated[float, AtLeast(0)] = 0.1
    """Of the unknown labels' entropy."""
    beta: Annotated[float, AtLeast(0)] = 0.2
    """Of the pseudo-labels; 0 for entropy maximization alone."""
    ratio: Annotated[float, AtLeast(0), AtMost(1)] = 0.9
    """The share of the unknown labels that becomes pseudo-negatives."""
    span: Annotated[int, Above(0)] = 30
    """Steps between two choices of pseudo-labels: the paper's epoch."""
    epochs: Annotated[int, AtLeast(2)] = 10
    """Spans in all, of which the last one trains with the last choice."""
    warmup: Annotated[int, Above(0)] = 5
    """Spans before the first choice, at most epochs - 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.warmup < self.epochs, "warmup", self.warmup, f"below epochs, {self.epochs}")

    def init(self, model: nn.Module, data: Any) -> dict[str, Any]:
        labels = data.rows.y.float()
        return {
            "labels": labels,
            "unknown": (labels == 0).sum(0),
            "rows": data.rows,
            "step": torch.zeros((), dtype=torch.long),
        }

    def loss(self, state: dict[str, Any], model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        turn, within = divmod(int(state["step"]), self.span)
        if self.beta and within == 0 and self.warmup <= turn < self.epochs:
            settings = (state["unknown"], self.ratio, self.epochs, self.warmup)
            state["labels"] = update_pseudo(_said(model, state["rows"]), state["labels"], *settings)
        state["step"] = state["step"] + 1
        logits = logits_of(model, batch)
        labels = state["labels"].to(logits.device)[batch["index"].to(logits.device)]
        return {"loss": em_apl_loss(logits, labels, self.alpha, self.beta)}


def _said(model: nn.Module, rows: Any) -> Tensor:
    device = next(model.parameters()).device
    with evaluating(model):
        parts = torch.arange(len(rows)).split(ROWS)
        batches = ({name: value.to(device) for name, value in rows.batch(part).items()} for part in parts)
        return torch.cat([logits_of(model, batch).float().sigmoid() for batch in batches]).cpu()
