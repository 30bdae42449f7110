"""The network of ProtoGCD, its training, and what it is measured by (Ma et al. 2025, arXiv 2504.03755)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.classify.protogcd import SHARP, contrast, entropy_reg, self_label_loss, separation
from palimpsest.metrics.clustering import cluster_acc
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost


class ProtoHead(nn.Module):
    """An encoder, unit prototypes of old and new classes, and the projection that the contrast reads.

    >>> head = ProtoHead(nn.Identity(), features=4, old=2, new=1)
    >>> head(torch.randn(5, 4)).shape, head.project(torch.randn(5, 4)).shape
    (torch.Size([5, 3]), torch.Size([5, 32]))
    """

    def __init__(self, encoder: nn.Module, features: int, old: int, new: int, width: int = 64, out: int = 32) -> None:
        super().__init__()
        self.encoder, self.old = encoder, old
        self.prototypes = nn.Parameter(torch.randn(old + new, features))
        self.projection = nn.Sequential(
            nn.Linear(features, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, out)
        )

    def cosines(self, features: Float[Tensor, "batch d"]) -> Float[Tensor, "batch classes"]:
        return F.normalize(features, dim=1) @ F.normalize(self.prototypes, dim=1).T

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Cosines of rows with all prototypes."""
        return self.cosines(self.encoder(x))

    def project(self, x: Tensor) -> Float[Tensor, "batch out"]:
        return self.projection(self.encoder(x))


@dataclass(frozen=True)
class ProtoGCD(Objective):
    """Train a `ProtoHead` on batches {"first", "second"} (two views) and "labels", -1 where there is none. The authors
    draw labelled rows so that they are half of a batch."""

    ramp: Annotated[int, AtLeast(1)] = 100
    """The step at which all rows are taken for one class alone; half of the training."""
    share: Annotated[float, AtLeast(0), AtMost(1)] = 0.35
    """Of the terms of labelled rows; the others have the rest."""
    entropy_weight: Annotated[float, AtLeast(0)] = 2.0
    """Of the mean answer's entropy."""
    separation_weight: Annotated[float, AtLeast(0)] = 0.1
    """Of the distances between prototypes; 0.05 for classes that are alike."""
    unsupervised_temperature: Annotated[float, Above(0)] = 1.0
    """Of SimCLR."""
    supervised_temperature: Annotated[float, Above(0)] = 0.07
    """Of the supervised contrast."""

    def init(self, model: nn.Module, data: Any) -> dict[str, Tensor]:
        return {"step": torch.zeros((), dtype=torch.long)}

    def loss(self, state: dict[str, Tensor], model: ProtoHead, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        certain = min(1.0, float(state["step"]) / self.ramp)
        state["step"] += 1
        features = [model.encoder(batch[name]) for name in ("first", "second")]
        first, second = (model.cosines(each) for each in features)
        views = [model.projection(each) for each in features]
        labels = batch["labels"]
        known, alone = labels >= 0, torch.arange(len(labels), device=labels.device)
        free, bound = 1 - self.share, self.share
        terms = {
            "self labels": free * self_label_loss(first, second, certain),
            "entropy": free * self.entropy_weight * entropy_reg(torch.cat([first, second])),
            "separation": free * self.separation_weight * separation(model.prototypes),
            "contrast": free * contrast(*views, alone, self.unsupervised_temperature),
        }
        if known.any():
            both, named = torch.cat([first[known], second[known]]), labels[known]
            terms["labels"] = bound * F.cross_entropy(both / SHARP, torch.cat([named, named]))
            of_known = [each[known] for each in views]
            terms["supervised contrast"] = bound * contrast(*of_known, named, self.supervised_temperature)
        return terms


def gcd_accuracy(answers: Int[Tensor, " n"], labels: Int[Tensor, " n"], old: int) -> dict[str, float]:
    """The share of rows that is right under one matching of prototypes and classes: of "all", and of the rows of the
    first `old` classes and of the others.

    >>> gcd_accuracy(torch.tensor([2, 2, 0, 1]), torch.tensor([0, 0, 1, 1]), old=1)
    {'all': 0.75, 'old': 1.0, 'new': 0.5}
    """
    first = torch.arange(int(labels.max()) + 1) < old
    return cluster_acc(answers, labels, {"old": first, "new": ~first})


def prototype_score(features: Float[Tensor, "n d"], prototypes: Float[Tensor, "k d"]) -> float:
    """How near rows are to their own prototype, less how near prototypes are to the nearest other: mean cosines, of
    which a negative one counts as 0, since two classes need not be opposite. The authors name the two parts and publish
    no script; the nearest other is our reading.

    >>> prototype_score(torch.eye(2), torch.eye(2))
    1.0
    """
    rows, unit = F.normalize(features.double(), dim=1), F.normalize(prototypes.double(), dim=1)
    near = (unit @ unit.T).fill_diagonal_(0.0).clamp(min=0)
    return float((rows @ unit.T).max(1).values.mean() - near.max(1).values.mean())


def estimate_k(features: Float[Tensor, "n d"], candidates: Sequence[int], seed: int = 0) -> int:
    """The number of classes whose prototypes, the means of as many groups of unit features, have the best score.

    Raises:
        ValueError: no candidate, or one below 2.

    >>> estimate_k(torch.eye(3).repeat(5, 1) + 0.01 * torch.randn(15, 3), [2, 3, 4])
    3
    """
    if not candidates or min(candidates) < 2:
        raise ValueError(f"candidates must be 2 or more, got {list(candidates)}")
    unit = F.normalize(features.detach().double(), dim=1)
    scores = {}
    for k in candidates:
        groups = KMeans(k, n_init=3, random_state=seed).fit(unit.numpy())
        scores[k] = prototype_score(unit, torch.from_numpy(groups.cluster_centers_))
    return max(scores, key=lambda k: scores[k])


def outlier_score(cosines: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """The largest probability at temperature 0.1: low for what is of no class, old or new.

    >>> outlier_score(torch.zeros(1, 4))
    tensor([0.2500])
    """
    return (cosines / SHARP).softmax(1).max(1).values
