"""Asymmetric loss for several labels (Ben-Baruch, Ridnik and others, 2020, arXiv 2009.14119).

Of many labels a row has few, so easy negatives outweigh all positives; and of those labels that are said to be absent,
some are only missing. Asymmetric loss focuses on negatives more than on positives, and shifts a negative's probability
down, so that below `clip` it costs nothing and near 1, where it is likely a missing label, it pulls less:

    L+ = -(1 - p)^g_pos log p,    L- = -p_m^g_neg log(1 - p_m),    p_m = max(p - clip, 0)             (Eq. 7)

It is computed in a pass over small blocks that yields value and gradient, so no intermediate array is as large as the
logits. Logarithms are those of the logits, so that none has to be kept away from 0.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from palimpsest.losses.multilabel import alike

BLOCK = 1 << 15
"""entries at a time on a processor: four arrays of them stay in its cache"""


def asymmetric_loss(
    logits: Float[Tensor, "batch classes"],
    targets: Tensor,
    g_neg: float = 4.0,
    g_pos: float = 0.0,
    clip: float = 0.05,
    detach_focus: bool = True,
    reduction: Literal["sum_per_sample", "sum"] = "sum_per_sample",
) -> Float[Tensor, ""]:
    """The sum over classes of L+ where the target is 1 and L- where it is 0, in float32 at least.

    With g_neg = g_pos = clip = 0 it is binary cross-entropy, with equal g and clip 0 focal loss.

    Args:
        targets: zeros and ones.
        g_neg, g_pos: how much what is known already counts less, not negative. The paper reports g_neg 4 and g_pos 0;
            the authors' code has g_pos 1 where it is not told.
        clip: how far a negative's probability is shifted, in [0, 1).
        detach_focus: the factors (1 - p)^g_pos and p_m^g_neg carry no gradient.
        reduction: "sum_per_sample" gives the mean over rows, "sum" the sum over these too, as the authors' code does.

    Raises:
        ValueError: shapes that differ, a parameter out of its range, or an unknown reduction.

    >>> asymmetric_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), g_neg=1.0)  # log 2 + 0.45 log(1 / 0.55)
    tensor(0.9622)
    """
    logits, targets = alike(logits, targets)
    if not (g_neg >= 0 and g_pos >= 0 and 0 <= clip < 1):
        raise ValueError(f"need g_neg, g_pos >= 0 and clip in [0, 1), got {g_neg}, {g_pos} and {clip}")
    if reduction not in ("sum_per_sample", "sum") or logits.ndim != 2:
        raise ValueError(f"need logits [batch, classes] and a reduction sum_per_sample or sum, got {reduction!r}")
    total = _AsymmetricSum.apply(logits, targets, g_neg, g_pos, clip, detach_focus)
    return total if reduction == "sum" else total / len(logits)


class _AsymmetricSum(torch.autograd.Function):
    """The sum over all entries; its gradient is made with it. All are taken for negatives, then the few positives put
    right."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, *settings: Any) -> Tensor:
        g_neg, g_pos, clip, detach = settings
        z, size = logits.reshape(-1), BLOCK if logits.device.type == "cpu" else max(1, logits.numel())
        gradient = torch.empty_like(z) if ctx.needs_input_grad[0] else None
        total = z.new_zeros((), dtype=torch.float64)
        for start in range(0, z.numel(), size):
            part = slice(start, start + size)
            total -= _negatives(z[part], None if gradient is None else gradient[part], g_neg, clip, detach).sum()
        at = _positions(targets.reshape(-1))
        far, share = z[at], targets.reshape(-1)[at]
        other = torch.empty_like(far)
        as_negatives = _negatives(far, other, g_neg, clip, detach)
        log_p, wrong = F.logsigmoid(far), (-far).sigmoid()
        focus = _power(wrong, g_pos)
        total -= (share * (focus * log_p - as_negatives)).sum()
        if gradient is not None:
            own = -focus * wrong if detach else -focus * (wrong - g_pos * (1 - wrong) * log_p)
            gradient[at] = (1 - share) * other + share * own
            ctx.gradient = gradient.view_as(logits)
        return total.to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        return (ctx.gradient * given, None, None, None, None, None)


def _negatives(z: Tensor, gradient: Tensor | None, g_neg: float, clip: float, detach: bool) -> Tensor:
    """-L- of every logit; its gradient is written where it is wanted."""
    p = z.sigmoid()
    if clip:
        shifted = (p - clip).clamp_(min=0)
        kept = 1 - shifted
        log = kept.log()
    else:
        shifted, log = p, F.logsigmoid(-z)
    focus = _power(shifted, g_neg)
    if gradient is not None:
        slope = torch.addcmul(p, p, p, value=-1, out=gradient)  # of p
        if not detach:
            inner = g_neg * slope * focus * log / shifted.clamp(min=torch.finfo(p.dtype).tiny)
        if clip:
            slope.div_(kept)
            if not g_neg:  # else the focus is 0 below the clip
                slope.mul_(shifted > 0)
        else:
            slope.copy_(p)
        slope.mul_(focus)
        if not detach:
            slope.sub_(inner)
    return focus.mul_(log)


def _power(base: Tensor, exponent: float) -> Tensor:
    """In new memory; a general power would cost as much as all the rest."""
    return base.square().square_() if exponent == 4 else base**exponent


def _positions(targets: Tensor) -> Tensor:
    """Where they are not 0; on a processor numpy finds that six times faster."""
    if targets.device.type != "cpu":
        return targets.nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(targets.bool().numpy()))
