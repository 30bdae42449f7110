"""Why the rare class is unlearned first, and the step that spares it (Francazi et al. 2022, arXiv 2207.00391).

Gradient descent moves along sum_l (n_l / n) g_l with g_l the gradient of class l's mean loss: where the classes'
gradients point apart, the frequent one wins and the rare one's loss rises at the start. Per-class normalised gradient
descent gives each class's gradient the same length:

    PCNGD:  w <- w - lr sum_l g_l / ||g_l||                                                             (Eq. 8)

and to first order the loss of l then changes by -lr ||g_l|| (1 + sum_{k != l} cos(g_l, g_k)), which for two classes
never rises. In batches (PCNSGD) rare classes have noisy directions, which shrinks their part of the step: equally large
class batches (+O), or a division by how well a batch's direction agrees with the whole class's (+R), undo that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
Gradients = Mapping[int, Tensor]


def class_grads(model: nn.Module, loss: Loss, x: Tensor, labels: Int[Tensor, " n"]) -> dict[int, Float[Tensor, " d"]]:
    """class -> the flat gradient of the mean loss of its rows; classes that are not there are left out. The model has
    no batch normalisation, which would mix the classes.

    >>> linear = nn.Linear(1, 2, bias=False)
    >>> linear.weight.data.zero_()
    tensor([[0.],
            [0.]])
    >>> class_grads(linear, nn.functional.cross_entropy, torch.ones(3, 1), torch.tensor([0, 0, 1]))
    {0: tensor([-0.5000,  0.5000]), 1: tensor([ 0.5000, -0.5000])}
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = {}
    for label in labels.unique().tolist():
        rows = labels == label
        output = model(x[rows])
        gradients = torch.autograd.grad(loss(getattr(output, "logits", output), labels[rows]), parameters)
        found[label] = torch.cat([g.flatten() for g in gradients])
    return found


def gd_direction(grads: Gradients, counts: Mapping[int, int]) -> Float[Tensor, " d"]:
    """sum_l (n_l / n) g_l, the gradient of the mean loss of all rows.

    >>> gd_direction({0: torch.tensor([1.0]), 1: torch.tensor([-1.0])}, {0: 3, 1: 1})
    tensor([0.5000])
    """
    n = sum(counts[label] for label in grads)
    return torch.stack([counts[label] / n * g for label, g in grads.items()]).sum(0)


def sum_direction(grads: Gradients) -> Float[Tensor, " d"]:
    """sum_l g_l: with equally large batches of each class, SGD with oversampling (SGD+O).

    >>> sum_direction({0: torch.tensor([1.0]), 1: torch.tensor([2.0])})
    tensor([3.])
    """
    return torch.stack(list(grads.values())).sum(0)


def pcngd_direction(grads: Gradients, agreement: Mapping[int, float] | None = None) -> Float[Tensor, " d"]:
    """sum_l g_l / ||g_l||; a class without a gradient adds nothing.

    Args:
        agreement: class -> how far the unit gradient of its batch agrees with that of all of its rows; its part is
            divided by it, not less than 0.05 (PCNSGD+R).

    >>> pcngd_direction({0: torch.tensor([3.0, 4.0]), 1: torch.tensor([0.0, -9.0])})
    tensor([ 0.6000, -0.2000])
    """
    agreement = agreement or {}
    return torch.stack([unit(g) / max(agreement.get(label, 1.0), 0.05) for label, g in grads.items()]).sum(0)


def unit(gradient: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """At length 1; 0 stays 0.

    >>> unit(torch.tensor([0.0, -9.0])), unit(torch.zeros(1))
    (tensor([ 0., -1.]), tensor([0.]))
    """
    return gradient / gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny)


@torch.no_grad()
def descend(model: nn.Module, direction: Float[Tensor, " d"], lr: float) -> None:
    """w <- w - lr direction, in the order of `class_grads`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p, part in zip(parameters, direction.split([p.numel() for p in parameters]), strict=True):
        p.sub_(part.view_as(p), alpha=lr)


def agreements(grads: Gradients, whole: Gradients) -> dict[int, float]:
    """class -> the cosine of a batch's gradient with that of all of the class's rows: how noisy its direction is.

    >>> round(agreements({1: torch.tensor([1.0, 1.0])}, {1: torch.tensor([2.0, 0.0])})[1] ** 2, 6)
    0.5
    """
    return {label: float(unit(g.double()) @ unit(whole[label].double())) for label, g in grads.items()}


def first_order(grads: Gradients, counts: Mapping[int, int] | None = None) -> dict[int, float]:
    """class -> the slope of its loss in the learning rate, at 0: of gradient descent where counts are given, of PCNGD
    without.

    >>> grads = {0: torch.tensor([2.0, 0.0]), 1: torch.tensor([-1.0, 1.0])}
    >>> {label: round(slope, 3) for label, slope in first_order(grads, {0: 9, 1: 1}).items()}  # the rare class's rises
    {0: -3.4, 1: 1.6}
    >>> {label: round(slope, 3) for label, slope in first_order(grads).items()}
    {0: -0.586, 1: -0.414}
    """
    direction = pcngd_direction(grads) if counts is None else gd_direction(grads, counts)
    return {label: -float(g @ direction) for label, g in grads.items()}


def minority_drops(grads: Gradients, counts: Mapping[int, int]) -> bool:
    """Whether a small step of gradient descent raises the loss of the rarer of two classes: where the gradients point
    apart, and the frequent one's part along it is longer than its own, (n_0 / n) ||g_0|| |cos| > (n_1 / n) ||g_1||.

    Raises:
        ValueError: not two classes.

    >>> minority_drops({0: torch.tensor([2.0, 0.0]), 1: torch.tensor([-1.0, 1.0])}, {0: 9, 1: 1})
    True
    """
    if len(grads) != 2:
        raise ValueError(f"need two classes, got {sorted(grads)}")
    many, few = sorted(grads, key=lambda label: -counts[label])
    cosine = float(unit(grads[many]) @ unit(grads[few]))
    return cosine < 0 and counts[many] * float(grads[many].norm()) * -cosine > counts[few] * float(grads[few].norm())
