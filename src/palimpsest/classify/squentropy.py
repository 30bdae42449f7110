"""Squentropy: cross-entropy plus the mean square of the wrong classes' logits (Hui, Belkin and Wright, 2023, arXiv
2302.03952).

Cross-entropy only asks that the true logit be larger than the others, and goes on to push them apart for ever; the
square loss fixes every logit, the true one as well, and wants a scale of its own where classes are many. Squentropy
pulls only the wrong logits to 0 and leaves the true one free. It has no parameter, and takes cross-entropy's place in a
training whose settings stay as they are:

    L = mean over rows of [ -log softmax(f)_y + 1 / (C - 1) sum_{j != y} f_j^2 ]                       (Eq. 1)
    L_square = mean over rows of 1 / C [ k (f_y - M)^2 + sum_{j != y} f_j^2 ]                 (rescaled square loss)
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


def squentropy_loss(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Cross-entropy plus the mean square of the wrong logits, averaged over rows, in float32 at least.

    Args:
        logits: raw, of two classes or more.
        labels: the true classes.

    Raises:
        ValueError: shapes that do not fit, or a single class.

    >>> loss = squentropy_loss(torch.zeros(1, 3), torch.tensor([1]))  # wrong logits at 0 cost nothing
    >>> round(loss.exp().item(), 4)
    3.0
    >>> logits = torch.tensor([[5.0, 1.0, 3.0]])
    >>> squentropy_loss(logits, torch.tensor([0])) - F.cross_entropy(logits, torch.tensor([0]))  # (1 + 9) / 2
    tensor(5.)
    """
    logits, right = _split(logits, labels)
    wrong = (logits.square().sum(1) - right.square()) / (logits.shape[1] - 1)
    return F.cross_entropy(logits, labels) + wrong.mean()


def rescaled_square(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], k: float = 1.0, target: float = 1.0
) -> Float[Tensor, ""]:
    """The square loss against one-hot labels, of which the true class counts k-fold and should reach `target`: what the
    paper compares with (Hui and Belkin, 2021, arXiv 2006.07322). Softmax is not taken.

    Args:
        k, target: 1 up to some tens of classes; the authors take k = 1 and M = 15, or k = 15 and M = 30, for a
            thousand.

    Raises:
        ValueError: shapes that do not fit, a single class, or a k or target that is not above 0.

    >>> rescaled_square(torch.tensor([[2.0, 1.0]]), torch.tensor([0]), k=3.0)  # (3 * 1 + 1) / 2
    tensor(2.)
    """
    if not (k > 0 and target > 0):
        raise ValueError(f"k and target must be above 0, got {k} and {target}")
    logits, right = _split(logits, labels)
    wrong = logits.square().sum(1) - right.square()
    return ((k * (right - target).square() + wrong) / logits.shape[1]).mean()


def decision_norm(model: nn.Module, x: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """The norm of the gradient, in the input, of the margin by which a row's first class wins over its second: how far
    the decision is from changing is the margin over this norm, to first order. The paper explains calibration by it.

    Args:
        model: x -> logits [batch, classes], or an output that has them as `logits`; left as it was.
        x: inputs; rows must not depend on each other (eval mode).

    >>> linear = nn.Linear(2, 2, bias=False)
    >>> linear.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    >>> decision_norm(linear, torch.tensor([[1.0, 0.0]]))  # of 3 x_1 - 4 x_2
    tensor([5.])
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        output = model(x)
        first, second = getattr(output, "logits", output).topk(2, dim=1).values.unbind(1)
        (gradient,) = torch.autograd.grad((first - second).sum(), x)
    return gradient.flatten(1).norm(dim=1)


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits in float32 at least, and those of the true classes."""
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"need logits [batch, classes] of two classes or more and labels [batch], got {list(logits.shape)} and "
            f"{list(labels.shape)}"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits, logits.gather(1, labels[:, None])[:, 0]
