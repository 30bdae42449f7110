"""The old model teaches the new one: it should go on saying of today's rows what it said of them before.

Source: LwF: Li and Hoiem (2016), Learning without forgetting, arXiv 1606.09282; its old answers are soft targets at a
temperature, as in Hinton, Vinyals and Dean (2015), arXiv 1503.02531.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.losses.divergence import kl_divergence
from palimpsest.retain.continual import (
    Continual,
    Present,
    State,
    as_it_was,
    cross_entropy,
    everything_of,
    only_allowed,
)
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import Above, AtLeast


def distillation(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    heads: Bool[Tensor, "heads classes"],
    temperature: float = 2.0,
) -> Float[Tensor, ""]:
    """sum over heads of KL(softmax(teacher / T) || softmax(student / T)), each among the classes of the head.

    Multiply by T^2 where its gradient should be of the size of cross-entropy's whatever the temperature. The soft
    cross-entropy that some papers have instead differs by the entropy of the teacher, a constant.

    Args:
        heads: the sets of classes among which answers are compared: `Present.heads`.

    >>> z = torch.tensor([[2.0, 0.0, -1.0]])
    >>> distillation(z, z + 3, torch.tensor([[True, True, False]])).item()
    0.0
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    parts = [
        kl_divergence(teacher[:, None, head] / temperature, student[:, None, head] / temperature) for head in heads
    ]
    return torch.stack(parts).sum() if parts else student.new_zeros(())


@dataclass(frozen=True)
class LwF(Continual):
    """Learning without forgetting: cross-entropy of the new labels, and distillation of the old classes' answers.

        CE(batch) + strength T^2 sum over heads of KL(old model || model)

    Of rows of tokens, KL is that of the scored tokens' distributions.

    Attributes:
        strength: weight of the old model's answers.
        temperature: T.
    """

    strength: Annotated[float, AtLeast(0)] = 1.0
    temperature: Annotated[float, Above(0)] = 2.0

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {"old": everything_of(model), "heads": data.heads} if data.number else state

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if "input_ids" in batch:
            return self._of_tokens(state, model, batch)
        logits = logits_of(model, batch)
        terms = {"new": F.cross_entropy(only_allowed(logits, batch), batch["labels"])}
        if state:
            with as_it_was(model, state["old"]):
                teacher = logits_of(model, batch)
            held = distillation(logits, teacher, state["heads"], self.temperature)
            terms["held"] = self.strength * self.temperature**2 * held
        return terms

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {}

    def _of_tokens(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        from palimpsest.retain.tokens import distilled, old_answers  # late: transformers takes seconds

        terms = {"new": cross_entropy(model, batch)}
        if state:
            with as_it_was(model, state["old"]):
                teacher = old_answers(model, batch, self.temperature)
            held = distilled(teacher, model, batch, self.temperature)
            terms["held"] = self.strength * self.temperature**2 * held
        return terms
