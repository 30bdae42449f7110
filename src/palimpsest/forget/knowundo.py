"""KnowUnDo and MemFlex (Tian, Liang, Cheng, Liu, Wang, Sui, Chen, Chen and Zhang, 2024, arXiv 2407.01920).

The benchmark draws a line through what a model knows of one subject: a person's address is to go, the same person's
prize is to stay (`knowundo_task`). Methods that ascend on the one lose the other too: *excessive unlearning*.

How much is scored by `palimpsest.forget.knowundo_measures`.

MemFlex looks for the tensors in which forgetting does not pull at what stays. Of every tensor k it compares the
gradients on the rows to forget and to keep, both with RANDOM words in the answers (else what a trained model knows by
heart would have no gradient left), and lets only those move where they point apart and forgetting has a grip:

    cos(G_u[k], G_r[k]) < sim  and  mean|G_u[k]| > grad;        loss = -0.4 CE(unlearn) + 2 CE(retain)

The paper's thresholds, 0.92 and 6e-4, are for the LoRA matrices of 7B models; grad=None takes the median over tensors.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.masks import apply_masks
from palimpsest.forget.memflex_region import memflex_locate
from palimpsest.forget.procedure import Batch, ForgetData
from palimpsest.lazy import front_door
from palimpsest.tasks.private_people import knowundo_task as knowundo_task
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast, AtMost


@dataclass(frozen=True)
class MemFlex(Objective):
    """-w CE(unlearn) + v CE(retain), by steps on the located tensors only; all others stay, to the bit (under weight
    decay with `optimizer=palimpsest.forget.masks.sparing(...)`).

    Attributes:
        unlearn_weight: w.
        retain_weight: v.
        sim: the gradients' cosine in a tensor that may move is below it.
        grad: the mean absolute gradient on the rows to forget is above it; None takes the median over tensors.
        copies: how many random answers each row gets when tensors are located.
        replaced: how much of an answer is random: "half" of its tokens, or "all".
        names: a regular expression: only parameters whose name it finds may move.
        located: "memflex", or "random": as many tensors, drawn at random.
        seed: of the random answers and tensors.
    """

    unlearn_weight: Annotated[float, AtLeast(0)] = 0.4
    retain_weight: Annotated[float, AtLeast(0)] = 2.0
    sim: Annotated[float, AtLeast(-1), AtMost(1.1)] = 0.92
    grad: Annotated[float | None, AtLeast(0)] = 6e-4
    copies: Annotated[int, AtLeast(1)] = 3
    replaced: Literal["half", "all"] = "half"
    names: str = ""
    located: Literal["memflex", "random"] = "memflex"
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    @property
    def inner(self) -> GradAscent:
        """The objective that is minimised."""
        return GradAscent(forget_weight=self.unlearn_weight, retain="ce", retain_weight=self.retain_weight)

    def locate(self, model: nn.Module, data: ForgetData) -> list[str]:
        """The names of the tensors that may move, at the model's present weights."""
        options = {name: getattr(self, name) for name in ("sim", "grad", "copies", "replaced", "names", "seed")}
        options["special_ids"] = data.tokenizer.all_special_ids if data.tokenizer is not None else [data.pad_id]
        found = memflex_locate(model, data.forget, data.retain, **options, pad_id=data.pad_id)
        if self.located == "memflex":
            return found
        every = [name for name, p in model.named_parameters() if p.requires_grad and re.search(self.names, name)]
        return random.Random(self.seed).sample(every, len(found))

    def init(self, model: nn.Module, data: ForgetData) -> dict[str, Tensor]:
        return {name: torch.tensor(True) for name in self.locate(model, data)}

    def loss(self, state: dict[str, Tensor], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.inner.loss(None, model, batch)

    def gradients(self, state: dict[str, Tensor], model: nn.Module) -> None:
        apply_masks(model, state)


_MOVED = {
    "forget.knowundo_measures": ("BASELINES", "KnowUnDoScores", "Rows", "SetScores", "accuracy", "knowundo_score"),
    "forget.memflex_region": ("region",),
    "forget.random_answers": ("random_answers",),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
