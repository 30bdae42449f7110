"""Rounds of training, pruning and rewinding (lottery tickets, Frankle and Carbin 2019), and those in which the weight
of misses is chosen anew each time (Entezari and Saukh 2019, arXiv 1909.10364)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from palimpsest.classify.class_compress import ClassDependentLoss, error_rates
from palimpsest.metrics.membership import auc
from palimpsest.models.forward import evaluating
from palimpsest.train.classification import Supervised, logits_of
from palimpsest.train.method import apply

Masks = dict[str, Bool[Tensor, "..."]]


def masks_of(model: nn.Module) -> Masks:
    """A mask that keeps everything, for each weight of at least two dimensions; biases and norms are never pruned."""
    return {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.ndim > 1}


def smaller(model: nn.Module, masks: Mapping[str, Tensor], rate: float = 0.2) -> Masks:
    """Masks that also remove the `rate` smallest of the weights that are left, layer by layer; one at least stays.

    Raises:
        ValueError: a rate that is not in (0, 1).

    >>> linear = nn.Linear(4, 1)
    >>> linear.weight.data = torch.tensor([[3.0, -1.0, 2.0, -4.0]])
    >>> smaller(linear, masks_of(linear), rate=0.5)["weight"]
    tensor([[ True, False, False,  True]])
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1), got {rate}")
    found, weights = {}, dict(model.named_parameters())
    for name, mask in masks.items():
        left = mask.flatten().nonzero()[:, 0]
        gone = min(round(rate * len(left)), len(left) - 1)
        smallest = left[weights[name].detach().flatten()[left].abs().argsort(stable=True)[:gone]]
        found[name] = mask.flatten().index_fill(0, smallest, False).view_as(mask)
    return found


@torch.no_grad()
def hold(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set what the masks remove to 0: after every optimizer step, since momentum and weight decay would move it."""
    for name, p in model.named_parameters():
        if name in masks:
            p.mul_(masks[name])


def weight_of_misses(
    tried: Sequence[float], missed: Callable[[float], float], dense: float, tolerance: float = 0.0
) -> float:
    """The smallest of the tried weights under which no more is missed than (1 + tolerance) times what the dense network
    misses; else that under which least is. No heavier one is tried than is needed.

    >>> weight_of_misses([1, 2, 4, 8], {1: 0.3, 2: 0.1, 4: 0.2, 8: 0.0}.get, dense=0.1)
    2
    """
    found: dict[float, float] = {}
    for weight in sorted(tried):
        found[weight] = missed(weight)
        if found[weight] <= (1 + tolerance) * dense:
            return weight
    return min(found, key=lambda weight: found[weight])


@dataclass(frozen=True)
class Pruned(Supervised):
    """A supervised loss under which what the masks remove stays exactly 0: these weights start at 0 and get no
    gradient, so that momentum and weight decay leave them there."""

    masks: Mapping[str, Tensor] | None = None

    def gradients(self, state: Any, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if name in (self.masks or {}) and p.grad is not None:
                p.grad.mul_(self.masks[name])


@dataclass(frozen=True)
class Round:
    """What a round left.

    Attributes:
        remaining: the share of the prunable weights.
        w_fn: the weight of misses; nan where the loss has none.
        rates: "fn", "fp", "accuracy" and "auc" on the validation rows.
        state: the network's weights.
    """

    remaining: float
    w_fn: float
    rates: dict[str, float]
    state: dict[str, Tensor]


def iterative_prune(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    data: Any,
    validation: Any,
    *,
    rounds: int,
    rate: float = 0.2,
    rewind: Literal["init", "early"] = "init",
    early: int = 20,
    weights: Sequence[float] = (),
    tolerance: float = 0.0,
    **training: Any,
) -> list[Round]:
    """Train, remove the smallest weights, rewind the others, and repeat; the first round is the dense network's. The
    model is left with the last round's weights.

    Args:
        model: gives logits [batch, 1].
        loss: of logits and labels; a `ClassDependentLoss` where `weights` are given.
        data: training rows; `validation` [a split] is measured, and chooses among `weights`.
        rewind: the survivors go back to their first values, or to those after `early` steps.
        weights: of misses, tried from the lightest in every round but the first, until no more is missed than (1 +
            tolerance) times what the dense network misses; else the one with the fewest misses is taken.
        training: as for `palimpsest.train.apply`.

    Raises:
        ValueError: no round, an unknown rewind, or weights for another loss.
    """
    if rounds < 1 or rewind not in ("init", "early"):
        raise ValueError(f"need a round, and rewind init or early, got {rounds} and {rewind!r}")
    if weights and not isinstance(loss, ClassDependentLoss):
        raise ValueError("weights of misses are those of a ClassDependentLoss")
    if rewind == "early":
        apply(model, Supervised(loss), data, **{**training, "steps": early})
    start, masks, found = _copy(model), masks_of(model), list[Round]()

    def trained(chosen: Callable[[Tensor, Tensor], Tensor]) -> Round:
        model.load_state_dict(start)
        hold(model, masks)
        apply(model, Pruned(chosen, masks=masks), data, **training)
        left = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        return Round(left, getattr(chosen, "w_fn", float("nan")), rates_of(model, validation), _copy(model))

    for number in range(rounds):
        if weights and number:
            tried: dict[float, Round] = {}

            def missed(weight: float, tried: dict[float, Round] = tried) -> float:
                tried[weight] = trained(ClassDependentLoss(weight, loss.w_fp, loss.mu, loss.gap))
                return tried[weight].rates["fn"]

            found.append(tried[weight_of_misses(weights, missed, found[0].rates["fn"], tolerance)])
        else:
            found.append(trained(loss))
        model.load_state_dict(found[-1].state)
        if number < rounds - 1:
            masks = smaller(model, masks, rate)
    return found


def rates_of(model: nn.Module, rows: Any) -> dict[str, float]:
    """The error rates on rows, and the area under the ROC curve."""
    batch = rows.batch(slice(None))
    with evaluating(model):
        logits = logits_of(model, batch)[:, 0]
    labels = batch["labels"]
    scores = logits.double().numpy()
    return {**error_rates(logits, labels), "auc": auc(scores[labels == 1], scores[labels == 0])}


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
