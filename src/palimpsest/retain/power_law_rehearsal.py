"""Rehearsal as the world gives it: a task comes back the more rarely, the longer ago it was last there.

Source: Gandhi, Shah, Marupudi and Varma (2024), Catastrophic interference is mitigated in naturalistic power-law
learning environments, arXiv 2401.10393.

While task n is current, a task at lag k = n - task + 1 is met with a probability that falls as a power of the lag:

    p(task) ~ k^-d      exponential: e^(-d (k - 1))      uniform: 1      none: the current task alone

What comes back are the environment's own samples: nothing is stored for it, and no row need come twice. Environments
are compared at equal budgets: as many samples of the new task, and as many of earlier ones in all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.retain.buffers import Buffer, joined
from palimpsest.retain.continual import Continual, Present, State, cross_entropy
from palimpsest.train.ranges import AtLeast, Below

Kind = Literal["power", "exponential", "uniform", "none"]


def rehearsal_weights(n: int, kind: Kind = "power", d: float = 1.0) -> Float[Tensor, " tasks"]:
    """How probable each task from 0 to n is while n is current.

    Args:
        n: the current task.
        kind: how the probability falls with the lag.
        d: how fast; 0 is uniform.

    >>> [round(value, 3) for value in rehearsal_weights(2, "power", d=1.0).tolist()]
    [0.182, 0.273, 0.545]
    """
    if n < 0 or d < 0:
        raise ValueError(f"n and d must be at least 0, got n={n}, d={d}")
    lag = torch.arange(n + 1, 0, -1, dtype=torch.float64)
    if kind == "power":
        log = -d * lag.log()
    elif kind == "exponential":
        log = -d * (lag - 1)
    elif kind == "uniform":
        log = torch.zeros_like(lag)
    elif kind == "none":
        log = torch.zeros_like(lag).masked_fill(lag > 1, -torch.inf)
    else:
        raise ValueError(f"kind must be power, exponential, uniform or none, got {kind!r}")
    return log.softmax(0)


def matched_budget(weights: Float[Tensor, " tasks"], rehearsed: float) -> Float[Tensor, " tasks"]:
    """The weights with the share `rehearsed` for all earlier tasks together, and the rest for the current one.

    Else environments would differ by how often earlier tasks come at all. Where there is no earlier task, or none that
    comes, the current one has all.

    >>> matched_budget(rehearsal_weights(2, "power"), rehearsed=0.5)
    tensor([0.2000, 0.3000, 0.5000], dtype=torch.float64)
    """
    if not 0 <= rehearsed < 1:
        raise ValueError(f"rehearsed must be from 0 and below 1, got {rehearsed}")
    earlier = weights[:-1].sum()
    if not earlier:
        return weights
    return torch.cat([weights[:-1] / earlier * rehearsed, weights.new_tensor([1 - rehearsed])])


def tasks_met(
    tasks: int,
    samples: int,
    kind: Kind = "power",
    d: float = 1.0,
    *,
    rehearsed: float | None = None,
    generator: torch.Generator,
) -> Int[Tensor, "phases samples"]:
    """The task of every sample, phase by phase, of an environment in which tasks become current one after another.

    Args:
        tasks: how many; each is current in one phase.
        samples: of a phase.
        rehearsed: see `matched_budget`; None takes the law as it is.
        generator: of the draws.

    >>> met = tasks_met(3, 1000, rehearsed=0.5, generator=torch.Generator().manual_seed(0))
    >>> met[0].unique().tolist(), met[2].unique().tolist()
    ([0], [0, 1, 2])
    """
    met = []
    for n in range(tasks):
        weights = rehearsal_weights(n, kind, d)
        weights = weights if rehearsed is None else matched_budget(weights, rehearsed)
        met.append(torch.multinomial(weights, samples, replacement=True, generator=generator))
    return torch.stack(met)


@dataclass(frozen=True)
class PowerLawRehearsal(Continual):
    """Learning in an environment: with every batch of the current task come samples of earlier ones.

    The state holds all rows that came, since it has to play the environment, and counts which tasks came back.

    Attributes:
        kind, d: as in `rehearsal_weights`.
        rehearsed: the share of earlier tasks among all samples of a phase, whatever the kind.
    """

    kind: Kind = "power"
    d: Annotated[float, AtLeast(0)] = 1.0
    rehearsed: Annotated[float, AtLeast(0), Below(1)] = 0.5

    def init(self, model: nn.Module, data: Present) -> State:
        tasks = len(data.allowed)
        return {"buffer": Buffer(), "current": 0, "met": torch.zeros(tasks, tasks, dtype=torch.long)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {**state, "current": data.number}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        earlier = rehearsal_weights(state["current"], self.kind, self.d)[:-1]
        count = round(len(batch["labels"]) * self.rehearsed / (1 - self.rehearsed))
        if not count or not earlier.any():
            return batch
        tasks = torch.multinomial(earlier, count, replacement=True, generator=generator)
        state["met"][state["current"]] += tasks.bincount(minlength=len(state["met"]))
        rows = state["buffer"].columns["task"].bincount(minlength=len(earlier))
        within = (torch.rand(count, generator=generator) * rows[tasks]).long().minimum(rows[tasks] - 1)
        return {**batch, "memory": state["buffer"].batch((rows.cumsum(0) - rows)[tasks] + within)}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"both": cross_entropy(model, joined([batch, batch["memory"]]) if "memory" in batch else batch)}

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        """All rows, one task after the other."""
        rows = joined([part.columns for part in (state["buffer"], data.rows) if len(part)])
        return {**state, "buffer": replace(state["buffer"], columns=rows)}
