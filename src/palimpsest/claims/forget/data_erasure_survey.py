"""Do rows to keep pay where a model is to forget? (Qu et al. 2024, 2403.15779)"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from palimpsest.benches.arm import Recipe
from palimpsest.benches.authors import AUTHORS, UNTIL_FORGOTTEN
from palimpsest.evidence.sentences import beats, cost, mechanism
from palimpsest.forget.data_erasure_survey_methods import TaskVector, task_vector
from palimpsest.forget.procedure import ForgetData
from palimpsest.train.method import Edit


@dataclass(frozen=True)
class AsFarAsNeeded(Edit):
    """A task vector that is followed in steps, until the level of forgetting is reached.

    Attributes:
        stride: of the factor, from one look to the next; at most 40 of them are taken.
    """

    stride: float = 0.25

    def edit(
        self, model: nn.Module, data: ForgetData, *, evaluate: Callable, stop: Callable, **training: Any
    ) -> nn.Module:
        training.pop("evaluate_every")
        theta = deepcopy(model.state_dict())
        tuned = TaskVector(lam=-1.0).edit(deepcopy(model), data, **training).state_dict()
        for number in range(1, 41):
            model.load_state_dict(task_vector(theta, tuned, number * self.stride))
            if stop(evaluate(model, number)):
                break
        return model


claim = AUTHORS.claim(
    paper="data_erasure_survey",
    question=(
        "Once the forget answers are gone, has a model lost less to gradient difference, which is given rows to keep,"
        " than to a task vector, which is made of the forget rows alone?"
    ),
    name="task_vector",
    method=Recipe(AsFarAsNeeded(), grid={"lr": [3e-4, 5e-4, 1e-3], "steps": [20, 40]}, level=UNTIL_FORGOTTEN),
    central=beats("task_vector", on="model utility", share_of_room=0.10, arm="grad_diff"),
    also=[
        mechanism(beats("task_vector", on="model utility", share_of_room=0.10, arm="npo")),
        cost(beats("grad_diff", on="seconds", by=0.0)),
    ],
    differs=(
        "The survey runs no experiments: that methods with rows to keep are to be preferred is its conclusion. A"
        " two-layer model forgets 20 of 40 authors and is given ten others to keep. All three methods are tuned over"
        " six points and stop at one level of forgetting; a task vector is followed in steps of a quarter of its length"
        " until it gets there. Of the survey's methods KGA and EUL are tests of the room, and whether labels are"
        " forgotten by other methods best than free text is not asked."
    ),
)
