"""The losses of rows with several labels each, in one form, as `label_losses` has those of one label a row.

Each is called with logits [batch, classes] and targets [batch, classes] (1 present, 0 absent or not observed), and
gives a scalar. `family.label_sets` lists them by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from palimpsest.classify.asl import asymmetric_loss
from palimpsest.classify.em_apl import em_apl_loss
from palimpsest.losses.classification import weak_negative_cross_entropy
from palimpsest.losses.multilabel import (
    binary_cross_entropy,
    binary_focal_loss,
    dice_loss,
    weighted_binary_cross_entropy,
)
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below, check_fields


@dataclass(frozen=True)
class LabelSetLoss:
    """What the losses below have in common.

    Attributes:
        given: parts of the training data that it is called with, by name.
    """

    given: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, targets: Tensor, **given: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(logits, targets): write one")


@dataclass(frozen=True)
class BinaryCE(LabelSetLoss):
    """Binary cross-entropy: the log of each label's probability."""

    def __call__(self, logits: Tensor, targets: Tensor, **given: Any) -> Tensor:
        return binary_cross_entropy(logits, targets)


@dataclass(frozen=True)
class WeightedBCE(LabelSetLoss):
    """Binary cross-entropy in which labels that are present count more."""

    positive_weight: Annotated[float, Above(0)] = 3.0
    """How much more."""

    def __call__(self, logits: Tensor, targets: Tensor, **given: Any) -> Tensor:
        return weighted_binary_cross_entropy(logits, targets, self.positive_weight)


@dataclass(frozen=True)
class WeakNegatives(LabelSetLoss):
    """Binary cross-entropy in which labels that were not observed count less (Cole et al. 2021)."""

    weight: Annotated[float, AtLeast(0)] = 0.1
    """How much they count."""

    def __call__(self, logits: Tensor, targets: Tensor, **given: Any) -> Tensor:
        return weak_negative_cross_entropy(logits, targets, self.weight)


@dataclass(frozen=True)
class BinaryFocal(LabelSetLoss):
    """Binary cross-entropy in which what is known already counts little (Lin et al. 2017)."""

    gamma: Annotated[float, AtLeast(0)] = 2.0
    """How little; 0 is binary cross-entropy."""

    def __call__(self, logits: Tensor, targets: Tensor, **given: Any) -> Tensor:
        return binary_focal_loss(logits, targets, self.gamma)


@dataclass(frozen=True)
class Dice(LabelSetLoss):
    """1 - the Dice coefficient of the whole batch, near F1 (Milletari et al. 2016)."""

    smooth: Annotated[float, AtLeast(0)] = 1.0
    """Added above and below."""

    def __call__(self, logits: Tensor, targets: Tensor, **given: Any) -> Tensor:
        return dice_loss(logits, targets, self.smooth)


@dataclass(frozen=True)
class Asymmetric(LabelSetLoss):
    """Focus on negatives more than on positives, and none on the easiest negatives (Ridnik et al. 2021)."""

    g_neg: Annotated[float, AtLeast(0)] = 4.0
    """The focus on negatives."""
    g_pos: Annotated[float, AtLeast(0)] = 0.0
    """That on positives."""
    clip: Annotated[float, AtLeast(0), Below(1)] = 0.05
    """How far a negative's probability is shifted."""

    def __call__(self, logits: Tensor, targets: Tensor, **given: Any) -> Tensor:
        return asymmetric_loss(logits, targets, self.g_neg, self.g_pos, self.clip)


@dataclass(frozen=True)
class EntropyMaximization(LabelSetLoss):
    """What was not observed is unknown: the entropy of what is said of it is maximised (Zhou et al. 2022)."""

    alpha: Annotated[float, AtLeast(0), AtMost(1)] = 0.1
    """How strongly."""

    def __call__(self, logits: Tensor, targets: Tensor, **given: Any) -> Tensor:
        return em_apl_loss(logits, targets, self.alpha)
