"""The losses of labelled rows by name, as `palimpsest classify` offers them: one form, whatever a loss calls its
fields.

Each is called with logits [batch, classes] and labels [batch], and gives a scalar. What it has to know of the training
rows besides, it names in `given`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from palimpsest.classify.encouraging_loss import encouraging_loss
from palimpsest.classify.squentropy import squentropy_loss
from palimpsest.classify.z_loss import z_loss
from palimpsest.losses.classification import (
    class_balanced_cross_entropy,
    generalized_cross_entropy,
    logit_adjusted_cross_entropy,
)
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below, check_fields


@dataclass(frozen=True)
class LabelLoss:
    """What the losses below have in common.

    Attributes:
        given: parts of the training data that it is called with, by name.
    """

    given: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(logits, labels): write one")


@dataclass(frozen=True)
class CrossEntropy(LabelLoss):
    """The log of the label's probability."""

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class LabelSmoothing(LabelLoss):
    """Cross-entropy with a share of each label spread evenly over all classes (Szegedy et al. 2016)."""

    smoothing: Annotated[float, AtLeast(0), Below(1)] = 0.1
    """The share that is spread."""

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class ClassWeights(LabelLoss):
    """Cross-entropy in which rare classes count more (Cui et al. 2019)."""

    beta: Annotated[float, AtLeast(0), Below(1)] = 0.999
    """How much more: 0 for none, near 1 in proportion to 1 / rows of the class."""
    given = ("counts",)

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        return class_balanced_cross_entropy(logits, labels, given["counts"], self.beta)


@dataclass(frozen=True)
class LogitAdjustment(LabelLoss):
    """Cross-entropy that gives frequent classes their advantage in training alone (Menon et al. 2021)."""

    tau: Annotated[float, AtLeast(0)] = 1.0
    """How much of it; 1 aims at balanced accuracy."""
    given = ("counts",)

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        return logit_adjusted_cross_entropy(logits, labels, given["counts"], self.tau)


@dataclass(frozen=True)
class GeneralizedCE(LabelLoss):
    """Between cross-entropy and the absolute error, which wrong labels mislead less (Zhang and Sabuncu 2018)."""

    q: Annotated[float, Above(0), AtMost(1)] = 0.7
    """Near 0 cross-entropy, at 1 the absolute error."""

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        return generalized_cross_entropy(logits, labels, self.q)


@dataclass(frozen=True)
class Squentropy(LabelLoss):
    """Cross-entropy plus the mean square of the wrong classes' logits (Hui et al. 2023)."""

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        return squentropy_loss(logits, labels)


@dataclass(frozen=True)
class EncouragingLoss(LabelLoss):
    """Cross-entropy with a bonus for rows that are right already, which then go on teaching (Zhao et al. 2021)."""

    log_end: Annotated[float, AtLeast(0), AtMost(1)] = 0.75
    """The probability from which the bonus is a straight line; 1 for none, which wants the gradient norm clipped."""

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        return encouraging_loss(logits, labels, self.log_end)


@dataclass(frozen=True)
class ZLoss(LabelLoss):
    """How many standard deviations the label's output is above all outputs (de Brébisson and Vincent 2016)."""

    a: Annotated[float, Above(0)] = 1.0
    """How sharply the loss ends beyond half of the largest possible score."""

    def __call__(self, logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
        return z_loss(logits, labels, self.a)
