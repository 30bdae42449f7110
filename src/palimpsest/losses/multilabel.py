"""Losses of rows with several labels each, which methods for many, rare or missing labels are compared with.

Each takes logits [..., classes] and targets of the same shape in [0, 1], and gives a scalar, in float32 at least.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Over = Literal["all", "class", "row"]


def binary_cross_entropy(logits: Float[Tensor, "*rows classes"], targets: Tensor) -> Float[Tensor, ""]:
    """-y log p - (1 - y) log(1 - p) with p = sigmoid(logits), the mean over rows and classes.

    Raises:
        ValueError: shapes that differ.

    >>> binary_cross_entropy(torch.zeros(1, 4), torch.tensor([[1, 0, 0, 0]])).exp()
    tensor(2.)
    """
    return F.binary_cross_entropy_with_logits(*alike(logits, targets))


def weighted_binary_cross_entropy(
    logits: Float[Tensor, "*rows classes"], targets: Tensor, positive_weight: float | Float[Tensor, " classes"]
) -> Float[Tensor, ""]:
    """-w y log p - (1 - y) log(1 - p), the mean over rows and classes: positives, which are few, count w-fold.

    Args:
        positive_weight: w, one for all classes or one each, not negative; `positive_weights` makes both sides equal.

    Raises:
        ValueError: shapes that differ, weights that do not fit or are negative.

    >>> loss = weighted_binary_cross_entropy(torch.zeros(1, 4), torch.tensor([[1, 0, 0, 0]]), positive_weight=5.0)
    >>> loss.exp()  # (5 + 1 + 1 + 1) / 4
    tensor(4.)
    """
    logits, targets = alike(logits, targets)
    weight = torch.as_tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    if weight.shape not in ((), logits.shape[-1:]) or not bool((weight >= 0).all()):
        raise ValueError(f"positive_weight must be a number or [{logits.shape[-1]}] of them, none negative")
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)


def positive_weights(targets: Float[Tensor, "rows classes"]) -> Float[Tensor, " classes"]:
    """Negatives per positive of each class; of one without positives, as if it had one.

    >>> positive_weights(torch.tensor([[1, 0], [1, 0], [0, 0]]))
    tensor([0.5000, 3.0000])
    """
    positives = targets.double().sum(0)
    return ((len(targets) - positives).clamp(min=1) / positives.clamp(min=1)).float()


def binary_focal_loss(
    logits: Float[Tensor, "*rows classes"], targets: Tensor, gamma: float = 2.0, alpha: float | None = None
) -> Float[Tensor, ""]:
    """-(1 - p_t)^gamma log p_t, p_t the probability of what the target says, the mean over rows and classes: what is
    known counts little.

    Lin et al. (2017, arXiv 1708.02002), equations 4 and 5. The factor has a gradient. Targets between 0 and 1 mix both
    sides.

    Args:
        gamma: 0 is binary cross-entropy; not negative.
        alpha: weight of positives, 1 - alpha that of negatives; None for neither.

    Raises:
        ValueError: shapes that differ, or a gamma or alpha out of its range.

    >>> loss = binary_focal_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
    >>> round((loss / torch.tensor(2.0).log()).item(), 4)  # (1 - 1 / 2)^2
    0.25
    """
    logits, targets = alike(logits, targets)
    if not gamma >= 0 or not (alpha is None or 0 <= alpha <= 1):
        raise ValueError(f"gamma must not be negative and alpha in [0, 1] or None, got {gamma} and {alpha}")
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    # (1 - p)^gamma as exp(gamma log(1 - p)): a power of 0 has no gradient below exponent 1
    sides = positive * targets * (gamma * log_not_p).exp() * log_p
    return -(sides + negative * (1 - targets) * (gamma * log_p).exp() * log_not_p).mean()


def soft_dice(
    p: Float[Tensor, "*rows classes"],
    targets: Tensor,
    smooth: float = 1.0,
    over: Over = "all",
    squared: bool = False,
) -> Float[Tensor, ""]:
    """(2 sum p y + smooth) / (sum p + sum y + smooth): the Dice coefficient, F1 if p is 0 or 1 and smooth 0.

    Args:
        p: probabilities or decisions.
        smooth: not negative; at 0 what has neither p nor y gives 1, as with any other.
        over: what is summed before the ratio is taken: "all" there is, all rows of a "class", or all classes of a
            "row" (the mean of these coefficients is given).
        squared: p^2 + y^2 below.

    Raises:
        ValueError: shapes that differ, a negative smooth, or an unknown `over`.

    >>> p, y = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1, 1], [0, 0]])
    >>> soft_dice(p, y, smooth=0.0)  # 2 / (1 + 2)
    tensor(0.6667)
    >>> soft_dice(p, y, smooth=0.0, over="class"), soft_dice(p, y, smooth=0.0, over="row")
    (tensor(0.5000), tensor(0.8333))
    """
    p, targets = alike(p, targets)
    if not smooth >= 0 or over not in ("all", "class", "row"):
        raise ValueError(f"smooth must not be negative and over all, class or row, got {smooth} and {over!r}")
    if over == "class":
        p, targets = p.flatten(0, -2).T, targets.flatten(0, -2).T
    elif over == "all":
        p, targets = p.flatten(), targets.flatten()
    both = (p * targets).sum(-1)
    either = (p.square() + targets.square() if squared else p + targets).sum(-1)
    empty = (either == 0) if smooth == 0 else torch.zeros_like(either, dtype=torch.bool)
    return ((2 * both + smooth + empty.to(both)) / (either + smooth + empty.to(both))).mean()


def dice_loss(
    logits: Float[Tensor, "*rows classes"],
    targets: Tensor,
    smooth: float = 1.0,
    over: Over = "all",
    squared: bool = False,
) -> Float[Tensor, ""]:
    """1 - `soft_dice` of p = sigmoid(logits). Milletari et al. (2016, arXiv 1606.04797) square below.

    A batch without positives costs 1 - smooth / (sum p + smooth): next to no gradient until sum p comes near `smooth`.

    Raises:
        ValueError: as for `soft_dice`.

    >>> dice_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), smooth=0.0)  # 1 - 2 * 0.5 / (1 + 1)
    tensor(0.5000)
    """
    logits, targets = alike(logits, targets)
    return 1 - soft_dice(logits.sigmoid(), targets, smooth, over, squared)


def alike(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 at least.

    Raises:
        ValueError: shapes that differ, or without classes.
    """
    if logits.ndim < 1 or targets.shape != logits.shape:
        raise ValueError(f"targets must be {list(logits.shape)} like the logits, got {list(targets.shape)}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits, targets.to(logits)
