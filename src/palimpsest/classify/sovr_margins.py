"""How fast margins grow under a loss (of SOVR, Kanai et al. 2022, arXiv 2207.10283, theorem 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.classify.logits import margins


def margin_growth(
    start: Float[Tensor, " classes"],
    label: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    until: float = 1e4,
    accuracy: float = 0.02,
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """(times, margins) while free logits follow minus the gradient of a loss of (logits [1, classes], labels [1]). The
    margin's slope in log time tends to 1 for cross-entropy, whatever its weight, and to 2 for one-versus-the-rest; at
    a time of some hundreds the ratio of margins is 1.8 for two classes, and 1.1 for a hundred.

    Args:
        until: the time at which it ends.
        accuracy: of Euler's steps, which are this share of the time that has passed, and of 1 at the start.

    Raises:
        ValueError: a time or a step that is not positive.
    """
    if not (until > 0 and accuracy > 0):
        raise ValueError(f"until and accuracy must be above 0, got {until} and {accuracy}")
    logits, labels = start.detach().double()[None].clone(), torch.tensor([label])
    at, times, found = 0.0, [], []
    while at < until:
        logits.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
        step = accuracy * max(1.0, at)
        logits, at = (logits - step * gradient).detach(), at + step
        times.append(at)
        found.append(margins(logits, labels)[0])
    return torch.tensor(times, dtype=torch.float64), torch.stack(found)
