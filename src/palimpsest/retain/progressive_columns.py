"""Progressive columns: every task has a network of its own, which reads what the earlier ones made of a row.

Source: Rusu et al. (2016), Progressive neural networks, arXiv 1606.04671; in the review of Parisi, Kemker, Part, Kanan
and Wermter (2018), arXiv 1802.07569, the first of the dynamic architectures.

Column k has layers of its own and adapters from all columns before it, which stand still:

    h_l^k = relu(W_l^k h_{l-1}^k + sum_{j<k} U_l^{k,j} h_{l-1}^j)

Nothing is forgotten, and the network grows with the square of the number of tasks. Each class is answered by the last
column that learned it: where the task of a row is told, by its own column, else columns are compared that were never
trained together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from palimpsest.models.forward import device_of
from palimpsest.retain.continual import Continual, Present, State, everything_of
from palimpsest.retain.increments import of_today
from palimpsest.retain.pec_networks import drawn_weights
from palimpsest.retain.phases import input_name, trained_on
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast


class Column(nn.Module):
    """The layers of one column, its last layer among them, and adapters from those before it."""

    def __init__(self, inputs: int, hidden: int, layers: int, classes: int, before: int) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * layers, classes]
        self.own = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        # The input is the same for all columns: adapters begin behind the first layer.
        self.adapters = nn.ModuleList(
            nn.ModuleList(nn.Linear(*shape, bias=False) for _ in range(before)) for shape in pairwise(sizes[1:])
        )

    def forward(self, x: Float[Tensor, "batch inputs"], before: list[list[Tensor]]) -> list[Tensor]:
        """What each layer says, the last one's logits included, of rows and what earlier columns made of them."""
        said: list[Tensor] = []
        for number, layer in enumerate(self.own):
            h = layer(said[-1] if number else x)
            for adapter, column in zip(self.adapters[number - 1] if number else (), before, strict=False):
                h = h + adapter(column[number - 1])
            said.append(h if layer is self.own[-1] else h.relu())
        return said


class Columns(nn.Module):
    """All columns: the logits of each in the end."""

    def __init__(self, inputs: int, hidden: int, layers: int, classes: int, count: int) -> None:
        super().__init__()
        self.columns = nn.ModuleList(Column(inputs, hidden, layers, classes, before) for before in range(count))

    def forward(self, x: Float[Tensor, "batch inputs"]) -> list[Float[Tensor, "batch classes"]]:
        said: list[list[Tensor]] = []
        for column in self.columns:
            said.append(column(x.flatten(1), said))
        return [each[-1] for each in said]


@dataclass(frozen=True)
class LastColumn(Objective):
    """Cross-entropy of the newest column, among the classes of its task.

    Attributes:
        classes: these.
    """

    classes: Tensor

    def loss(self, state: None, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits = model(batch[input_name(batch)])[-1].masked_fill(~self.classes.to(batch["labels"].device), -torch.inf)
        return {"new": F.cross_entropy(logits, batch["labels"])}


@dataclass(frozen=True)
class ProgressiveColumns(Continual):
    """A column a task; the model that is given is neither asked nor trained.

    Attributes:
        hidden: neurons of each layer of a column.
        layers: hidden layers of a column.
    """

    hidden: Annotated[int, AtLeast(1)] = 64
    layers: Annotated[int, AtLeast(1)] = 2

    def init(self, model: nn.Module, data: Present) -> State:
        return {"columns": {}, "answers": torch.full((len(data.known),), -1)}

    def made(self, rows: Tensor, classes: int, count: int) -> Columns:
        """So many columns for rows like these, without weights."""
        with torch.device("meta"):
            return Columns(rows[0].numel(), self.hidden, self.layers, classes, count).to(rows.dtype)

    def steps(self, state: State, data: Present, steps: int) -> int:
        return 0

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        rows, count = data.rows.columns[input_name(data.rows.columns)], data.number
        network = self.made(rows, len(data.known), count + 1)
        prefix = f"columns.{count}."
        fresh = drawn_weights(network.columns[count], data.generator)
        network = network.to_empty(device=device_of(model))
        network.load_state_dict({**state["columns"], **{prefix + name: value for name, value in fresh.items()}})
        for name, p in network.named_parameters():
            p.requires_grad_(name.startswith(prefix))
        today = of_today(data)
        trained_on(network, LastColumn(today), data.rows, data, data.training.get("steps", 0))
        answers = torch.where(today, count, state["answers"])
        return {"columns": everything_of(network), "answers": answers}

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        x, answers = batch[input_name(batch)], state["answers"].to(device_of(model))
        network = self.made(x[:1], len(answers), 1 + int(answers.max()))
        said = functional_call(network, state["columns"], x) if state["columns"] else []
        scores = x.new_full((len(x), len(answers)), torch.finfo(x.dtype).min)
        for number, logits in enumerate(said):
            scores = torch.where(answers == number, logits, scores)
        return scores
