"""What an update costs those who relied on the old model: flips, and the ensemble that has fewest of them.

Source: as in `palimpsest.retain.bcwi`; negative flips are Yan et al. (2021), Positive-congruent training, arXiv
2011.09161.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.retain.continual import Continual, Present, State, as_it_was, everything_of, only_allowed
from palimpsest.train.classification import logits_of


def negative_flip_rate(old: Int[Tensor, " n"], new: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """The share of all rows that the old model had right and the new one has wrong.

    >>> old, new, labels = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 1, 1])
    >>> negative_flip_rate(old, new, labels), positive_flip_rate(old, new, labels)
    (0.25, 0.25)
    """
    _alike(old, new, labels)
    return float(((old == labels) & (new != labels)).double().mean())


def positive_flip_rate(old: Int[Tensor, " n"], new: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """The share of all rows that the old model had wrong and the new one has right."""
    return negative_flip_rate(new, old, labels)


def share_of_errors_that_are_new(old: Int[Tensor, " n"], new: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """The negative flip rate over the new model's rate of errors; 0 where it makes none.

    >>> share_of_errors_that_are_new(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0, 0]))
    1.0
    """
    errors = float((new != labels).double().mean())
    return negative_flip_rate(old, new, labels) / errors if errors else 0.0


@dataclass(frozen=True)
class OldAndNew(Continual):
    """Fine-tuning, and answers that are the mean of the probabilities before the task and after it: two models to ask.

    The old model is the one before the last task that was learned.
    """

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {"old": everything_of(model), "known": data.old} if data.number else state

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        new = only_allowed(logits_of(model, batch), batch)
        if "old" not in state:
            return new
        with as_it_was(model, state["old"]):
            before = {**batch, "allowed": batch["allowed"] & state["known"].to(new.device)}
            old = only_allowed(logits_of(model, batch), before)
        return torch.stack([old, new]).softmax(2).nan_to_num(0).mean(0).log()


def _alike(*answers: Tensor) -> None:
    shapes = [tuple(each.shape) for each in answers]
    if len(set(shapes)) > 1 or not len(answers[0]):
        raise ValueError(f"answers and labels must be of the same rows, one at least, got {shapes}")
