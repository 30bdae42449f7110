"""The terms of continual category discovery: sharpened answers, entropies of groups of classes, drawn prototypes.

Sources: Ma et al. (2024), Happy, arXiv 2410.06535; self-distillation and mean entropy: Wen, Zhao and Qi (2023),
Parametric classification for generalized category discovery (SimGCD), arXiv 2211.11727; supervised contrast: Khosla et
al. (2020), arXiv 2004.11362.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.continual import last_layer

SHARPNESS = 0.1  # temperature of answers
SUPERVISED = 0.07  # temperature of the supervised contrast
HARDNESS = 0.1  # temperature of which prototypes are drawn


def self_distillation(
    first: Float[Tensor, "batch classes"], second: Float[Tensor, "batch classes"], teacher: float
) -> Float[Tensor, ""]:
    """Each view learns what the other is said to be, sharpened by the teacher's temperature and without a gradient.

    >>> z = torch.tensor([[1.0, 0.0]])
    >>> round(self_distillation(z, z, teacher=0.1).item(), 5)  # the entropy of softmax(10, 0)
    0.0005
    """
    goals = [(each.detach() / teacher).softmax(1) for each in (first, second)]
    answers = [(each / SHARPNESS).log_softmax(1) for each in (first, second)]
    return -((goals[0] * answers[1]).sum(1).mean() + (goals[1] * answers[0]).sum(1).mean()) / 2


def mean_entropy(answers: Float[Tensor, " classes"]) -> Float[Tensor, ""]:
    """log n - H of the batch's mean answer: 0 where all classes are answered alike.

    >>> mean_entropy(torch.full((4,), 0.25)).item()
    0.0
    """
    return math.log(len(answers)) - torch.special.entr(answers).sum()


def soft_entropy(answers: Float[Tensor, " classes"], new: Bool[Tensor, " classes"]) -> Float[Tensor, ""]:
    """log 2 - H(old, new) + (log n_old - H within old) + (log n_new - H within new), of the batch's mean answer.

    >>> soft_entropy(torch.tensor([0.25, 0.25, 0.5]), torch.tensor([False, False, True])).item()
    0.0
    """
    parts = [answers[~new], answers[new]]
    shares = torch.stack([part.sum() for part in parts])
    tiny = torch.finfo(answers.dtype).tiny
    return mean_entropy(shares) + sum(mean_entropy(part / part.sum().clamp(min=tiny)) for part in parts)


def pairs_nce(first: Float[Tensor, "batch d"], second: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
    """Each view of a row finds the other among all views of the batch but itself, at a temperature of 1; of norm 1.

    >>> round(pairs_nce(torch.eye(2), torch.eye(2)).item(), 4)  # log(e + 2) - 1
    0.5514
    """
    z = torch.cat([first, second])
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    partner = (torch.arange(len(z), device=z.device) + len(first)) % len(z)
    return F.cross_entropy((z @ z.T).masked_fill(itself, -torch.inf), partner)


def supervised_contrast(z: Float[Tensor, "views d"], labels: Int[Tensor, " views"]) -> Float[Tensor, ""]:
    """The mean over views of -mean log softmax, over all other views, of those of the view's class; of norm 1.

    >>> round(supervised_contrast(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])).item(), 5)
    0.0
    """
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logs = (z @ z.T / SUPERVISED).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
    same = (labels[:, None] == labels) & ~itself
    return -((same * logs).sum(1) / same.sum(1)).mean()


def hardness(prototypes: Float[Tensor, "classes d"]) -> Float[Tensor, " classes"]:
    """How often each is drawn: softmax of the mean cosine with the others, at a temperature of 0.1.

    >>> hardness(torch.eye(4))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    unit = F.normalize(prototypes, dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(0)
    return (cosines.sum(1) / max(1, len(unit) - 1) / HARDNESS).softmax(0)


def initial_prototypes(
    features: Float[Tensor, "n d"], old: Float[Tensor, "classes d"], new: int, seed: int = 0
) -> Float[Tensor, "new d"]:
    """Of as many k-means centroids as there are classes, those whose nearest old prototype, by cosine, is farthest.

    Args:
        features: of a task's rows, of norm 1.
        old: prototypes.
        new: how many classes are to be found.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> initial_prototypes(features, torch.tensor([[1.0, 0.1]]), 1)
    tensor([[0., 1.]])
    """
    means = KMeans(len(old) + new, n_init=1, random_state=seed).fit(features.double().cpu().numpy()).cluster_centers_
    centroids = F.normalize(torch.from_numpy(means).to(old), dim=1)
    known = (centroids @ F.normalize(old, dim=1).T).amax(1)
    return centroids[known.topk(new, largest=False).indices]


def around(
    prototypes: Float[Tensor, "classes d"], radius: Float[Tensor, ""], n: int, generator: torch.Generator, *, hard: bool
) -> dict[str, Tensor]:
    """Features drawn around the prototypes that are known (not nan), and the classes they are of.

    Args:
        hard: draw each as often as its `hardness` says; else all alike.

    >>> prototypes = torch.tensor([[torch.nan], [1.0]])
    >>> around(prototypes, torch.zeros(()), 1, torch.Generator(), hard=True)
    {'features': tensor([[1.]]), 'labels': tensor([1])}
    """
    known = (~prototypes.isnan().any(1)).nonzero()[:, 0]
    kept = prototypes[known]
    share = hardness(kept) if hard else torch.ones(len(kept))
    which = torch.multinomial(share, n, replacement=True, generator=generator)
    noise = torch.randn(n, kept.shape[1], generator=generator).to(kept)
    return {"features": kept[which] + radius * noise, "labels": known[which]}


def radius_of(features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """The root of the mean over classes of the mean variance of a feature.

    >>> radius_of(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
    tensor(0.7071)
    """
    spread = [features[labels == label].var(0, correction=0).mean() for label in labels.unique()]
    return torch.stack(spread).mean().sqrt()


def cosines(model: nn.Module, features: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
    """Of unit features with the weights of the model's last layer."""
    return features @ F.normalize(last_layer(model).weight, dim=1).T
