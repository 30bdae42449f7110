"""Bias correction: what distillation leaves of the favour for new classes is a line, fitted on rows that were held out.

Source: Wu, Chen, Wang, Ye, Liu, Guo and Fu (2019), Large scale incremental learning, arXiv 1905.13260.

Stage 1: today's rows and exemplars, by cross-entropy and by distillation from the model before with its correction
(`palimpsest.retain.increments`). A tenth of the exemplars, and as many rows of each new class, take
no part. Stage 2 fits two numbers by cross-entropy on them, the network standing still:

    q_k = o_k of old classes,    q_k = alpha o_k + beta of new classes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, Examples
from palimpsest.retain.continual import Present, State, of_all, with_allowed
from palimpsest.retain.increments import (
    ExemplarDistillation,
    of_today,
    together,
    with_exemplars,
)
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below


def fit_line(
    logits: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    new: Bool[Tensor, " classes"],
    *,
    steps: int = 200,
    lr: float = 1e-2,
    penalty: float = 0.0,
) -> tuple[float, float]:
    """alpha and beta that minimise the mean cross-entropy of logits whose new classes are alpha o + beta, by Adam from
    1 and 0.

    Args:
        logits: -inf for classes that may not be answered.
        penalty: weight of beta^2.

    >>> logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])  # as often of class 0 as of class 1
    >>> alpha, beta = fit_line(logits, torch.tensor([0, 1]), torch.tensor([False, True]), steps=500)
    >>> abs(2 * alpha + beta) < 0.01
    True
    """
    line = torch.tensor([1.0, 0.0], dtype=logits.dtype, device=logits.device, requires_grad=True)
    adam, shut = torch.optim.Adam([line], lr=lr), logits.isinf()
    finite = logits.masked_fill(shut, 0)
    for _ in range(steps):
        corrected = torch.where(new, line[0] * finite + line[1], finite).masked_fill(shut, -torch.inf)
        adam.zero_grad()
        (F.cross_entropy(corrected, labels) + penalty * line[1].square()).backward()
        adam.step()
    return tuple(line.detach().tolist())


@dataclass(frozen=True)
class BiC(ExemplarDistillation):
    """Exemplars and distillation, and a line that makes new classes' logits comparable with old ones'.

    Attributes:
        size, temperature: as in `ExemplarDistillation`; the exemplars include those that are held out.
        held_out: the share of a class's exemplars that only the line is fitted on; at least one where there are two.
        correct: "latest" corrects the classes of the last task alone, as the paper does; "all" keeps every task's line.
        line_steps, line_lr: of Adam.
        penalty: weight of beta^2; the authors' code has 0.05.
    """

    held_out: Annotated[float, Above(0), Below(1)] = 0.1
    correct: Literal["latest", "all"] = "latest"
    line_steps: Annotated[int, AtLeast(1)] = 200
    line_lr: Annotated[float, Above(0), AtMost(1)] = 1e-2
    penalty: Annotated[float, AtLeast(0)] = 0.0

    def init(self, model: nn.Module, data: Present) -> State:
        line = torch.stack([torch.ones(len(data.known)), torch.zeros(len(data.known))])
        return {**super().init(model, data), "held": Buffer(capacity=self.size), "lines": line}

    def apart(self, classes: int) -> tuple[int, int]:
        """How many exemplars of each of so many classes are learned from, and how many are held out."""
        each = max(1, self.size // classes)
        held = max(1, round(self.held_out * each)) if each > 1 else 0
        return each - held, held

    def split(self, state: State, data: Present) -> tuple[Examples, Examples]:
        """Today's rows without those held out of each class, and these; as many as there are of an old class."""
        classes = data.rows.labels.unique().tolist()
        count = self.apart(len(state["buffer"].seen) or len(classes))[1]
        numbered = Examples({**data.rows.columns, "place": torch.arange(len(data.rows))})
        drawn = numbered.at(torch.randperm(len(numbered), generator=data.generator))
        places = torch.cat([drawn.of_class(label).columns["place"][:count] for label in classes])
        learned = torch.ones(len(data.rows), dtype=torch.bool)
        learned[places] = False
        return data.rows.at(learned), data.rows.at(places)

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        learned, held = self.split(state, data)
        return {**super().before_task(state, model, data), "today": learned.columns, "apart": held.columns}

    def rows(self, state: State, data: Present) -> Examples:
        return together(state["buffer"], Examples(state["today"]))

    def taught(self, state: State, logits: Tensor) -> Tensor:
        alpha, beta = state["lines"].to(logits)
        return alpha * logits + beta

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return self.taught(state, logits_of(model, batch))

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        if "today" in state:
            learned, held = Examples(state["today"]), Examples(state["apart"])
        else:
            learned, held = self.split(state, data)
        lines = self.fitted(state, model, data, together(state["held"], held)) if "old" in state else state["lines"]
        classes = sorted({*state["buffer"].seen, *data.rows.labels.tolist()})
        kept, count = self.apart(len(classes))
        held = together(held, state["held"])
        held = together(*(held.of_class(label).at(slice(count)) for label in classes))
        return {
            "buffer": with_exemplars(state["buffer"], learned, model, kept * len(classes)),
            "held": state["held"].keeping(held.columns, {}),
            "lines": lines,
        }

    def fitted(self, state: State, model: nn.Module, data: Present, rows: Examples) -> Tensor:
        """The lines [2, classes] with that of this task's new classes."""
        new = of_today(data) & ~data.old
        lines = state["lines"].clone().cpu()
        if self.correct == "latest":
            lines[:] = torch.tensor([[1.0], [0.0]])
        if not new.any() or not len(rows) or new[rows.labels].all():
            return lines
        alpha, beta = lines.to(torch.get_default_dtype())
        logits = of_all(logits_of, model, rows)
        allowed = with_allowed(rows.columns, data.allowed)["allowed"]
        logits = (alpha * logits + beta).masked_fill(~allowed, -torch.inf)
        line = fit_line(logits, rows.labels, new, steps=self.line_steps, lr=self.line_lr, penalty=self.penalty)
        lines[:, new] = torch.tensor(line)[:, None]
        return lines
