"""SOVR: in adversarial training, the samples near the boundary get the one-versus-the-rest loss (Kanai et al. 2022,
arXiv 2207.10283).

Weighing important samples more makes their margins grow no faster: cross-entropy's slow down as 1 / t, weighted or not.
One-versus-the-rest pushes the label's logit up and every other one down by itself, and margins grow twice as fast (in
the logarithm of time). It hurts where a sample is easy, so it is switched to for the hardest only:

    OVR(z, y) = softplus(-z_y) + sum_{k != y} softplus(z_k)                                             (Eq. 9)
    L = 1/B [ sum_{the others} CE(z', y) + lam sum_{the m B samples of smallest margin} OVR(z', y) ]   (Eq. 14)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.classify.logits import checked, margins
from palimpsest.metrics.robustness import per_row_cross_entropy, pgd
from palimpsest.models.forward import evaluating
from palimpsest.train.classification import logits_of
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast


def ovr_loss(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """softplus(-z_y) + sum over the other classes of softplus(z_k), row by row.

    Raises:
        ValueError: shapes or labels that do not fit.

    >>> ovr_loss(torch.zeros(1, 3), torch.tensor([1])) / torch.tensor(2.0).log()
    tensor([3.])
    """
    logits = checked(logits, labels)
    own = logits.gather(1, labels[:, None])[:, 0]
    return F.softplus(logits).sum(1) - own  # softplus(-z) = softplus(z) - z


def sovr_loss(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], m: float = 0.4, lam: float = 0.4
) -> Float[Tensor, ""]:
    """Cross-entropy of the easier samples and `lam` times OVR of the hardest, over the batch's size.

    Args:
        logits: of the attacked inputs.
        m: the share of the batch that is hardest, rounded up.
        lam: OVR's weight. The authors tune both for each data set; these are near their values for CIFAR-10.

    Raises:
        ValueError: shapes or labels that do not fit, an m out of [0, 1], or a negative lam.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0])
    >>> easy, hard = F.cross_entropy(logits[:1], labels[:1]), ovr_loss(logits[1:], labels[1:])[0]
    >>> torch.isclose(sovr_loss(logits, labels, m=0.5, lam=3.0), (easy + 3 * hard) / 2)
    tensor(True)
    """
    if not (0 <= m <= 1 and lam >= 0):
        raise ValueError(f"m must be in [0, 1] and lam not negative, got {m} and {lam}")
    logits = checked(logits, labels)
    hardest = margins(logits.detach(), labels).argsort(stable=True)[: math.ceil(m * len(labels))]
    hard = torch.zeros_like(labels, dtype=torch.bool).index_fill(0, hardest, True)
    plain = F.cross_entropy(logits, labels, reduction="none")
    return torch.where(hard, lam * ovr_loss(logits, labels), plain).mean()


def gairat_weights(wrong_at: Int[Tensor, " batch"], steps: int, lam: float = -1.0) -> Float[Tensor, " batch"]:
    """The weights of GAIRAT (Zhang et al. 2021, arXiv 2010.01736) from the number of steps k of the attack after which
    a sample was first wrong: (1 + tanh(lam + 5 (1 - 2 k / steps))) / 2, of mean 1 over the batch.

    >>> gairat_weights(torch.tensor([0, 10]), steps=10).round(decimals=3)
    tensor([2., 0.])
    """
    weights = (1 + torch.tanh(lam + 5 * (1 - 2 * wrong_at.float() / steps))) / 2
    return weights * len(weights) / weights.sum()


def mail_weights(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], gamma: float = 10.0, beta: float = 0.5
) -> Float[Tensor, " batch"]:
    """The weights of MAIL (Wang et al. 2021, arXiv 2106.07904): sigmoid(-gamma (margin - beta)) of the margins of
    probabilities, of mean 1 over the batch, detached.

    >>> mail_weights(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0])).round(decimals=2)
    tensor([0.0100, 1.9900])
    """
    weights = torch.sigmoid(-gamma * (margins(logits.detach().softmax(1), labels) - beta))
    return weights * len(weights) / weights.sum()


@dataclass(frozen=True)
class AdversarialTraining(Objective):
    """Train on inputs that are attacked by PGD, by a loss of (logits, labels) and perhaps of the step
    at which each was first wrong.

    >>> from palimpsest.models.vision import mlp
    >>> batch = {"x": torch.full((2, 4), 0.5), "labels": torch.tensor([0, 1])}
    >>> method = AdversarialTraining(eps=0.1)
    >>> model = mlp(4, 2, seed=0)
    >>> list(method.loss(method.init(model, None), model, batch))
    ['adversarial']
    """

    compare: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    """Of the attacked inputs' logits and the labels: cross-entropy is plain adversarial training, `sovr_loss` SOVR."""
    eps: Annotated[float, AtLeast(0)] = 8 / 255
    """The largest change of a value."""
    steps: Annotated[int, AtLeast(1)] = 10
    """Of the attack."""
    attack: Literal["cross_entropy", "kl"] = "cross_entropy"
    """What the attack makes large; "kl", how far probabilities are from the clean input's, is TRADES' way (Zhang et al.
    2019, arXiv 1901.08573), with `clean` 1."""
    geometry: bool = False
    """Weigh cross-entropy by `gairat_weights` in place of `compare`."""
    clean: Annotated[float, AtLeast(0)] = 0.0
    """The weight of the clean inputs' cross-entropy beside it."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Of the attack's starts."""

    def init(self, model: nn.Module, data: Any) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def loss(self, state: torch.Generator, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        name = "pixel_values" if "pixel_values" in batch else "x"
        labels, against = batch["labels"], per_row_cross_entropy
        if self.attack == "kl":
            with evaluating(model):
                calm = logits_of(model, batch).softmax(1)

            def against(logits: Tensor, _: Tensor) -> Tensor:
                return F.kl_div(logits.log_softmax(1), calm, reduction="none").sum(1)

        asked = {"steps": self.steps, "generator": state, "loss": against, "first_wrong": True}
        moved, wrong_at = pgd(model, batch[name], labels, self.eps, **asked)
        logits = logits_of(model, {name: moved})
        if self.geometry:
            each = F.cross_entropy(logits, labels, reduction="none")
            terms = {"adversarial": (gairat_weights(wrong_at, self.steps) * each).mean()}
        else:
            terms = {"adversarial": self.compare(logits, labels)}
        if self.clean:
            terms["clean"] = self.clean * F.cross_entropy(logits_of(model, batch), labels)
        return terms
