"""The losses of pairs by name, as `palimpsest contrast` offers them: one form, whatever a loss calls its fields.

Each is called with two tensors [batch, d], row by row a pair, and gives a scalar; embeddings are compared by cosine. Of
two views of an image or of a query and its document: a row's partner is its positive, the other rows are its negatives.
What is trained with the encoder (a temperature, a bias) is made by `modules()` and handed in by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated, Any

from torch import Tensor, nn

from palimpsest.contrast.debiased_cl import debiased_loss, hard_debiased_loss
from palimpsest.contrast.decoupled_cl import dcl_loss
from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.llave import hardness_nce
from palimpsest.contrast.macl import macl_loss
from palimpsest.contrast.nonneg_cl import nonneg
from palimpsest.contrast.siglip import SigmoidLoss
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below, check_fields


@dataclass(frozen=True)
class PairLoss:
    """What the losses below have in common."""

    def __post_init__(self) -> None:
        check_fields(self)

    def modules(self) -> dict[str, nn.Module]:
        """Modules of the loss that are trained with the encoder; none."""
        return {}

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(query, key): write one")


@dataclass(frozen=True)
class InfoNCE(PairLoss):
    """Each row picks its partner among all, in both directions (van den Oord et al. 2018)."""

    temperature: Annotated[float, Above(0)] = 0.05
    """Of the softmax: 0.02 to 0.1 for texts, 0.1 to 0.5 for images."""

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        return info_nce(query, key, self.temperature, symmetric=True, normalize=True)


@dataclass(frozen=True)
class SigLIP(PairLoss):
    """A sigmoid for every pair, with a temperature and a bias that are learned (Zhai et al. 2023)."""

    scale: Annotated[float, Above(0)] = 10.0
    """1 / temperature at the beginning."""
    bias: float = -10.0
    """At the beginning."""

    def modules(self) -> dict[str, nn.Module]:
        return {"sigmoid": SigmoidLoss(log(self.scale), self.bias, normalize=True)}

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        return modules["sigmoid"](query, key)


@dataclass(frozen=True)
class Decoupled(PairLoss):
    """InfoNCE without the positive pair in the denominator, for small batches (Yeh et al. 2021)."""

    temperature: Annotated[float, Above(0)] = 0.1
    """Of the softmax."""

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        return dcl_loss(query, key, self.temperature)


@dataclass(frozen=True)
class Debiased(PairLoss):
    """Corrects for negatives that are positives in truth (Chuang et al. 2020)."""

    tau_plus: Annotated[float, AtLeast(0), Below(1)] = 0.1
    """The share of them: 1 / classes where classes are balanced."""
    temperature: Annotated[float, Above(0)] = 0.5
    """Of the softmax."""

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        return debiased_loss(query, key, self.tau_plus, self.temperature)


@dataclass(frozen=True)
class HardDebiased(PairLoss):
    """The same, where negatives that are near count more (Robinson et al. 2021)."""

    beta: Annotated[float, AtLeast(0)] = 1.0
    """How much more."""
    tau_plus: Annotated[float, AtLeast(0), Below(1)] = 0.1
    """The share of negatives that are positives in truth."""
    temperature: Annotated[float, Above(0)] = 0.5
    """Of the softmax."""

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        return hard_debiased_loss(query, key, self.beta, self.tau_plus, self.temperature)


@dataclass(frozen=True)
class Hardness(PairLoss):
    """Negatives count by how near they are (Lan et al. 2025)."""

    alpha: Annotated[float, AtLeast(0)] = 9.0
    """How much."""
    temperature: Annotated[float, Above(0)] = 0.05
    """Of the softmax."""

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        return hardness_nce(query, key, alpha=self.alpha, temperature=self.temperature, normalize=True)


@dataclass(frozen=True)
class ModelAware(PairLoss):
    """A temperature that follows how well the model aligns its pairs (Huang et al. 2023)."""

    tau0: Annotated[float, Above(0)] = 0.1
    """The temperature at an alignment of `a0`."""
    alpha: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    """How far the temperature follows."""

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        return macl_loss(query, key, self.tau0, self.alpha)


@dataclass(frozen=True)
class NonNegative(PairLoss):
    """InfoNCE of embeddings whose negative parts are cut off, so that single dimensions mean something (Wang et al.
    2024)."""

    temperature: Annotated[float, Above(0)] = 0.1
    """Of the softmax."""

    def __call__(self, query: Tensor, key: Tensor, **modules: Any) -> Tensor:
        return info_nce(nonneg(query), nonneg(key), self.temperature, symmetric=True, normalize=True)


@dataclass(frozen=True)
class Paired(Objective):
    """Train an encoder on pairs: batch["query"] and batch["key"], or the two views in batch["views"], [batch, 2, ...].

    The modules of the loss are the model's `extra`.

    Attributes:
        compare: the loss.

    >>> import torch
    >>> from palimpsest.contrast.heads import Projected, projection_head
    >>> from palimpsest.train import fit
    >>> model = Projected(nn.Linear(8, 8), projection_head(8, 16, 4))
    >>> batches = [{"views": torch.randn(16, 1, 8) + 0.1 * torch.randn(16, 2, 8)}]
    >>> history = fit(model, Paired(InfoNCE(0.5)), batches, steps=20, lr=1e-2)
    >>> history.steps[-1]["contrast"] < history.steps[0]["contrast"]
    True
    """

    compare: PairLoss

    def loss(self, state: None, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if "views" in batch:
            views = batch["views"].transpose(0, 1)
            query, key = model(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        else:
            query, key = model(batch["query"]), model(batch["key"])
        return {"contrast": self.compare(query, key, **dict(model.extra.items()))}
