"""TAG's steps in a stream of tasks, with replay or A-GEM beneath them if asked for (see `palimpsest.retain.tag`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.retain.continual import Continual, Present, State
from palimpsest.retain.replay import AGEM, ER, FineTune
from palimpsest.retain.tag import BETA2, Memory, Rule, accumulated, closed, fresh_memory
from palimpsest.train.ranges import Above, AtLeast, Below


@dataclass(frozen=True)
class TAGLearner(Continual):
    """Takes TAG's steps in a stream, at the learning rate of the training; its own optimizer, so that of the training
    is handed zeros, and only its weight decay is felt.

    Attributes:
        rule, b, beta1, beta2, eps: as in `TAG`.
        beneath: what makes the gradient: the task's rows alone, replay, or A-GEM.
        size, replayed: of the buffer that replay and A-GEM have.
    """

    rule: Rule = "rmsprop"
    b: Annotated[float, AtLeast(0)] = 5.0
    beta1: Annotated[float, AtLeast(0), Below(1)] = 0.9
    beta2: Annotated[float | None, AtLeast(0), Below(1)] = None
    eps: Annotated[float, Above(0)] = 1e-8
    beneath: Literal["nothing", "er", "a_gem"] = "nothing"
    size: Annotated[int, AtLeast(1)] = 200
    replayed: Annotated[int | None, AtLeast(1)] = None

    @property
    def learner(self) -> Continual:
        """What makes the gradient."""
        if self.beneath == "nothing":
            return FineTune()
        return (ER if self.beneath == "er" else AGEM)(self.size, self.replayed)

    def init(self, model: nn.Module, data: Present) -> State:
        if (
            data.training.get("schedule", "constant") != "constant"
            or data.training.get("warmup")
            or data.training.get("clip")
        ):
            raise UserError("TAG takes its own steps at one learning rate: leave out schedule, warmup and clip")
        memories = {name: fresh_memory(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
        return {**self.learner.init(model, data), "memories": memories, "lr": data.training.get("lr", 1e-3)}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        return self.learner.replay(state, batch, generator)

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.learner.loss(state, model, batch)

    @torch.no_grad()
    def gradients(self, state: State, model: nn.Module) -> None:
        """Makes the step of what stands at the parameters, and leaves zeros there."""
        if self.beneath == "a_gem":
            with torch.enable_grad():
                self.learner.gradients(state, model)
        rule = {name: getattr(self, name) for name in ("rule", "b", "beta1", "eps")}
        rule["beta2"] = BETA2[self.rule] if self.beta2 is None else self.beta2
        state["step"] = {}
        for name, p in model.named_parameters():
            if p.grad is not None and name in state["memories"]:
                state["step"][name] = accumulated(p.grad, state["memories"][name], **rule)
                p.grad.zero_()

    @torch.no_grad()
    def after_step(self, state: State, model: nn.Module) -> None:
        steps = state.pop("step", {})
        for name, p in model.named_parameters():
            if name in steps:
                p.sub_(steps[name], alpha=state["lr"])

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        memories = {name: closed(memory) for name, memory in state["memories"].items()}
        return {**self.learner.after_task(state, model, data), "memories": memories}


def alpha_history(memories: Mapping[str, Memory]) -> Float[Tensor, "tasks tasks tensors"]:
    """The mean alpha(t, tau) of each tensor over the steps of task t, which have ended; nan where tau is no earlier
    task."""
    histories = [memory["history"] for memory in memories.values()]
    tasks = len(histories[0])
    found = torch.full((tasks, tasks, len(histories)), torch.nan)
    for place, history in enumerate(histories):
        for task, alphas in enumerate(history):
            found[task, :task, place] = alphas.float().cpu()
    return found
