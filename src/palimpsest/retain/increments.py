"""New classes beside exemplars of the old ones, and the old model as teacher: what several methods have in common.

    (1 - l) CE(batch) + l sum over heads of KL(old model || model),    l = n / (n + m)

for n old classes and m of today. The distance is that of answers softened by a temperature, without its square
(`palimpsest.retain.distillation`); batches are of today's rows and exemplars alike. Exemplars of all classes together
fit a buffer in equal parts, those of each class chosen by herding.

Sources: Wu et al. (2019), Large scale incremental learning, arXiv 1905.13260; Rebuffi et al. (2017), iCaRL, arXiv
1611.07725.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, Examples, counted, herding, joined
from palimpsest.retain.continual import (
    Present,
    State,
    as_it_was,
    everything_of,
    features_of,
    of_all,
    only_allowed,
)
from palimpsest.retain.distillation import distillation
from palimpsest.retain.prototypes import OnFeatures
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import Above, AtLeast


@dataclass(frozen=True)
class ExemplarDistillation(OnFeatures):
    """Exemplars by herding and distillation, each weighted by its share of the classes.

    Attributes:
        size: exemplars of all classes together.
        temperature: of the answers that are compared.
    """

    size: Annotated[int, AtLeast(1)] = 200
    temperature: Annotated[float, Above(0)] = 2.0

    def init(self, model: nn.Module, data: Present) -> State:
        return {"buffer": Buffer(capacity=self.size)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if not data.number:
            return state
        today = of_today(data)
        old = data.old & ~today
        heads = data.heads & ~today
        share = float(old.sum() / (old.sum() + today.sum()))
        # A head of one class has only one answer to give.
        return {**state, "old": everything_of(model), "heads": heads[heads.sum(1) > 1], "share": share}

    def rows(self, state: State, data: Present) -> Examples:
        return together(state["buffer"], data.rows)

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits = logits_of(model, batch)
        new = F.cross_entropy(only_allowed(logits, batch), batch["labels"])
        if "old" not in state:
            return {"new": new}
        with as_it_was(model, state["old"]):
            teacher = self.taught(state, logits_of(model, batch))
        held = distillation(logits, teacher, state["heads"], self.temperature)
        return {"new": (1 - state["share"]) * new, "held": state["share"] * held}

    def taught(self, state: State, logits: Tensor) -> Tensor:
        """What the teacher says, of what the old model's network says."""
        return logits

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {"buffer": with_exemplars(state["buffer"], data.rows, model, self.size)}


def of_today(data: Present) -> Tensor:
    """Which classes today's rows are of [classes]."""
    today = torch.zeros_like(data.known)
    today[data.rows.labels] = True
    return today


def together(*parts: Examples) -> Examples:
    """The rows of all parts that have any, of the columns that all have."""
    return Examples(joined([part.columns for part in parts if len(part)]))


def with_exemplars(buffer: Buffer, rows: Examples, model: nn.Module, size: int) -> Buffer:
    """A buffer of `size` rows, equally many of each class, at least one: of a class of `rows` those that herding takes
    from them and what was there, of others the first."""
    today = set(rows.labels.unique().tolist())
    classes = sorted(today | set(buffer.seen))
    each, found = max(1, size // len(classes)), []
    for label in classes:
        if label in today:
            of_class = together(*(part.of_class(label) for part in (buffer, rows) if len(part)))
            found.append(of_class.at(herding(of_all(features_of, model, of_class), each)).columns)
        else:
            # What was herded before is in order: its beginning stands for the class as well as fewer can.
            found.append(buffer.of_class(label).at(slice(each)).columns)
    return buffer.keeping(joined(found), counted(rows.labels))
