"""Backward compatible weight interpolation: an updated model should not get wrong what the old one had right.

Source: Schumann, Mansimov, Lai, Pappas, Gao and Zhang (2023), Backward compatibility during data updates by weight
interpolation, arXiv 2301.10546.

The new model is fine-tuned from the old weights on the updated data; then it goes some of the way back:

    plain     w = alpha w_old + (1 - alpha) w_new
    Fisher    w = (alpha F w_old + (1 - alpha) w_new) / (alpha F + (1 - alpha)),   F of the old model, of mean 1
    soup      w_new is the mean of several new models, each trained in an order of its own

What it is measured by: negative flips, rows that the old model had right and the new one has wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from palimpsest.retain.continual import Continual, Present, State, Weights, everything_of, put_back
from palimpsest.retain.penalties import Labels, diagonal_fisher, interpolated, refresh_batch_norm
from palimpsest.retain.phases import trained_on
from palimpsest.train.ranges import AtLeast, AtMost

SHARES = tuple(round(0.05 * step, 2) for step in range(21))


def fisher_interpolated(old: Weights, new: Weights, fisher: Weights, share: float) -> Weights:
    """(share F old + (1 - share) new) / (share F + 1 - share) where there is an importance F, the plain mean elsewhere.

    Args:
        fisher: by name, for some of the weights; scaled to a mean of 1 over all of them.
        share: alpha; 0 and 1 give the very bits of new and old.

    >>> ones, zeros = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    >>> fisher_interpolated(ones, zeros, {"w": torch.tensor([0.0, 2.0])}, 0.5)
    {'w': tensor([0.0000, 0.6667])}
    """
    mixed = interpolated(old, new, share)
    if fisher and 0 < share < 1:
        mean = torch.cat([each.flatten() for each in fisher.values()]).mean().clamp(min=torch.finfo(torch.float32).tiny)
        for name, each in fisher.items():
            weight = share * each / mean
            mixed[name] = (weight * old[name] + (1 - share) * new[name]) / (weight + 1 - share)
    return mixed


def mean_weights(models: Sequence[Weights]) -> Weights:
    """The mean of several models' weights, a soup; what is no number of floating point comes from the first.

    >>> mean_weights([{"w": torch.zeros(1)}, {"w": torch.ones(1)}])
    {'w': tensor([0.5000])}
    """
    return {
        name: torch.stack([each[name] for each in models]).mean(0) if value.is_floating_point() else value
        for name, value in models[0].items()
    }


def select_share(accuracy: Callable[[float], float], shares: Sequence[float] = SHARES) -> float:
    """The largest share of the old weights at which a model is as accurate as the new one, on rows held out.

    Args:
        accuracy: of the model at a share; the new model is at 0, which therefore always qualifies.
        shares: those tried.

    >>> select_share(lambda share: 0.9 - max(0.0, share - 0.32))
    0.3
    """
    least = accuracy(0.0)
    return max((share for share in shares if share and accuracy(share) >= least), default=0.0)


@dataclass(frozen=True)
class BCWI(Continual):
    """Fine-tuning from the old weights, and some of the way back to them, after every task but the first.

    Attributes:
        share: alpha, of the old weights; `select_share` finds it on rows held out.
        fisher: go back further where the old model's Fisher information on its own data is large.
        fisher_rows, labels: whose gradients make it; see `diagonal_fisher`.
        soup: how many new models are trained, each from the old weights in an order of its own, and averaged.
    """

    share: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    fisher: bool = False
    fisher_rows: Annotated[int, AtLeast(1)] = 200
    labels: Labels = "exact"
    soup: Annotated[int, AtLeast(1)] = 1

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {**state, "old": everything_of(model)} if data.number else state

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        if "old" in state:
            old, new = state["old"], mean_weights([everything_of(model), *self.others(state["old"], model, data)])
            fisher = state["fisher"] if self.fisher else {}
            put_back(
                model,
                fisher_interpolated(old, new, fisher, self.share) if fisher else interpolated(old, new, self.share),
            )
            refresh_batch_norm(model, data)
        if not self.fisher:
            return {}
        return {"fisher": diagonal_fisher(model, data, rows=self.fisher_rows, labels=self.labels)}

    def others(self, old: Weights, model: nn.Module, data: Present) -> list[Weights]:
        """The further models of the soup, trained as the first one was but for the order of the rows."""
        made = []
        for _ in range(self.soup - 1):
            put_back(model, old)
            trained_on(model, Continual(), data.rows, data, data.training["steps"])
            made.append(everything_of(model))
        return made
