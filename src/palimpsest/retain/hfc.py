"""Heterogeneous forgetting compensation: rows that are forgotten faster than others of their task weigh more.

Source: Dong, Liang, Cong and Sun (2023), Heterogeneous forgetting compensation for class-incremental learning, arXiv
2308.03374. Weights, their bounds and factors are those of the authors' code.

How fast a row is forgotten is read off the gradient of its label's logit, G = 1 - p(label), among C classes of which n
are old; z = n / C. r = log(1 + G^z) over its mean among the batch's rows of the same task (the new classes are one),
from 0.5 to 1.2 for old rows, to 1 for new ones. Then, with a sigmoid for each class:

    mean of w_cls BCE(logits, label)                                   w_cls = sqrt(1 - z) r old,  (1 - z) r new
    + mean of w_dis BCE(logits, q)                                     w_dis =          z r old,     0.8 z   new
    + 1/2 mean over classes of their mean w_dis BCE(mean logits, mean q)

where q are the old model's answers for old classes, and the label for new ones. The last term compares what is said of
classes as wholes. The block that gathers a vision transformer's tokens is
`palimpsest.retain.task_semantic_aggregation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, Examples
from palimpsest.retain.continual import Present, State, as_it_was, everything_of
from palimpsest.retain.increments import of_today, together, with_exemplars
from palimpsest.retain.prototypes import OnFeatures
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import AtLeast

OLD, NEW = (0.5, 1.2), (0.5, 1.0)  # between which a row's share of its task's mean is kept
NEW_HELD = 0.8


def gradient_balanced_weights(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    task: Int[Tensor, " batch"],
    old: Bool[Tensor, " classes"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """w_cls and w_dis of every row, constants.

    Args:
        logits: of all classes so far.
        task: with which the rows' classes came; counts among old rows only.
        old: which classes came before this task.

    >>> w_cls, w_dis = gradient_balanced_weights(
    ...     torch.zeros(2, 4), torch.tensor([0, 3]), torch.tensor([0, 1]), torch.tensor([True, True, False, False])
    ... )
    >>> w_cls.tolist(), w_dis.tolist()  # z = 1/2, r = 1
    ([0.7071..., 0.5], [0.5, 0.4000...])
    """
    if logits.shape[1] != len(old) or len(logits) != len(labels):
        raise ValueError(f"logits must be [rows, classes] = [{len(labels)}, {len(old)}], got {list(logits.shape)}")
    z = float(old.sum()) / len(old)
    G = 1 - logits.detach().softmax(1).gather(1, labels[:, None])[:, 0]
    g = (G.clamp(min=0) ** z).log1p()
    is_old = old[labels]
    groups = torch.where(is_old, task, -1)
    r = torch.ones_like(g)
    for group in groups.unique():
        rows = groups == group
        r[rows] = g[rows] / g[rows].mean().clamp(min=torch.finfo(g.dtype).tiny)
    r = torch.where(is_old, r.clamp(*OLD), r.clamp(*NEW))
    return torch.where(is_old, (1 - z) ** 0.5 * r, (1 - z) * r), torch.where(is_old, z * r, NEW_HELD * z)


def relation_loss(
    logits: Float[Tensor, "batch classes"],
    targets: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    weights: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The binary cross-entropy between the mean logits and the mean targets of each class that has rows, weighted by
    the mean weight of its rows.

    >>> relation_loss(torch.zeros(3, 2), torch.eye(3, 2), torch.tensor([0, 0, 1]), torch.ones(3))
    tensor(0.6931)
    """
    one = F.one_hot(labels.unique(return_inverse=True)[1]).to(logits)
    means = one.T / one.sum(0)[:, None]  # [classes present, batch]
    each = F.binary_cross_entropy_with_logits(means @ logits, means @ targets, reduction="none")
    return ((means @ weights)[:, None] * each).mean()


@dataclass(frozen=True)
class HFC(OnFeatures):
    """Exemplars by herding, sigmoids, and weights that compensate for uneven forgetting; the first task has none.

    Attributes:
        size: exemplars of all classes together.
        balance: weigh the labels' term; False leaves it at 1.
        relate: weigh the distillation and compare classes as wholes; False leaves plain distillation.
    """

    size: Annotated[int, AtLeast(1)] = 200
    balance: bool = True
    relate: bool = True

    def init(self, model: nn.Module, data: Present) -> State:
        return {"buffer": Buffer(capacity=self.size)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        state = {**state, "known": data.known}
        if not data.number:
            return state
        return {**state, "old": everything_of(model), "taught": (data.old & ~of_today(data))[data.known]}

    def rows(self, state: State, data: Present) -> Examples:
        return together(state["buffer"], data.rows)

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        known = state["known"].to(batch["labels"].device)
        logits = logits_of(model, batch)[:, known]
        labels = (known.cumsum(0) - 1)[batch["labels"]]  # among those known
        targets = F.one_hot(labels, logits.shape[1]).to(logits)
        if "old" not in state:
            return {"new": F.binary_cross_entropy_with_logits(logits, targets)}
        taught = state["taught"].to(known.device)
        with as_it_was(model, state["old"]):
            answers = logits_of(model, batch)[:, known].sigmoid()
        held = torch.where(taught, answers, targets)
        w_cls, w_dis = gradient_balanced_weights(logits, labels, batch["task"], taught)
        terms = {
            "new": (w_cls if self.balance else torch.ones_like(w_cls), targets),
            "held": (w_dis if self.relate else torch.ones_like(w_dis), held),
        }
        found = {
            name: (weights[:, None] * F.binary_cross_entropy_with_logits(logits, goal, reduction="none")).mean()
            for name, (weights, goal) in terms.items()
        }
        return {**found, "related": 0.5 * relation_loss(logits, held, labels, w_dis)} if self.relate else found

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {"buffer": with_exemplars(state["buffer"], data.rows, model, self.size)}
