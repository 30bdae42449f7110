"""A learner whose own learning rate is at the mercy of what it learns to recognise.

Source: Man, Damasio and Neven (2022), Need is all you need: homeostatic neural networks adapt to concept shift, arXiv
2205.08645.

The learner has a state s from 0 to s_max, and learns at the rate lr 10^s. Objects have effects e_y, 1 or -1, that
belong to their label. It consumes an object only if it takes it for one that brings s nearer to the set point, that is
if e_p (setpoint - s) > 0 for the label p that it predicts; but what acts is the effect of the true label y:

    s <- s + kappa e_y    for each object consumed;     s <- clip(s + drift, 0, s_max)    for each batch

Who sees rightly keeps s low. When labels change their meaning, objects taken for what they are no longer drive s up,
and with it the rate, until the new meaning is learned.

The rate is a factor of the loss, under plain gradient descent; `online_learning` takes a learner through a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.train.classification import logits_of
from palimpsest.train.method import Method, Objective
from palimpsest.train.randomness import of_batch
from palimpsest.train.ranges import Above, AtLeast


@dataclass(frozen=True)
class Constant(Method):
    """The rate stays as it is: s = 0."""

    def regulated(
        self, s: float, predicted: Sequence[int], labels: Sequence[int], effects: Sequence[int], draws: torch.Generator
    ) -> float:
        """The state behind a batch."""
        return s


@dataclass(frozen=True)
class RandomWalk(Constant):
    """The state goes up or down by `drift` with every batch, at even odds, whatever the batch is.

    Attributes:
        s_max: the highest state.
        drift: the length of a step.
    """

    s_max: Annotated[float, Above(0)] = 0.5
    drift: Annotated[float, AtLeast(0)] = 0.3

    def regulated(
        self, s: float, predicted: Sequence[int], labels: Sequence[int], effects: Sequence[int], draws: torch.Generator
    ) -> float:
        step = self.drift if torch.rand((), generator=draws) < 0.5 else -self.drift
        return min(max(s + step, 0.0), self.s_max)


@dataclass(frozen=True)
class Homeostat(Constant):
    """The state follows from what is consumed.

    Attributes:
        s_max: the highest state.
        kappa: how strongly an object acts.
        drift: the cost of living, for each batch.
        setpoint: where the learner would have its state.

    >>> one = Homeostat().regulated(0.5, [1, 1, 0], [1, 0, 0], effects=[1, -1], draws=torch.Generator())
    >>> round(one, 6)  # down by the first, up again by the second, which was mistaken; the third is left alone
    0.5
    """

    s_max: Annotated[float, Above(0)] = 0.5
    kappa: Annotated[float, AtLeast(0)] = 0.3
    drift: Annotated[float, AtLeast(0)] = 0.3
    setpoint: float = 0.0

    def regulated(
        self, s: float, predicted: Sequence[int], labels: Sequence[int], effects: Sequence[int], draws: torch.Generator
    ) -> float:
        for prediction, label in zip(predicted, labels, strict=True):
            if effects[prediction] * (self.setpoint - s) > 0:
                s += self.kappa * effects[label]
        return min(max(s + self.drift, 0.0), self.s_max)


@dataclass(frozen=True)
class Regulated(Objective):
    """The cross-entropy times 10^s, for training by plain gradient descent.

    Attributes:
        regulator: what becomes of s.
        effects: of each label, 1 or -1.
        seed: of what the regulator draws.
    """

    regulator: Any = Homeostat()
    effects: tuple[int, ...] = (1, -1)
    seed: int = 0

    def init(self, model: nn.Module, data: Any) -> dict[str, Any]:
        return {"s": 0.0, "right": [], "states": []}

    def loss(self, state: dict[str, Any], model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, labels = logits_of(model, batch), batch["labels"]
        predicted = logits.argmax(1)
        draws = of_batch(self.seed, len(state["right"]))
        told = predicted.tolist(), labels.tolist(), self.effects
        state["s"] = self.regulator.regulated(state["s"], *told, draws)
        state["right"].append(float((predicted == labels).float().mean()))
        state["states"].append(state["s"])
        return {"loss": 10 ** state["s"] * F.cross_entropy(logits, labels)}


def around_shifts(values: Sequence[float], shifts: Sequence[int], window: int = 20) -> tuple[float, float]:
    """The means over the batches before shifts and over those from each shift on, of `window` batches each.

    >>> around_shifts([0.0, 0.0, 1.0, 1.0], [2], window=2)
    (0.0, 1.0)
    """
    before = [value for shift in shifts for value in values[max(0, shift - window) : shift]]
    after = [value for shift in shifts for value in values[shift : shift + window]]
    return fmean(before), fmean(after)
