"""Asymmetric loss of one label a row, as it stands in the authors' code (arXiv 2009.14119)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def asymmetric_softmax(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    g_pos: float = 0.0,
    g_neg: float = 4.0,
    smoothing: float = 0.1,
) -> Float[Tensor, ""]:
    """The loss for one label a row: smoothed cross-entropy whose terms are weighed by (1 - p)^g_pos of the label and by
    p^g_neg of the others, with p of a softmax; the weights carry a gradient. At smoothing 0 g_neg does nothing.

    Raises:
        ValueError: shapes that do not fit, or a smoothing that is not in [0, 1).

    >>> loss = asymmetric_softmax(torch.zeros(1, 4), torch.tensor([2]), smoothing=0.0)
    >>> round(loss.exp().item(), 4)
    4.0
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not 0 <= smoothing < 1:
        raise ValueError(
            f"need logits [batch, classes], labels [batch] and smoothing in [0, 1), got {list(logits.shape)}, "
            f"{list(labels.shape)} and {smoothing}"
        )
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
    true = F.one_hot(labels, logits.shape[1]).bool()
    wrong = (1 - log_p.gather(1, labels[:, None]).exp()).clamp(min=0)
    weights = torch.where(true, wrong**g_pos, (g_neg * log_p).exp())
    smoothed = true * (1 - smoothing) + smoothing / logits.shape[1]
    return -(smoothed * weights * log_p).sum(1).mean()
