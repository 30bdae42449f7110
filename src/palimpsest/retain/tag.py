"""Task-based accumulated gradients: an optimizer with a memory of each task, which goes carefully where tasks disagree.

Source: Malviya, Ravindran and Chandar (2021), TAG: task-based accumulated gradients for lifelong learning, arXiv
2105.05155.

Every parameter tensor has, for every task, a first moment M and a second moment V. An earlier task tau counts the more
in the denominator of task t, the more its gradients pointed the other way:

    alpha(t, tau) = exp(-b cos(M_t, M_tau)),    alpha(t, t) = exp(-b),    M_tau and V_tau as they were when tau ended
    step = lr g / (sqrt(sum_{tau <= t} alpha(t, tau) V_tau) + eps)

In the first task alpha is 1: plain RMSProp, Adagrad or Adam. With b = 0 all tasks count alike. `TAG` is the optimizer;
`palimpsest.retain.tag_learner.TAGLearner` takes its steps in `learn_stream`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

Rule = Literal["rmsprop", "adagrad", "adam"]
BETA2 = {"rmsprop": 0.99, "adagrad": 0.99, "adam": 0.999}

Memory = dict[str, Any]
"""of one tensor: `moment` and `square` of the present task, `steps` of it and the sum of its `alphas`; `directions`
[tasks, numbers] (the moments at length 1) and `squares` [tasks, ...] of the earlier ones, and their mean `history`"""


def relatedness(
    moment: Float[Tensor, " p"], directions: Float[Tensor, "tasks p"], b: float = 5.0
) -> Float[Tensor, " tasks"]:
    """exp(-b cos) of a moment with directions of length 1: large where they disagree; the cosine with zero is 0.

    >>> relatedness(torch.tensor([2.0, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), b=1.0)
    tensor([0.3679, 1.0000, 1.0000])
    """
    return torch.exp(-b * (directions @ _direction(moment)))


def fresh_memory(p: Tensor) -> Memory:
    """The memory of a tensor before the first task."""
    zeros = torch.zeros(p.shape, dtype=p.dtype, device=p.device)
    earlier = {"directions": p.new_zeros(0, p.numel()), "squares": p.new_zeros(0, *p.shape)}
    return {"moment": zeros, "square": zeros.clone(), "steps": 0, "alphas": p.new_zeros(0), **earlier, "history": []}


def accumulated(
    gradient: Tensor, memory: Memory, *, rule: Rule, b: float, beta1: float, beta2: float, eps: float
) -> Tensor:
    """What is subtracted at learning rate 1, of the gradient's shape; the memory takes the gradient up in place."""
    moment, square, memory["steps"] = memory["moment"], memory["square"], memory["steps"] + 1
    moment.lerp_(gradient, 1 - beta1)
    square.mul_(1.0 if rule == "adagrad" else beta2)
    square.addcmul_(gradient, gradient, value=1.0 if rule == "adagrad" else 1 - beta2)
    total = square
    if len(memory["squares"]):
        alphas = relatedness(moment.flatten(), memory["directions"], b)
        memory["alphas"] += alphas
        total = torch.tensordot(alphas, memory["squares"], dims=1) + math.exp(-b) * square
    if rule != "adam":
        return gradient / (total.sqrt() + eps)
    first, second = 1 - beta1 ** memory["steps"], 1 - beta2 ** memory["steps"]
    return moment / first / ((total / second).sqrt() + eps)


def closed(memory: Memory) -> Memory:
    """The memory when the present task ends: what was gathered in it stays, and the next begins with zeros."""
    again = fresh_memory(memory["moment"])
    return {
        **again,
        "alphas": memory["moment"].new_zeros(len(memory["squares"]) + 1),
        "directions": torch.cat([memory["directions"], _direction(memory["moment"].flatten())[None]]),
        "squares": torch.cat([memory["squares"], memory["square"][None]]),
        "history": [*memory["history"], memory["alphas"] / max(memory["steps"], 1)],
    }


class TAG(Optimizer):
    """The optimizer, in any loop: `start_task()` before every task, or `end_task()` after it.

    Args:
        params, lr: as in torch.
        rule: what is accumulated, and how.
        b: how much the tasks' disagreement counts; 0 for nothing.
        beta1, beta2: decay of the moments; beta2 is 0.99, for Adam 0.999, unless it is given.
        eps: added to the root.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = TAG([w], lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.start_task()
    ...     w.square().sum().backward()
    ...     optimizer.step()
    >>> optimizer.state_bytes()
    20
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        rule: Rule = "rmsprop",
        b: float = 5.0,
        beta1: float = 0.9,
        beta2: float | None = None,
        eps: float = 1e-8,
    ) -> None:
        if lr <= 0 or b < 0 or rule not in BETA2:
            raise ValueError(f"lr must be above 0, b at least 0 and rule one of {[*BETA2]}, got {lr}, {b}, {rule}")
        betas = {"beta1": beta1, "beta2": BETA2[rule] if beta2 is None else beta2}
        super().__init__(params, {"lr": lr, "rule": rule, "b": b, **betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            rule = {name: group[name] for name in ("rule", "b", "beta1", "beta2", "eps")}
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p] = self.state[p] or fresh_memory(p)
                    p.sub_(accumulated(p.grad, self.state[p], **rule), alpha=group["lr"])
        return loss

    def start_task(self) -> None:
        """A new task begins; what came before is kept as it is. Nothing happens if no step was taken since."""
        if any(memory["steps"] for memory in self.state.values()):
            self.end_task()

    def end_task(self) -> None:
        """The present task is over. A tensor that had no gradient in it is kept with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = closed(self.state[p] or fresh_memory(p))

    def state_bytes(self) -> int:
        """What the memory of all tasks weighs: two tensors a task, and a few numbers."""
        parts = [part for memory in self.state.values() for part in memory.values()]
        each = [one for part in parts for one in (part if isinstance(part, list) else [part])]
        return sum(one.nbytes for one in each if isinstance(one, Tensor))


def _direction(moment: Tensor) -> Tensor:
    return moment / moment.norm().clamp(min=torch.finfo(moment.dtype).tiny)
