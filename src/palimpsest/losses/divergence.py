"""Kullback-Leibler divergence between the next-token distributions of two models."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, float32, promote_types


def kl_divergence(
    logits_p: Float[Tensor, "batch positions classes"],
    logits_q: Float[Tensor, "batch positions classes"],
    mask: Bool[Tensor, "batch positions"] | None = None,
) -> Float[Tensor, ""]:
    """KL(p || q) = sum_v p(v) (log p(v) - log q(v)) in nats, averaged over each row's positions, then over rows.

    Forward KL has the teacher or reference as p and covers all of its modes; swap the arguments for the reverse KL,
    which settles on one. Computed in float32 from logarithms; no gradient is stopped here: detach the side that is a
    constant.

    Args:
        logits_p, logits_q: unnormalised scores; -inf for classes that are ruled out, which count where p has them only
            (unless p is too small for its dtype).
        mask: the positions that count; all by default. A row without any counts as 0. What stands elsewhere is not
            looked at, not even if it is NaN.

    Raises:
        ValueError: if the shapes do not fit together.

    >>> import torch
    >>> p, q = torch.tensor([[[0.0, 0.0]]]), torch.log(torch.tensor([[[0.25, 0.75]]]))
    >>> round(kl_divergence(p, q).item(), 4)  # 0.5 log(0.5 / 0.25) + 0.5 log(0.5 / 0.75)
    0.1438
    """
    if logits_p.ndim != 3 or logits_p.shape != logits_q.shape:
        raise ValueError(
            f"logits must be [batch, positions, classes] each, got {tuple(logits_p.shape)} and {tuple(logits_q.shape)}"
        )
    if mask is not None and mask.shape != logits_p.shape[:2]:
        raise ValueError(f"mask must be [batch, positions] {tuple(logits_p.shape[:2])}, got {tuple(mask.shape)}")
    if mask is not None:
        logits_p, logits_q = logits_p[mask], logits_q[mask]
    log_p, log_q = (x.log_softmax(-1, dtype=promote_types(x.dtype, float32)) for x in (logits_p, logits_q))
    p = log_p.exp()
    divergence = (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)  # 0 log 0 = 0, whatever q is
    if mask is None:
        return divergence.mean()
    rows = divergence.new_zeros(mask.shape).masked_scatter(mask, divergence)
    return (rows.sum(1) / mask.sum(1).clamp(min=1)).mean()
