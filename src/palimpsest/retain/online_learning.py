"""A stream that is seen once: every batch is answered before it is learned from, by one step of gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from palimpsest.retain.homeostatic import Homeostat, Regulated
from palimpsest.tasks.concept_shift import ConceptShift
from palimpsest.train.loop import fit
from palimpsest.train.method import Edit


class OnlineLearner(nn.Module):
    """A model that has seen a stream once.

    Attributes:
        model: the network.
        right: the share of each batch that was answered rightly before it was learned from.
        states: s, with which each batch was learned.
    """

    def __init__(self, model: nn.Module, right: list[float], states: list[float]) -> None:
        super().__init__()
        self.model, self.right, self.states = model, right, states

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


@dataclass(frozen=True)
class Online(Edit):
    """A stream whose labels change their meaning is learned once, each batch answered first.

    `apply(model, Online(Homeostat()), ConceptShift(x, y), batch_size=4, lr=0.1)`

    Attributes:
        regulator: of the rate.
    """

    regulator: Any = field(default_factory=Homeostat)

    def edit(
        self, model: nn.Module, data: ConceptShift, *, batch_size: int = 4, seed: int = 0, **training: Any
    ) -> OnlineLearner:
        objective = Regulated(self.regulator, tuple(data.effects), seed)
        state = objective.init(model, data)
        training = {"steps": data.steps, "optimizer": "sgd", **training}

        def loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return objective.loss(state, model, batch)

        fit(model, loss, data.batches(batch_size, seed), seed=seed, **training)
        return OnlineLearner(model, state["right"], state["states"])
