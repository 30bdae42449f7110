"""Attacks on the inputs of a classifier, within a largest change of each value, and what stands against them.

Inputs are in [0, 1], and stay there. A model is attacked as it stands in eval mode, and gets no gradient from it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Each = Callable[[Tensor, Tensor], Tensor]
"""(logits [batch, classes], labels) -> what is made large, row by row"""


def per_row_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability of each row's label."""
    return F.cross_entropy(logits, labels, reduction="none")


def negative_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest other logit less the label's: above 0 where the row is wrong.

    >>> negative_margin(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([0]))
    tensor([2.])
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.max(1).values - logits.gather(1, labels[:, None])[:, 0]


def scale_free(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The margin over the distance of the first from the third logit, which the scale of logits does not change (DLR,
    Croce and Hein 2020, arXiv 2003.01690); targeted, towards one class, over that of the first from the mean of the
    third and the fourth. Of two classes there is no third, and it is the margin.

    >>> scale_free(torch.tensor([[5.0, 3.0, 1.0]]), torch.tensor([0]))  # (3 - 5) / (5 - 1)
    tensor([-0.5000])
    """
    if logits.shape[1] < 3:
        return negative_margin(logits, labels)
    ordered = logits.sort(1, descending=True).values
    own = logits.gather(1, labels[:, None])[:, 0]
    if targets is None:
        return negative_margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    last = (ordered[:, 2] + ordered[:, min(3, logits.shape[1] - 1)]) / 2
    return (logits.gather(1, targets[:, None])[:, 0] - own) / (ordered[:, 0] - last + 1e-12)


def pgd(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    eps: float,
    *,
    step: float | None = None,
    steps: int = 10,
    loss: Each = per_row_cross_entropy,
    generator: torch.Generator | None = None,
    start: bool = True,
    first_wrong: bool = False,
) -> Float[Tensor, "batch ..."] | tuple[Tensor, Int[Tensor, " batch"]]:
    """Projected gradient ascent on the inputs (Madry et al. 2018, arXiv 1706.06083).

    Args:
        eps: the largest change of a value.
        step: of each value, along the sign of its gradient; 2.5 eps / steps unless told otherwise. With `start` off,
            one step of eps is the fast gradient sign method.
        start: from a random place within eps.
        first_wrong: give besides the number of steps after which each row was first answered wrongly; `steps` where
            it never was.

    Raises:
        ValueError: an eps that is negative, or no step.

    >>> linear = nn.Linear(1, 2, bias=False)
    >>> linear.weight.data = torch.tensor([[1.0], [-1.0]])
    >>> pgd(linear, torch.tensor([[0.5]]), torch.tensor([0]), eps=0.2, steps=1, step=0.2, start=False)
    tensor([[0.3000]])
    """
    if not eps >= 0 or steps < 1:
        raise ValueError(f"eps must not be negative and steps at least 1, got {eps} and {steps}")
    step = 2.5 * eps / steps if step is None else step
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        moved = x.detach().clone()
        if start:
            noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            moved = (moved + eps * (2 * noise - 1)).clamp(0, 1)
        wrong_at = torch.full_like(labels, steps)
        for number in range(steps):
            moved.requires_grad_()
            with torch.enable_grad():
                output = model(moved)
                logits = getattr(output, "logits", output)
                (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), moved)
            wrong_at = torch.where(logits.detach().argmax(1) != labels, wrong_at.clamp(max=number), wrong_at)
            moved = moved.detach() + step * gradient.sign()
            moved = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
    finally:
        for module, training in modes:
            module.training = training
    return (moved, wrong_at) if first_wrong else moved


def strong_attack(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    eps: float,
    *,
    steps: int = 50,
    restarts: int = 5,
    targets: int = 3,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch"]:
    """Whether each row withstands (1) or falls (0) to the worst of several attacks: on cross-entropy, on the margin, on
    the scale-free margin, from several starts each, and on the margin to each of the likeliest other classes. A
    stand-in for the white-box part of AutoAttack, for defences that only hide their gradients from one loss.

    >>> linear = nn.Linear(1, 2, bias=False)
    >>> linear.weight.data = torch.tensor([[1.0], [-1.0]])
    >>> strong_attack(linear, torch.tensor([[0.1], [0.9]]), torch.tensor([0, 1]), 0.2, steps=5, restarts=1)
    tensor([1., 0.])
    """
    standing = _right(model, x, labels)
    for loss in (per_row_cross_entropy, negative_margin, scale_free):
        for _ in range(restarts):
            standing = _attacked(model, x, labels, standing, eps, steps, loss, generator)
    with torch.no_grad():
        output = model(x)
    likely = getattr(output, "logits", output).scatter(1, labels[:, None], -torch.inf)
    for towards in likely.topk(min(targets, likely.shape[1] - 1), dim=1).indices.unbind(1):
        left = standing.nonzero()[:, 0]

        def targeted(logits: Tensor, own: Tensor, towards: Tensor = towards[left]) -> Tensor:
            return scale_free(logits, own, towards)

        standing = _attacked(model, x, labels, standing, eps, steps, targeted, generator)
    return standing.to(x.dtype)


def _attacked(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    standing: Tensor,
    eps: float,
    steps: int,
    loss: Each,
    generator: torch.Generator | None,
) -> Tensor:
    left = standing.nonzero()[:, 0]
    if not len(left):
        return standing
    moved = pgd(model, x[left], labels[left], eps, steps=steps, loss=loss, generator=generator)
    standing = standing.clone()
    standing[left] = _right(model, moved, labels[left])
    return standing


def _right(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        output = model(x)
    for module, training in modes:
        module.training = training
    return getattr(output, "logits", output).argmax(1) == labels
