"""Groups without names, against classes: the accuracy under the best one-to-one matching."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def cluster_acc(
    answers: Int[Tensor, " rows"],
    labels: Int[Tensor, " rows"],
    groups: Mapping[str, Bool[Tensor, " classes"]] | None = None,
) -> dict[str, float]:
    """The share of rows whose group is matched with their class: the one-to-one matching is the one that makes the
    share of all rows largest (Kuhn 1955; one of them where several do), and is the same for every set of classes.

    Args:
        answers: a group number of each row, from 0.
        labels: its class, from 0.
        groups: sets of classes whose own rows are counted besides; nan for one without a row.

    Raises:
        ValueError: no row, not as many answers as labels, or a negative number.

    >>> answers, labels = torch.tensor([1, 1, 0, 2]), torch.tensor([0, 0, 1, 1])
    >>> cluster_acc(answers, labels, {"old": torch.tensor([True, False])})
    {'all': 0.75, 'old': 1.0}
    """
    if not len(labels) or answers.shape != labels.shape:
        raise ValueError(f"answers and labels must be as many, at least one, got {len(answers)} and {len(labels)}")
    if min(int(answers.min()), int(labels.min())) < 0:
        raise ValueError("answers and labels must not be negative")
    size = 1 + max(int(answers.max()), int(labels.max()))
    counts = torch.zeros(size, size, dtype=torch.long)
    counts.index_put_((answers.cpu(), labels.cpu()), torch.ones((), dtype=torch.long), accumulate=True)
    matched = torch.empty(size, dtype=torch.long)
    rows, classes = linear_sum_assignment(counts.numpy(), maximize=True)
    matched[torch.from_numpy(rows)] = torch.from_numpy(classes)
    right = (matched[answers.cpu()] == labels.cpu()).double()
    own = {name: right[which.cpu()[labels.cpu()]].mean() for name, which in (groups or {}).items()}
    return {"all": float(right.mean()), **{name: float(share) for name, share in own.items()}}
