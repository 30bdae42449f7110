"""Replay: a few rows of earlier tasks are learned again beside the new ones. And its ends: no replay, and all of it.

`FineTune` forgets as nothing hinders it, `Joint` learns from all rows that ever came: floor and ceiling of every
comparison. `ER`, `DERpp`, `AGEM` keep a buffer that is filled when a task ends; `GDumb` learns from its buffer alone.

Sources: ER: Chaudhry et al. (2019), On tiny episodic memories, arXiv 1902.10486; DER++: Buzzega et al. (2020), Dark
experience for general continual learning, arXiv 2004.07211; A-GEM: Chaudhry et al. (2019), arXiv 1812.00420; GDumb:
Prabhu, Torr and Dokania (2020), GDumb: a simple approach that questions our progress in continual learning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, Examples, class_balanced, joined, reservoir
from palimpsest.retain.continual import (
    Continual,
    Present,
    State,
    cross_entropy,
    everything_of,
    of_all,
    only_allowed,
    put_back,
)
from palimpsest.train.classification import logits_of
from palimpsest.train.gradients import agem, flat_gradient, gradient_of, set_gradient
from palimpsest.train.ranges import Above, AtLeast

KEEP = {"reservoir": reservoir, "class_balanced": class_balanced}


@dataclass(frozen=True)
class FineTune(Continual):
    """Each task as if it were alone: the floor."""


@dataclass(frozen=True)
class Joint(Continual):
    """Every task is learned from the rows of all tasks so far: the ceiling.

    Attributes:
        restart: begin from the first weights with every task, and with as many updates as all tasks so far had; else
            go on from the last.
    """

    restart: bool = False

    def init(self, model: nn.Module, data: Present) -> State:
        return {"buffer": Buffer(), "first": everything_of(model) if self.restart else {}}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if self.restart:
            put_back(model, state["first"])
        return state

    def rows(self, state: State, data: Present) -> Examples:
        return Examples(joined([part.columns for part in (state["buffer"], data.rows) if len(part)]))

    def steps(self, state: State, data: Present, steps: int) -> int:
        return steps * (data.number + 1) if self.restart else steps

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {**state, "buffer": replace(state["buffer"], columns=self.rows(state, data).columns)}


@dataclass(frozen=True)
class ER(Continual):
    """Experience replay: one mean cross-entropy over the batch and as many rows of the buffer.

    Attributes:
        size: rows of the buffer.
        replayed: rows that are replayed in a step; None for as many as the batch has.
        kept: which rows stay: a reservoir of all that passed, or equally many a class.
    """

    size: Annotated[int, AtLeast(1)] = 200
    replayed: Annotated[int | None, AtLeast(1)] = None
    kept: Literal["reservoir", "class_balanced"] = "reservoir"

    def init(self, model: nn.Module, data: Present) -> State:
        return {"buffer": Buffer(capacity=self.size)}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        if not len(state["buffer"]):
            return batch
        return {**batch, "memory": state["buffer"].draw(self.replayed or len(batch["labels"]), generator)}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"both": cross_entropy(model, joined([batch, batch["memory"]]) if "memory" in batch else batch)}

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        passed = self.stored(model, data.shuffled())
        return {**state, "buffer": KEEP[self.kept](state["buffer"], passed, data.generator)}

    def stored(self, model: nn.Module, rows: Examples) -> Examples:
        """Rows with all that the buffer keeps of them."""
        return rows


@dataclass(frozen=True)
class DERpp(ER):
    """Dark experience replay: the model should say of stored rows what it said of them when their task had ended.

        CE(batch) + alpha |logits - stored logits|^2 / classes + beta CE(buffer),     two draws from the buffer

    The paper stores logits along the way and in every epoch; here each row passes by once, at the end of its task.

    Attributes:
        size, replayed, kept: as in `ER`; a row weighs more, for its logits (`rows_within` compares at equal bytes).
        alpha: weight of the stored logits.
        beta: weight of the labels of replayed rows; 0 makes it DER.
    """

    alpha: Annotated[float, AtLeast(0)] = 0.1
    beta: Annotated[float, AtLeast(0)] = 0.5

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        drawn = super().replay(state, batch, generator)
        return {**drawn, "dark": super().replay(state, batch, generator)["memory"]} if "memory" in drawn else batch

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if "memory" not in batch:
            return super().loss(state, model, batch)
        parts = [batch, batch["dark"], batch["memory"]]
        sizes = [len(part["labels"]) for part in parts]
        logits = logits_of(model, joined(parts)).split(sizes)
        new, old = (F.cross_entropy(only_allowed(logits[i], parts[i]), parts[i]["labels"]) for i in (0, 2))
        dark = F.mse_loss(logits[1], batch["dark"]["logits"])
        return {"new": new, "dark": self.alpha * dark, "old": self.beta * old}

    def stored(self, model: nn.Module, rows: Examples) -> Examples:
        return Examples({**rows.columns, "logits": of_all(logits_of, model, rows)})


@dataclass(frozen=True)
class AGEM(ER):
    """Averaged gradient episodic memory: the gradient of the batch without its part against the buffer's.

    Attributes:
        size, replayed, kept: as in `ER`; the replayed rows only make the reference, they are not learned.
    """

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        state["reference"] = batch.get("memory")
        return {"new": cross_entropy(model, batch)}

    def gradients(self, state: State, model: nn.Module) -> None:
        """Projects what stands at the parameters, where it conflicts."""
        if (reference := state.pop("reference", None)) is None:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        along = gradient_of(cross_entropy(model, reference), trained)
        set_gradient(trained, agem(flat_gradient(trained), along))


@dataclass(frozen=True)
class GDumb(Continual):
    """Keeps a balanced buffer of all that passed, and learns from it alone, from the first weights anew in each task.

    Attributes:
        size: rows of the buffer.
        share: of the updates that others had in all tasks so far, which its training from the first weights gets.
    """

    size: Annotated[int, AtLeast(1)] = 200
    share: Annotated[float, Above(0)] = 1.0

    def init(self, model: nn.Module, data: Present) -> State:
        return {"buffer": Buffer(capacity=self.size), "first": everything_of(model)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        put_back(model, state["first"])
        return {**self._with(state, data), "filled": data.number}

    def rows(self, state: State, data: Present) -> Examples:
        return state["buffer"]

    def steps(self, state: State, data: Present, steps: int) -> int:
        return max(1, round(self.share * steps * (data.number + 1)))

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        return state if state.get("filled") == data.number else self._with(state, data)  # of a task learned elsewhere

    def _with(self, state: State, data: Present) -> State:
        return {**state, "buffer": class_balanced(state["buffer"], data.shuffled(), data.generator)}
