"""Encouraging loss: well-classified examples go on teaching (Zhao et al. 2021, arXiv 2110.06537).

The gradient of cross-entropy on the label's logit is p - 1, and is gone once a row is right; what such rows could
still add to the margin is lost. A bonus that mirrors the loss keeps it: the steeper, the nearer p is to 1.

    L = mean over rows of [ -log p_y + log(1 - p_y) ]                                 (encouraging loss)
    bonus(p) = log(1 - p) up to p = e, beyond it the tangent log(1 - e) - (p - e) / (1 - e)     (conservative bonus)

With e = 1 the loss is the logarithm of the odds against the label: every row pulls its logit with a gradient of
exactly -1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.classify.logits import checked, margins

LEAST = 1e-5  # 1 - p is not taken for less


def encouraging_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    log_end: float = 0.75,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy and the bonus of the label's probability, averaged over rows, in float32 at least. It goes below 0.

    Args:
        log_end: where the bonus goes on as a straight line, from 0 (a line throughout) to 1 (no line; the gradient
            norm wants clipping then). The authors advise 0.75 where accuracy is high and found 0.5 to work everywhere.
        smoothing: the share of each label that is spread over all classes; each then gets its loss and its bonus.

    Raises:
        ValueError: shapes or labels that do not fit, or a log_end or smoothing out of its range.

    >>> logits, labels = torch.zeros(1, 2), torch.tensor([1])
    >>> encouraging_loss(logits, labels, log_end=1.0)  # -log 1/2 + log 1/2
    tensor(0.)
    >>> encouraging_loss(logits, labels, log_end=0.0)  # log 2 less the line's 1/2
    tensor(0.1931)
    """
    if not (0 <= log_end <= 1 and 0 <= smoothing < 1):
        raise ValueError(f"log_end must be in [0, 1] and smoothing in [0, 1), got {log_end} and {smoothing}")
    log_p = checked(logits, labels).log_softmax(1)
    each = -log_p + bonus(log_p, log_end)
    of_labels = each.gather(1, labels[:, None])[:, 0]
    return ((1 - smoothing) * of_labels + smoothing * each.mean(1)).mean()


def bonus(log_p: Float[Tensor, "*rows"], log_end: float = 0.75) -> Float[Tensor, "*rows"]:
    """What a probability is rewarded with: log(1 - p) up to `log_end`, and its tangent from there. Never above 0.

    >>> bonus(torch.tensor([0.5, 1.0]).log(), log_end=0.5)  # log 1/2, and 1 below it
    tensor([-0.6931, -1.6931])
    """
    curve = (-torch.expm1(log_p)).clamp(min=max(1 - log_end, LEAST)).log()
    if log_end > 1 - LEAST:
        return curve
    return curve - (log_p.exp() - log_end).clamp(min=0) / (1 - log_end)


def ablated_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    beyond: Literal["halted", "equal", "mirrored"] = "mirrored",
    start: float = 0.5,
) -> Float[Tensor, ""]:
    """Cross-entropy for p up to `start`, and another course where a row is well classified, to see what that part does.

    Args:
        beyond: "halted" stays at its value, so that these rows teach nothing; "equal" goes on with the steepness that
            it has at `start`; "mirrored" gets steeper again, as cross-entropy is at 1 - p.
        start: in (0, 1); at 0.5 the mirrored course joins without a kink.

    Raises:
        ValueError: shapes or labels that do not fit, an unknown course, or a start out of its range.

    >>> logits, labels = torch.tensor([[0.0, 1.0986123]]), torch.tensor([1])  # p = 3/4
    >>> [round(ablated_loss(logits, labels, beyond).item(), 4) for beyond in ("halted", "equal", "mirrored")]
    [0.6931, 0.1931, -0.0]
    """
    if not 0 < start < 1:
        raise ValueError(f"start must be in (0, 1), got {start}")
    log_p = -F.cross_entropy(checked(logits, labels), labels, reduction="none")
    p, at = log_p.exp(), torch.tensor(start, dtype=log_p.dtype, device=log_p.device)
    courses: dict[str, Callable[[], Tensor]] = {
        "halted": lambda: torch.zeros_like(p),
        "equal": lambda: -(p - start).clamp(min=0) / start,
        "mirrored": lambda: (-torch.expm1(log_p)).clamp(min=LEAST, max=1 - start).log() - (1 - at).log(),
    }
    if beyond not in courses:
        raise ValueError(f"beyond must be one of {', '.join(courses)}, got {beyond!r}")
    return (-log_p.clamp(max=at.log()) + courses[beyond]()).mean()


def margin_stats(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    sure: float = 0.9,
) -> dict[str, float]:
    """The mean margin by which labels win, and the share of the gradient's norm that comes from rows whose label has
    a probability above `sure`: the norm of each row's gradient on its logits, summed.

    >>> stats = margin_stats(torch.tensor([[2.3, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
    >>> round(stats["margin"], 2), round(stats["sure share"], 4)  # p - 1 is -0.0911 and -0.5
    (1.15, 0.1542)
    """
    logits = checked(logits, labels).detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    norms = gradient.norm(dim=1)
    p = logits.detach().softmax(1).gather(1, labels[:, None])[:, 0]
    share = norms[p > sure].sum() / norms.sum().clamp(min=torch.finfo(norms.dtype).tiny)
    return {"margin": margins(logits.detach(), labels).mean().item(), "sure share": share.item()}


def spread_within(features: Float[Tensor, "batch d"], labels: Int[Tensor, " batch"]) -> float:
    """The mean distance of features to their class's mean, over the mean distance between classes' means: small where
    classes are tight and apart.

    Raises:
        ValueError: features and labels that do not fit, or fewer than two classes.

    >>> spread_within(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
    0.1
    """
    names, place = labels.unique(return_inverse=True)
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(names) < 2:
        raise ValueError(f"need features [batch, d] of two classes, got {list(features.shape)} and {len(names)}")
    means = torch.stack([features[place == one].double().mean(0) for one in range(len(names))])
    return float((features - means[place]).norm(dim=1).mean() / torch.pdist(means).mean())


def energy_score(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """log sum exp of the logits: high where the network knows what it sees, low where it does not (Liu et al. 2020).

    >>> energy_score(torch.zeros(1, 4)).exp()
    tensor([4.])
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(1)
