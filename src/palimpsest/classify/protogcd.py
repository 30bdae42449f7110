"""ProtoGCD: some classes are labelled, others are in the same rows without a name, and one set of prototypes learns
both (Ma et al. 2025, arXiv 2504.03755).

Every class, old or new, is a unit vector; a row's logits are its cosines with them. What one view of a row is said to
be teaches the other: softly at first, and with certainty for a share of rows that grows, those whose first answer is
furthest above the second (dual-level adaptive pseudo-labels). Two regularisers keep the new classes from dying or from
falling together:

    entropy_reg = sum_k pbar_k log pbar_k + log K,      pbar = the batch's mean answer
    separation  = mean_k log mean_{j != k} exp(mu_k . mu_j / 0.1)
    L = 0.65 (self-labels + 2 entropy_reg + 0.1 separation) + 0.35 CE + 0.65 SimCLR + 0.35 SupCon
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

SHARP = 0.1  # temperature of answers, and of the cosines between prototypes


def pseudo_labels(
    cosines: Float[Tensor, "batch classes"], certain: float, teacher: float = 0.05
) -> Float[Tensor, "batch classes"]:
    """What rows are taken for, detached: softmax at the teacher's temperature, and one class alone for the share
    `certain` of rows (rounded down) whose likeliest class is most times as likely as the second.

    Raises:
        ValueError: fewer than two classes, or a share out of [0, 1].

    >>> pseudo_labels(torch.tensor([[0.1, 0.0], [0.9, 0.0]]), certain=0.5, teacher=0.1).round(decimals=2)
    tensor([[0.7300, 0.2700],
            [1.0000, 0.0000]])
    """
    if cosines.ndim != 2 or cosines.shape[1] < 2 or not 0 <= certain <= 1:
        raise ValueError(f"need cosines [batch, two classes] and a share in [0, 1], got {cosines.shape} and {certain}")
    soft = (cosines.detach() / teacher).softmax(1)
    first, second = soft.topk(2, dim=1).values.unbind(1)
    surest = (first / (second + 1e-6)).topk(int(certain * len(soft))).indices
    return soft.index_copy(0, surest, F.one_hot(soft[surest].argmax(1), soft.shape[1]).to(soft))


def self_label_loss(
    first: Float[Tensor, "batch classes"], second: Float[Tensor, "batch classes"], certain: float
) -> Float[Tensor, ""]:
    """Cross-entropy of each view's answers, sharpened, with what the other view is taken for.

    >>> torch.isclose(self_label_loss(torch.zeros(1, 4), torch.zeros(1, 4), certain=0.0).exp(), torch.tensor(4.0))
    tensor(True)
    """
    terms = [
        -(pseudo_labels(a, certain) * (b / SHARP).log_softmax(1)).sum(1).mean()
        for a, b in ((first, second), (second, first))
    ]
    return (terms[0] + terms[1]) / 2


def entropy_reg(cosines: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """log K less the entropy of the mean answer: 0 where every class is answered alike, log K where one is alone.

    >>> entropy_reg(torch.eye(3)).abs() < 1e-6
    tensor(True)
    """
    mean = (cosines / SHARP).softmax(1).mean(0)
    return math.log(len(mean)) - torch.special.entr(mean).sum()


def separation(prototypes: Float[Tensor, "classes d"]) -> Float[Tensor, ""]:
    """How near the unit prototypes are to each other; least where they are spread evenly.

    >>> separation(torch.eye(2)), separation(torch.ones(2, 1))
    (tensor(0.), tensor(10.))
    """
    unit = F.normalize(prototypes, dim=1)
    near = (unit @ unit.T / SHARP).fill_diagonal_(-torch.inf)
    return (near.logsumexp(1) - math.log(len(unit) - 1)).mean()


def contrast(
    first: Float[Tensor, "batch d"], second: Float[Tensor, "batch d"], labels: Int[Tensor, " batch"], temperature: float
) -> Float[Tensor, ""]:
    """Supervised contrast of two views (Khosla et al. 2020): each of all 2 B rows is to be near those of its label.
    With a label of its own for each row it is SimCLR.

    >>> views = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> round(contrast(views, views, torch.tensor([0, 1]), 1.0).item(), 4)  # log (e + 2) - 1
    0.5514
    """
    z, y = F.normalize(torch.cat([first, second]), dim=1), torch.cat([labels, labels])
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_p = (z @ z.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    same = (y[:, None] == y) & ~itself
    return -(log_p.masked_fill(~same, 0).sum(1) / same.sum(1)).mean()
