"""The stability gap: what is known of earlier tasks falls when a new one begins, and comes back, unseen by who looks
only when a task has ended.

Source: De Lange, van de Ven and Tuytelaars (2022), Continual evaluation for lifelong learning: identifying the
stability gap, arXiv 2205.13452.

With A(E_i, f_n) the accuracy on task i after update n, while task k is learned:

    min-ACC    mean over i < k of the least A(E_i, f_n) since task i was learned
    WC-ACC     A(E_k, f_now) / k + (1 - 1/k) min-ACC
    WF(w)      mean over i of the largest fall within w looks;  WP(w) of the largest rise
    depth      A at the end of task k-1 minus the least A during task k;  made up: of that what was there again in the
               end, min(A before, A after) minus the least: a plain loss that lasts is none of it

`gap_report` takes them of what `learn_stream(..., every=1)` wrote down, or what a `ContinualEvaluator` saw in any other
loop (`palimpsest.retain.stability_gap_measures`).
Why there is a gap shows in the two parts of a step, alpha g_new + (1 - alpha) g_old (`grad_decomposition`): at the
first update of a task the old loss is near its minimum and g_old near 0, so that nothing holds the old back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.metrics.continual import (
    minimum_accuracy,
    recovery,
    rows_of,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from palimpsest.retain.continual import Present, State, cross_entropy
from palimpsest.retain.replay import ER


@dataclass(frozen=True, eq=False)
class GapReport:
    """What the looks at a stream say.

    Attributes:
        depth: how far the accuracy on task i (column) fell at most while task k (row) was learned; nan from i = k on.
        made_up: how much of that had come back when task k ended.
        recovery: after how many updates of task k the accuracy on task i was back; 0 where it never fell, inf where it
            never came back.
        minimum, worst_case: min-ACC and WC-ACC at the last look; min-ACC is nan for one task.
        forgetting, plasticity: WF and WP by the number of looks.
    """

    depth: Float[Tensor, "tasks tasks"]
    made_up: Float[Tensor, "tasks tasks"]
    recovery: Float[Tensor, "tasks tasks"]
    minimum: float
    worst_case: float
    forgetting: dict[int, float]
    plasticity: dict[int, float]


def gap_report(records: Sequence[Mapping[str, Any]], windows: Sequence[int] = (10, 100)) -> GapReport:
    """The stability gap of a run, of `StreamLog.curve` or `ContinualEvaluator.records`.

    A look before the first update of a task is of the model that the last task left: it counts as that task's last, so
    that what a method does between two tasks, and classes that open with the next, make no gap. A task is in a window
    from its own learning on, as in the code of the authors' group.

    Raises:
        ValueError: there are no looks, or windows below 1.

    >>> looks = [(0, 0, [0.1, 0.0]), (0, 1, [0.9, 0.0]), (1, 1, [0.4, 0.5]), (1, 2, [0.8, 0.9])]
    >>> report = gap_report([{"task": task, "step": step, "accuracy": found} for task, step, found in looks])
    >>> report.depth[1, 0].item(), report.made_up[1, 0].item(), report.minimum
    (0.5, 0.4, 0.4)
    """
    begins = [place for place, record in enumerate(records) if place and record["step"] == 0]
    found = [dict(record) for record in records]
    for place in begins:
        found[place - 1]["accuracy"] = found[place]["accuracy"]
    found = [record for place, record in enumerate(found) if place not in begins]
    curve, learned = rows_of(found)
    depth, made_up, back = (curve.new_full((curve.shape[1],) * 2, torch.nan) for _ in range(3))
    tasks = learned.unique().tolist()
    for task in tasks[1:]:
        during = curve[learned == task]
        steps = [0, *(record["step"] for record in found if record["task"] == task)]
        for old in (each for each in tasks if each < task):
            before, after, least = curve[learned < task][-1, old], during[-1, old], during[:, old].min()
            depth[task, old] = (before - least).clamp(min=0)
            made_up[task, old] = (torch.minimum(before, after) - least).clamp(min=0)
            at = recovery(torch.cat([before[None], during[:, old]]))
            back[task, old] = at if at == float("inf") else steps[int(at)]
    parts = [curve[learned >= task, task : task + 1] for task in tasks]
    fell, rose = (
        {size: sum(measure(part, size) for part in parts) / len(parts) for size in windows}
        for measure in (windowed_forgetting, windowed_plasticity)
    )
    return GapReport(
        depth, made_up, back, minimum_accuracy(curve, learned), worst_case_accuracy(curve, learned), fell, rose
    )


def grad_decomposition(
    loss_new: Float[Tensor, ""], loss_old: Float[Tensor, ""], parameters: Sequence[nn.Parameter], alpha: float = 0.5
) -> dict[str, float]:
    """The two parts of a step along alpha g_new + (1 - alpha) g_old: their norms as they are in it, and their cosine.
    The losses can still be learned from.

    >>> w = nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> grad_decomposition(w[0], 2 * w[1], [w])
    {'new': 0.5, 'old': 1.0, 'cosine': 0.0}
    """
    new, old = (_flat(share * loss, parameters) for share, loss in ((alpha, loss_new), (1 - alpha, loss_old)))
    sizes = new.norm(), old.norm()
    cosine = (new @ old) / (sizes[0] * sizes[1]).clamp(min=torch.finfo(new.dtype).tiny)
    return {"new": float(sizes[0]), "old": float(sizes[1]), "cosine": float(cosine)}


@dataclass(frozen=True)
class TracedER(ER):
    """`ER`, update for update, that writes down the two parts of every step with a memory, in `state["trace"]`: a list
    for each task of [norm of the new part, of the old, cosine]. Costs the two gradients once more.

    Attributes:
        size, replayed, kept: as in `ER`.
    """

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {**state, "trace": [*state.get("trace", []), []]}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if "memory" in batch:
            trained = [p for p in model.parameters() if p.requires_grad]
            sizes = len(batch["labels"]), len(batch["memory"]["labels"])
            losses = [cross_entropy(model, part) for part in (batch, batch["memory"])]
            parts = grad_decomposition(*losses, trained, alpha=sizes[0] / sum(sizes))
            state["trace"][-1].append(list(parts.values()))
        return super().loss(state, model, batch)


def _flat(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a loss, whose graph stays."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )
