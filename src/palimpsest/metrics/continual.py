"""Continual learning measured: what is known of each task after each, and at each step.

R [tasks, tasks] holds in row i the accuracy on every task after task i was learned (`StreamLog.accuracy`). R0 [tasks]
is that of the untrained network, and `alone` [tasks] what a network reaches that learns each task for itself, or all
tasks so far together.

    average_accuracy              mean_j R[T-1, j]
    average_incremental_accuracy  mean_i mean_{j <= i} R[i, j]
    learning_accuracy             mean_j R[j, j], what tasks reached when they were learned
    backward_transfer             mean_{j < T-1} (R[T-1, j] - R[j, j])
    forward_transfer              mean_{j >= 1} (R[j-1, j] - R0[j])
    forgetting                    mean_{j < T-1} (max_{i < T-1} R[i, j] - R[T-1, j]), i >= j
    intransigence                 mean_j (alone[j] - R[j, j])

A curve [looks, tasks] holds the accuracy on every task at every look, and `learned` the number of the task that was
learned at each look.

    minimum_accuracy              mean over tasks of the least accuracy since they were learned
    worst_case_accuracy           R on the present task / k + (1 - 1/k) minimum_accuracy, k tasks so far
    windowed_forgetting           mean over tasks of the largest fall within a window
    windowed_plasticity           mean over tasks of the largest rise within a window
    gaps                          what an earlier task lost at most, while a task was learned

Sources: transfers: Lopez-Paz and Ranzato (2017), GEM, arXiv 1706.08840; forgetting and intransigence: Chaudhry et al.
(2018), Riemannian walk, arXiv 1801.10112; incremental accuracy: Rebuffi et al. (2017), iCaRL, arXiv 1611.07725; minima
and windows: De Lange, van de Ven and Tuytelaars (2022), arXiv 2205.13452.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Matrix = Float[Tensor, "tasks tasks"]
Curve = Float[Tensor, "looks tasks"]


def average_accuracy(R: Matrix) -> float:
    """The mean accuracy on all tasks after the last.

    >>> average_accuracy(torch.tensor([[1.0, 0.0], [0.5, 1.0]]))
    0.75
    """
    return _mean(_checked(R)[-1])


def average_incremental_accuracy(R: Matrix) -> float:
    """The mean over tasks of the mean accuracy on all tasks so far.

    >>> average_incremental_accuracy(torch.tensor([[1.0, 0.0], [0.5, 1.0]]))
    0.875
    """
    R = _checked(R)
    return _mean(torch.stack([row[: i + 1].mean() for i, row in enumerate(R)]))


def learning_accuracy(R: Matrix) -> float:
    """The mean accuracy that each task had when it had just been learned.

    >>> learning_accuracy(torch.tensor([[1.0, 0.0], [0.5, 0.75]]))
    0.875
    """
    return _mean(_checked(R).diagonal())


def backward_transfer(R: Matrix) -> float:
    """How much earlier tasks gained by what came after them; negative where they were forgotten, 0 for one task.

    >>> backward_transfer(torch.tensor([[1.0, 0.0], [0.5, 1.0]]))
    -0.5
    """
    R = _checked(R)
    return _mean((R[-1] - R.diagonal())[:-1])


def forward_transfer(R: Matrix, untrained: Float[Tensor, " tasks"]) -> float:
    """How much better a task is than untrained before it is learned, by what came before; 0 for one task.

    >>> forward_transfer(torch.tensor([[1.0, 0.75], [0.5, 1.0]]), torch.tensor([0.5, 0.5]))
    0.25
    """
    R = _checked(R)
    if untrained.shape != R.shape[:1]:
        raise ValueError(f"untrained must have one value for each of {len(R)} tasks, got {list(untrained.shape)}")
    return _mean(R.diagonal(1) - untrained.to(R)[1:])


def forgetting(R: Matrix) -> float:
    """How much lower earlier tasks are in the end than at their best since they were learned; 0 for one task.

    >>> forgetting(torch.tensor([[0.5, 0.0, 0.0], [0.75, 1.0, 0.0], [0.25, 1.0, 1.0]]))
    0.25
    """
    R = _checked(R)
    if len(R) == 1:
        return 0.0
    since = R[:-1, :-1].masked_fill(torch.ones_like(R[:-1, :-1]).triu(1).bool(), -torch.inf)
    return _mean(since.max(0).values - R[-1, :-1])


def intransigence(R: Matrix, alone: Float[Tensor, " tasks"]) -> float:
    """How much less a task reached when it was learned than it could have.

    Args:
        alone: the accuracy on each task of a network that keeps nothing back: of joint training of the tasks so far, as
            in the paper, or of the task learned for itself.

    >>> intransigence(torch.tensor([[0.5, 0.0], [0.0, 0.75]]), torch.tensor([1.0, 1.0]))
    0.375
    """
    R = _checked(R)
    if alone.shape != R.shape[:1]:
        raise ValueError(f"alone must have one value for each of {len(R)} tasks, got {list(alone.shape)}")
    return _mean(alone.to(R) - R.diagonal())


def minimum_accuracy(curve: Curve, learned: Int[Tensor, " looks"]) -> float:
    """The mean over earlier tasks of the least accuracy at any look after their own learning had ended; nan where there
    is no earlier task.

    >>> minimum_accuracy(torch.tensor([[1.0, 0.0], [0.25, 0.5], [0.75, 1.0]]), torch.tensor([0, 1, 1]))
    0.25
    """
    curve, learned = _checked_curve(curve, learned)
    least = [curve[learned > task, task].min() for task in learned.unique().tolist()[:-1]]
    return _mean(torch.stack(least)) if least else float("nan")


def worst_case_accuracy(curve: Curve, learned: Int[Tensor, " looks"]) -> float:
    """The accuracy on the present task and the minima of the earlier ones, each task counted alike.

    >>> worst_case_accuracy(torch.tensor([[1.0, 0.0], [0.25, 0.5], [0.75, 1.0]]), torch.tensor([0, 1, 1]))
    0.625
    """
    curve, learned = _checked_curve(curve, learned)
    tasks = learned.unique().tolist()
    now = float(curve[-1, tasks[-1]])
    return now if len(tasks) == 1 else now / len(tasks) + (1 - 1 / len(tasks)) * minimum_accuracy(curve, learned)


def windowed_forgetting(curve: Curve, window: int) -> float:
    """The mean over tasks of the largest fall of accuracy from one look to a later one less than `window` looks away.

    >>> windowed_forgetting(torch.tensor([[1.0], [0.75], [0.25], [0.5]]), 2), windowed_forgetting(torch.eye(2), 1)
    (0.5, 0.0)
    """
    return _windowed(curve, window, -1)


def windowed_plasticity(curve: Curve, window: int) -> float:
    """The mean over tasks of the largest rise of accuracy from one look to a later one less than `window` looks away.

    >>> windowed_plasticity(torch.tensor([[0.25], [0.5], [1.0]]), 2)
    0.5
    """
    return _windowed(curve, window, 1)


def gaps(curve: Curve, learned: Int[Tensor, " looks"]) -> Float[Tensor, "tasks tasks"]:
    """The stability gap: in row k, column i how far the accuracy on an earlier task i fell at most while task k was
    learned, from what it was at the last look before; nan where i is no earlier task.

    >>> gaps(torch.tensor([[1.0, 0.0], [0.25, 0.5], [0.75, 1.0]]), torch.tensor([0, 1, 1]))[1, 0].item()
    0.75
    """
    curve, learned = _checked_curve(curve, learned)
    found = curve.new_full((curve.shape[1], curve.shape[1]), torch.nan)
    for task in learned.unique().tolist()[1:]:
        before, during = curve[learned < task][-1], curve[learned == task].min(0).values
        found[task, :task] = (before - during).clamp(min=0)[:task]
    return found


def recovery(curve: Float[Tensor, " looks"]) -> float:
    """The first look, after it fell, at which a curve is back at what it began with; 0 where it never fell, inf where
    it never came back.

    >>> recovery(torch.tensor([0.9, 0.5, 0.7, 0.9])), recovery(torch.tensor([0.9, 0.5]))
    (3.0, inf)
    """
    fallen = (curve < curve[0]).nonzero()
    if not len(fallen):
        return 0.0
    first = int(fallen[0])
    back = (curve[first:] >= curve[0]).nonzero()
    return float(first + int(back[0])) if len(back) else float("inf")


def rows_of(records: Sequence[dict]) -> tuple[Curve, Int[Tensor, " looks"]]:
    """The curve and the task learned at each look, of what `StreamLog.curve` holds.

    >>> rows_of([{"task": 0, "step": 0, "accuracy": [0.5, 0.0]}, {"task": 1, "step": 0, "accuracy": [1.0, 0.0]}])[1]
    tensor([0, 1])
    """
    if not records:
        raise ValueError("there are no looks: learn with every=1, or another number of updates")
    curve = torch.tensor([record["accuracy"] for record in records], dtype=torch.float64)
    return curve, torch.tensor([record["task"] for record in records])


def _windowed(curve: Tensor, window: int, sign: int) -> float:
    if curve.ndim != 2 or not curve.numel() or window < 1:
        raise ValueError(f"curve must be [looks, tasks] and window at least 1, got {list(curve.shape)} and {window}")
    curve = sign * curve.double()
    most = torch.zeros(curve.shape[1], dtype=torch.float64)
    for apart in range(1, min(window, len(curve))):
        most = torch.maximum(most, (curve[apart:] - curve[:-apart]).max(0).values)
    return _mean(most)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def _checked(R: Tensor) -> Tensor:
    if R.ndim != 2 or R.shape[0] != R.shape[1] or not len(R):
        raise ValueError(f"R must be [tasks, tasks], got {list(R.shape)}")
    return R.double()


def _checked_curve(curve: Tensor, learned: Tensor) -> tuple[Tensor, Tensor]:
    if curve.ndim != 2 or learned.shape != curve.shape[:1] or not len(curve):
        raise ValueError(
            f"curve must be [looks, tasks] with a task a look, got {list(curve.shape)}, {list(learned.shape)}"
        )
    if (learned.diff() < 0).any() or learned.max() >= curve.shape[1]:
        raise ValueError("learned must not fall, and hold numbers of the curve's tasks")
    return curve.double(), learned
