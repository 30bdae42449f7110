"""Where two trainings move a model: angles between their updates, and the old task's loss over the plane of both.

Source: Zheng, Cai, Qiu and Ma (2025), Spurious forgetting in continual learning of language models, arXiv 2501.13453.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Angle:
    """How the second of two updates of a weight lies to the first.

    Attributes:
        cosine: between the two; below 0 where the second undoes the first. nan where one is 0.
        inside: the share of the second's squared size within the first's leading column space; nan for what is no
            matrix.
    """

    cosine: float
    inside: float


def update_angle(first: Weights, second: Weights, third: Weights, name: str, rank: int = 8) -> Angle:
    """Of theta_1 - theta_0 and theta_2 - theta_1, the updates of a weight by two tasks.

    Args:
        first, second, third: the weights before the first task, after it, and after the second.
        rank: how many of the first update's left singular vectors.

    >>> zero, one = {"w": torch.zeros(4, 4)}, {"w": torch.eye(4)}
    >>> update_angle(zero, one, zero, "w")
    Angle(cosine=-1.0, inside=1.0)
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    a, b = (second[name] - first[name]).double(), (third[name] - second[name]).double()
    sizes = a.norm() * b.norm()
    cosine = float((a * b).sum() / sizes) if sizes > 0 else float("nan")
    if a.ndim != 2 or not sizes > 0:
        return Angle(cosine, float("nan"))
    left, singular, _ = torch.linalg.svd(a, full_matrices=False)
    left = left[:, :rank][:, singular[:rank] > singular[0] * 1e-9]
    return Angle(cosine, float((left.T @ b).square().sum() / b.square().sum()))


def loss_plane(
    model: nn.Module,
    directions: tuple[Weights, Weights],
    loss: Callable[[nn.Module], float],
    at: Sequence[float] = (0.0, 0.5, 1.0),
) -> Float[Tensor, "first second"]:
    """A loss at theta_0 + s d_1 + t d_2, for all s and t in `at`; theta_0 are the model's weights, which are as they
    were afterwards.

    Args:
        directions: name -> an update of that weight; weights without one stay.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(line.weight)
    >>> step = {"weight": torch.ones(1, 1)}
    >>> loss_plane(line, (step, step), lambda model: model.weight.item(), (0.0, 1.0)).tolist()
    [[0.0, 1.0], [1.0, 2.0]]
    """
    values = {name: p for name, p in model.named_parameters() if name in directions[0] or name in directions[1]}
    kept = {name: p.data for name, p in values.items()}
    found = torch.zeros(len(at), len(at), dtype=torch.float64)
    try:
        for i, s in enumerate(at):
            for j, t in enumerate(at):
                for name, p in values.items():
                    moved = [x * d[name].to(p) for x, d in zip((s, t), directions, strict=True) if name in d]
                    p.data = kept[name] + sum(moved)
                found[i, j] = loss(model)
    finally:
        for name, p in values.items():
            p.data = kept[name]
    return found
