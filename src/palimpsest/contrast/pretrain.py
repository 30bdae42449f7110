"""What `palimpsest.train.fit` trains encoders on: several views of a row, a momentum encoder with its queue, pairs
of texts or of images and captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.momentum import KeyQueue, MomentumPair
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast, AtMost


@dataclass(frozen=True)
class Views(Objective):
    """SimCLR-like: every view goes through the model, and the loss compares the views' projections.

    Attributes:
        compare: called with one tensor [batch, d] a view; its value is the term "contrast".
        with_batch: also hand over the batch, as `batch=` (for its labels or indices), and the model, as `model=`.

    A batch has "views" [batch, views, ...]. Views go through the model together, so that batch norm sees all.

    >>> from palimpsest.contrast import Projected, nt_xent, projection_head
    >>> from palimpsest.train import fit
    >>> model = Projected(nn.Linear(8, 8), projection_head(8, 16, 4))
    >>> batches = [{"views": torch.randn(16, 1, 8) + 0.1 * torch.randn(16, 2, 8)}]
    >>> history = fit(model, Views(nt_xent), batches, steps=20)
    >>> history.steps[-1]["contrast"] < history.steps[0]["contrast"]
    True
    """

    compare: Callable[..., Tensor]
    with_batch: bool = False

    def loss(self, state: None, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        views = _views(batch)
        z = model(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        more = {"batch": batch, "model": model} if self.with_batch else {}
        return {"contrast": self.compare(*z, **more)}


@dataclass(frozen=True)
class Momentum(Objective):
    """MoCo-like: the first of two views is the query, the second goes through the momentum encoder and is its key;
    negatives come from a queue of earlier keys. The momentum encoder follows once an update of the weights.

    Attributes:
        compare: called with queries [batch, d], keys [batch, d] (unit-norm, no gradient) and the queue [size, d].
        m: how slowly the key encoder follows.
        size: of the queue.
        symmetric: each of two views is once the query and once the key; the value is the mean.
        seed: of what is in the queue at first.
        dim: of the projections; None asks the model for its `out_dim`.
    """

    compare: Callable[[Tensor, Tensor, Tensor], Tensor]
    m: Annotated[float, AtLeast(0), AtMost(1)] = 0.99
    size: Annotated[int, AtLeast(0)] = 1024
    symmetric: bool = False
    seed: int = 0
    dim: Annotated[int | None, AtLeast(1)] = None

    def init(self, model: nn.Module, data: Any) -> dict[str, Any]:
        dim = getattr(model, "out_dim", None) if self.dim is None else self.dim
        if dim is None:
            raise ValueError(
                f"{type(model).__name__} has no out_dim: give Momentum the width of its projections as dim"
            )
        device = next(model.parameters()).device
        queue = KeyQueue(self.size, dim, self.seed).to(device)
        return {"pair": MomentumPair(model, self.m), "queue": queue, "stepped": torch.zeros((), dtype=torch.bool)}

    def loss(self, state: dict[str, Any], model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        pair, queue = state["pair"].train(model.training), state["queue"]
        views = _views(batch)
        if len(views) != 2:
            raise ValueError(f'batch["views"] must hold two views, a query and a key, got {len(views)}')
        first, second = views
        if state["stepped"]:
            pair.update()
            state["stepped"].fill_(False)
        sides = [(first, second), (second, first)] if self.symmetric else [(first, second)]
        queries = [F.normalize(model(query), dim=1) for query, _ in sides]
        # In the queries' dtype, which mixed precision may widen; the queue as it is now, for the backward pass.
        keys = [F.normalize(pair(key).to(queries[0]), dim=1) for _, key in sides]
        known = queue.keys.to(queries[0], copy=True)
        terms = [self.compare(query, key, known) for query, key in zip(queries, keys, strict=True)]
        for key in keys:
            queue.push(key)
        return {"contrast": sum(terms) / len(terms)}

    def gradients(self, state: dict[str, Any], model: nn.Module) -> None:
        """Called before each update of the weights: the momentum encoder follows it, once however many batches it is
        made of."""
        state["stepped"].fill_(True)


@dataclass(frozen=True)
class SentencePairs(Objective):
    """Pairs of texts (or of anything) that go together: batch["query"] and batch["key"] are what the model takes.

    Attributes:
        compare: called with queries and keys [batch, d], row by row a pair.
    """

    compare: Callable[[Tensor, Tensor], Tensor]

    def loss(self, state: None, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"contrast": self.compare(model(batch["query"]), model(batch["key"]))}


@dataclass(frozen=True)
class Captioned(Objective):
    """Two towers (`palimpsest.models.towers`): images and captions of a batch, row by row a pair.

    Attributes:
        compare: called with the embeddings of images and captions [batch, dim], unit-norm; its value is the term
            "contrast".

    A batch has "images" and "tokens", which are what the towers take.
    """

    compare: Callable[..., Tensor]

    def loss(self, state: None, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"contrast": self.compare(*model(batch["images"], batch["tokens"]))}


def _views(batch: dict[str, Tensor]) -> Tensor:
    """[views, batch, ...]"""
    views = batch["views"]
    if views.ndim < 3:
        raise ValueError(f'batch["views"] must be [batch, views, ...], got {list(views.shape)}')
    return views.transpose(0, 1)
