"""SADE: three experts for three class distributions, weighed for the test data at hand (Zhang et al. 2021, arXiv
2107.09249).

A model of long-tailed rows does not know what distribution it will meet. From the same rows one expert learns to be
right on such a distribution, one on a uniform one, one on its inverse:

    L = CE(v1) + CE(v2 + log pi) + CE(v3 + log pi - lam log pi_inv)                        (Eq. 2 to 4)

and the weights of the three are learned from test rows without labels: those under which two views of an image are
answered most alike, since the experts that know the classes at hand are the steadiest on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.classify.logits import checked
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast

LEAST = 1e-9  # beside a class's share

Experts = Sequence[Tensor]


def inverse_prior(prior: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """The same shares in reverse: the most frequent class gets the smallest.

    >>> inverse_prior(torch.tensor([0.5, 0.2, 0.3]))
    tensor([0.2000, 0.5000, 0.3000])
    """
    order = prior.argsort(stable=True)
    reverse = torch.empty_like(prior)
    reverse[order] = prior[order].flip(0)
    return reverse


def sade_loss(
    experts: Experts, labels: Int[Tensor, " batch"], counts: Int[Tensor, " classes"], lam: float = 2.0
) -> dict[str, Float[Tensor, ""]]:
    """A term for each expert: "head" (plain cross-entropy), "uniform" and "tail".

    Args:
        experts: the logits [batch, classes] of the three.
        counts: training rows of each class.
        lam: how far beyond uniform the third goes; with 0 it is the second.

    Raises:
        ValueError: not three experts, logits, labels or counts that do not fit, or a negative lam.

    >>> zeros, labels = torch.zeros(1, 2), torch.tensor([1])
    >>> terms = sade_loss([zeros] * 3, labels, torch.tensor([3, 1]))
    >>> {name: round(term.exp().item(), 3) for name, term in terms.items()}
    {'head': 2.0, 'uniform': 4.0, 'tail': 28.0}
    """
    if len(experts) != 3 or not lam >= 0:
        raise ValueError(f"need three experts and a lam that is not negative, got {len(experts)} and {lam}")
    first, second, third = (checked(logits, labels) for logits in experts)
    if counts.shape != first.shape[1:] or not bool((counts >= 0).all()) or not bool(counts.sum() > 0):
        raise ValueError(f"counts must be [{first.shape[1]}], not negative and not all 0, got {list(counts.shape)}")
    prior = counts.to(first) / counts.sum()
    frequent, rare = (prior + LEAST).log(), (inverse_prior(prior) + LEAST).log()
    return {
        "head": F.cross_entropy(first, labels),
        "uniform": F.cross_entropy(second + frequent, labels),
        "tail": F.cross_entropy(third + frequent - lam * rare, labels),
    }


class ThreeExperts(nn.Module):
    """Early layers that are shared, and three copies of the later ones, each with a cosine classifier. `forward` gives
    the mean of the three logits, `experts` the three.

    Args:
        shared: x -> what the later layers read.
        later: () -> fresh later layers, which give features [batch, features]; called three times.

    >>> model = ThreeExperts(nn.Identity(), lambda: nn.Linear(4, 6), features=6, classes=3)
    >>> [tuple(logits.shape) for logits in model.experts(torch.zeros(2, 4))]
    [(2, 3), (2, 3), (2, 3)]
    """

    def __init__(
        self, shared: nn.Module, later: Callable[[], nn.Module], features: int, classes: int, scale: float = 30.0
    ) -> None:
        super().__init__()
        self.shared, self.scale = shared, scale
        self.later = nn.ModuleList(later() for _ in range(3))
        self.vectors = nn.ParameterList(nn.Parameter(torch.randn(classes, features)) for _ in range(3))

    def experts(self, x: Tensor) -> list[Tensor]:
        """The logits of each expert: `scale` times the cosines of features and class vectors."""
        early = self.shared(x)
        return [
            self.scale * F.linear(F.normalize(layers(early), dim=1), F.normalize(vectors, dim=1))
            for layers, vectors in zip(self.later, self.vectors, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.experts(x)).mean(0)


@dataclass(frozen=True)
class SADE(Objective):
    """Train `ThreeExperts` on long-tailed rows; the shared layers get all three gradients."""

    lam: Annotated[float, AtLeast(0)] = 2.0
    """How far beyond uniform the third expert goes."""

    def init(self, model: nn.Module, data: Any) -> Mapping[str, Tensor]:
        return {"counts": data.counts}

    def loss(self, state: Mapping[str, Tensor], model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = batch["pixel_values"] if "pixel_values" in batch else batch["x"]
        return sade_loss(model.experts(x), batch["labels"], state["counts"], self.lam)
