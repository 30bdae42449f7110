"""The weights of SADE's experts for test data whose class distribution nobody knows, and test data of known ones (Zhang
et al. 2021, arXiv 2107.09249, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.models.forward import evaluating

Experts = Callable[[Tensor], Sequence[Tensor]]
KINDS = ("forward50", "forward10", "forward2", "uniform", "backward2", "backward10", "backward50")


def weighted(experts: Sequence[Tensor], weights: Float[Tensor, " experts"]) -> Float[Tensor, "batch classes"]:
    """The probabilities of the weighted sum of the experts' logits.

    >>> weighted([torch.zeros(1, 2), torch.tensor([[0.0, 2.1972246]])], torch.tensor([0.5, 0.5]))
    tensor([[0.2500, 0.7500]])
    """
    return (torch.stack(list(experts)) * weights[:, None, None]).sum(0).softmax(1)


def steadiness(
    first: Sequence[Tensor], second: Sequence[Tensor], weights: Float[Tensor, " experts"]
) -> Float[Tensor, ""]:
    """The mean cosine of the probabilities of two views of each row.

    >>> views = [torch.tensor([[9.0, 0.0]])]
    >>> steadiness(views, views, torch.ones(1))
    tensor(1.)
    """
    return F.cosine_similarity(weighted(first, weights), weighted(second, weights), dim=1).mean()


def aggregate(
    model: torch.nn.Module,
    x: Float[Tensor, "n ..."],
    view: Callable[[Tensor, torch.Generator], Tensor],
    *,
    epochs: int = 5,
    stop: float = 0.05,
    lr: float = 0.1,
    batch_size: int = 128,
    seed: int = 0,
) -> Float[Tensor, " experts"]:
    """Learn the experts' weights from test rows without labels. The experts stay as they are, in eval mode.

    Args:
        model: has `experts`: x -> their logits.
        view: (a batch of x, generator) -> the batch turned, shifted, or otherwise seen anew.
        epochs: over the rows, by SGD with Nesterov's momentum 0.9 and weight decay 5e-4 on the weights' logits, which
            start equal.
        stop: after an epoch in which some weight is below it.

    Returns:
        Weights that sum to 1.

    Raises:
        ValueError: no rows, or a setting out of its range.
    """
    if not len(x) or epochs < 1 or not lr > 0 or batch_size < 1:
        raise ValueError(f"need rows, an epoch, an lr and a batch size, got {len(x)}, {epochs}, {lr}, {batch_size}")
    draws = torch.Generator().manual_seed(seed)
    with evaluating(model):
        number = len(model.experts(x[:1]))
    free = torch.zeros(number, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.SGD([free], lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draws).split(batch_size):
            with evaluating(model):
                first, second = (model.experts(view(x[rows], draws)) for _ in range(2))
            loss = -steadiness(first, second, free.softmax(0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if float(free.detach().softmax(0).min()) < stop:
            break
    return free.detach().softmax(0)


def predict(
    model: torch.nn.Module, x: Float[Tensor, "n ..."], weights: Float[Tensor, " experts"]
) -> Float[Tensor, "n classes"]:
    """The probabilities of rows as they are, under the weights."""
    with evaluating(model):
        return weighted(model.experts(x), weights)


def make_test(labels: Int[Tensor, " n"], kind: str, order: Int[Tensor, " classes"], seed: int = 0) -> Int[Tensor, " m"]:
    """The numbers of test rows that are kept, so that the classes are long-tailed as in training ("forward50" to
    "forward2", from the most frequent class to one of 1/50 or 1/2), equally many ("uniform"), or the other way round.

    Args:
        labels: of test rows; the most frequent class of the result has as many rows as the rarest class has here.
        order: the classes from the most to the least frequent in training.

    Raises:
        ValueError: an unknown kind, or a class without a row.

    >>> labels = torch.arange(2).repeat_interleave(10)
    >>> labels[make_test(labels, "backward2", torch.tensor([0, 1]))].bincount().tolist()
    [5, 10]
    """
    name = kind.rstrip("0123456789")
    ratio = float(kind[len(name) :] or 1)
    if name not in ("forward", "backward", "uniform") or ratio < 1 or (name == "uniform") != (kind == name):
        raise ValueError(f"kind must be one such as {', '.join(KINDS)}, got {kind!r}")
    draws = torch.Generator().manual_seed(seed)
    most = min(int((labels == label).sum()) for label in order)
    if not most:
        raise ValueError("every class must have a row")
    ranked = order.flip(0) if name == "backward" else order
    kept = []
    for rank, label in enumerate(ranked.tolist()):
        rows = (labels == label).nonzero()[:, 0]
        share = ratio ** (-rank / max(len(order) - 1, 1))
        kept.append(rows[torch.randperm(len(rows), generator=draws)[: max(1, round(most * share))]])
    return torch.cat(kept)


def stability(
    first: Sequence[Tensor], second: Sequence[Tensor], labels: Int[Tensor, " n"], groups: Sequence[Sequence[int]]
) -> Float[Tensor, "experts groups"]:
    """How steady each expert is on two views of the rows of each group of classes: the paper's reason for the method.

    >>> same, turned = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    >>> stability([same], [turned], torch.tensor([0, 1]), [[0], [1]]).round(decimals=2).tolist()
    [[1.0, 0.0]]
    """
    steady = torch.stack(
        [F.cosine_similarity(a.softmax(1), b.softmax(1), dim=1) for a, b in zip(first, second, strict=True)]
    )
    members = [torch.isin(labels, torch.tensor(list(group), device=labels.device)) for group in groups]
    return torch.stack([steady[:, rows].mean(1) for rows in members], 1)
