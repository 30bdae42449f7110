"""Prediction error as a score: each class has a small network, and the one that errs least on a row names its class.

Source: Zajac, Tuytelaars and van de Ven (2023), Prediction error-based classification for class-incremental learning,
arXiv 2305.18806.

A large random network h, the teacher, stands still. For each class a small network g_c of the same shape learns to say
what h says, of rows of that class alone; all begin with the same weights. Of a row unlike all that g_c saw, it errs:

    score(x)_c = - mean over outputs of (g_c(x) - h(x))^2

No class takes part in another's training, so that neither their order nor their division into tasks can matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from palimpsest.errors import UserError
from palimpsest.models.forward import device_of
from palimpsest.retain.continual import Continual, Present, State, Weights
from palimpsest.retain.pec_networks import Convolution, Dense, drawn_weights
from palimpsest.train.ranges import Above, AtLeast


def prediction_errors(
    student: Float[Tensor, "batch outputs"], teacher: Float[Tensor, "batch outputs"]
) -> Float[Tensor, " batch"]:
    """The mean square over outputs.

    >>> prediction_errors(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([2.])
    """
    return (student - teacher).square().mean(1)


@dataclass(frozen=True)
class PEC(Continual):
    """A student a class beside a random teacher; the model that is given is neither asked nor trained.

    Rows are learned in the order in which they come, by Adam, at a rate that falls to 0 by a line over a class's rows.

    Attributes:
        network: "dense" for any rows, "convolution" for images.
        width: neurons of a student's hidden layer, or channels of its convolution.
        wider: how many times as wide the teacher is.
        outputs: of all networks.
        lr: at the beginning of a class.
        batch_size: rows of an update.
        passes: over the rows of a class.
    """

    network: Literal["dense", "convolution"] = "dense"
    width: Annotated[int, AtLeast(1)] = 10
    wider: Annotated[int, AtLeast(1)] = 500
    outputs: Annotated[int, AtLeast(1)] = 99
    lr: Annotated[float, Above(0)] = 1e-2
    batch_size: Annotated[int, AtLeast(1)] = 1
    passes: Annotated[int, AtLeast(1)] = 1

    def init(self, model: nn.Module, data: Present) -> State:
        rows = _inputs(data.rows.columns)[:1]
        if self.network == "convolution" and rows.ndim != 4:
            raise UserError(
                f"a convolution needs images, got rows of shape {list(rows.shape[1:])}: use network='dense'"
            )
        device = device_of(model)
        teacher, first = (
            {name: value.to(device) for name, value in drawn_weights(self.made(rows, wider), data.generator).items()}
            for wider in (self.wider, 1)
        )
        return {"teacher": teacher, "first": first, "students": {}}

    def made(self, rows: Tensor, wider: int) -> nn.Module:
        """A network for rows like these, without weights."""
        kind = {"dense": Dense, "convolution": Convolution}[self.network]
        inputs = rows[0].numel() if self.network == "dense" else rows.shape[1]
        with torch.device("meta"):
            return kind(inputs, self.width * wider, self.outputs).to(rows.dtype)

    def steps(self, state: State, data: Present, steps: int) -> int:
        return 0

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        rows = _inputs(data.rows.columns).to(device_of(model))
        network, students = self.made(rows[:1], 1), dict(state["students"])
        with torch.no_grad():
            goals = functional_call(self.made(rows[:1], self.wider), state["teacher"], rows)
        for label in data.rows.labels.unique().tolist():
            own = data.rows.labels == label
            begun = students.get(label, state["first"])
            students[label] = self.taught(network, begun, rows[own], goals[own])
        return {**state, "students": students}

    def taught(self, network: nn.Module, weights: Weights, rows: Tensor, goals: Tensor) -> Weights:
        """A student's weights after its class's rows."""
        weights = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
        adam = torch.optim.Adam(weights.values(), lr=self.lr)
        order = torch.arange(len(rows)).repeat(self.passes).split(self.batch_size)
        falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / len(order))
        for batch in order:
            adam.zero_grad()
            said = functional_call(network, weights, rows[batch])
            prediction_errors(said, goals[batch]).mean().backward()
            adam.step()
            falling.step()
        return {name: value.detach() for name, value in weights.items()}

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        rows = _inputs(batch)
        network = self.made(rows[:1], 1)
        goals = functional_call(self.made(rows[:1], self.wider), state["teacher"], rows)
        scores = rows.new_full((len(rows), batch["allowed"].shape[1]), -torch.inf)
        for label, weights in state["students"].items():
            scores[:, label] = -prediction_errors(functional_call(network, weights, rows), goals)
        return scores


def _inputs(batch: Mapping[str, Tensor]) -> Tensor:
    return batch["pixel_values"] if "pixel_values" in batch else batch["x"]
