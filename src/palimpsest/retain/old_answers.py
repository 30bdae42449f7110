"""What the old model says of old rows is kept: a divergence from it on the rows of a buffer.

    CE(batch) + strength T^2 KL(old model || model) on as many rows of the buffer

Between replay (`ER`), which learns the labels of old rows again, and `LwF`, which asks the old model about new rows.
The labels of the buffer's rows are not looked at, but for the tokens of a language model, which say what is asked
after; rows that the model wrote itself do as well. It is the term that keeps the rest in unlearning (KL minimisation:
Maini et al. (2024), arXiv 2401.06121) and what holds a policy near its reference (Stiennon et al. (2020), arXiv
2009.01325).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from palimpsest.retain.continual import Present, State, as_it_was, cross_entropy, everything_of
from palimpsest.retain.distillation import distillation
from palimpsest.retain.replay import ER
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import Above, AtLeast


@dataclass(frozen=True)
class OldAnswers(ER):
    """Cross-entropy of the new rows, and KL from the model before the task on rows of the buffer.

    Attributes:
        size, replayed, kept: as in `ER`.
        strength: weight of the divergence.
        temperature: T.
    """

    strength: Annotated[float, AtLeast(0)] = 1.0
    temperature: Annotated[float, Above(0)] = 1.0

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {**state, "old": everything_of(model), "heads": data.heads} if data.number else state

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        terms = {"new": cross_entropy(model, batch)}
        if "old" in state and "memory" in batch:
            held = self._held(state, model, batch["memory"])
            terms["held"] = self.strength * self.temperature**2 * held
        return terms

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        return super().after_task({"buffer": state["buffer"]}, model, data)

    def _held(self, state: State, model: nn.Module, rows: dict[str, Any]) -> Tensor:
        if "input_ids" in rows:
            from palimpsest.retain.tokens import distilled, old_answers  # late: transformers takes seconds

            with as_it_was(model, state["old"]):
                teacher = old_answers(model, rows, self.temperature)
            return distilled(teacher, model, rows, self.temperature)
        with as_it_was(model, state["old"]):
            teacher = logits_of(model, rows)
        return distillation(logits_of(model, rows), teacher, state["heads"], self.temperature)
