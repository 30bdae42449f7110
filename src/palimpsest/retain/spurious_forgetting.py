"""Spurious forgetting: a new task undoes how a language model answers, not what it knows; and frozen lower layers.

Source: Zheng, Cai, Qiu and Ma (2025), Spurious forgetting in continual learning of language models, arXiv 2501.13453.

In the first updates on a new task the accuracy on an old one collapses. Yet training on half of the old task brings the
other half back, of which it says nothing: that was not lost, only the alignment to the task was. The first updates undo
it mostly in the lower layers and the embeddings, so that these are frozen from the second task on. What came
back, and where the updates went, is measured in `spurious_forgetting_measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from palimpsest.errors import UserError
from palimpsest.models.blocks import blocks
from palimpsest.retain.continual import Continual, Present, State
from palimpsest.train.ranges import AtLeast


@dataclass(frozen=True)
class FreezeBottom(Continual):
    """Learns each task by its cross-entropy; from one task on the lowest layers stay as they are.

    Their gradients are taken away before the optimizer sees them, so that neither weight decay nor momentum moves them.
    It is also an objective for `apply`, which then freezes at once.

    Attributes:
        frozen: how many of the lowest blocks of a language model.
        embeddings: whether the input embeddings are frozen too; where the last layer is the same matrix, so is that.
        since: the first task that they are frozen in, from 0.
    """

    frozen: Annotated[int, AtLeast(0)] = 1
    embeddings: bool = True
    since: Annotated[int, AtLeast(0)] = 1

    def fits(self, model: nn.Module) -> None:
        if self.frozen > len(blocks(model)):
            raise UserError(f"frozen is {self.frozen}, and the model has {len(blocks(model))} blocks")

    def init(self, model: nn.Module, data: Any) -> State:
        return {"still": True}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {"still": data.number >= self.since}

    def gradients(self, state: State, model: nn.Module) -> None:
        if state["still"]:
            for p in bottom(model, self.frozen, self.embeddings).values():
                p.grad = None


def bottom(model: nn.Module, n: int, embeddings: bool = True) -> dict[str, nn.Parameter]:
    """The parameters of the n lowest blocks, and of the input embeddings, by name.

    >>> from palimpsest.models import causal_lm
    >>> list(bottom(causal_lm(10, d_model=16, n_layers=2, n_heads=2), 0))
    ['model.embed_tokens.weight']
    """
    chosen = [p for block in list(blocks(model))[:n] for p in block.parameters()]
    chosen += list(model.get_input_embeddings().parameters()) if embeddings else []
    wanted = {id(p) for p in chosen}
    return {name: p for name, p in model.named_parameters() if id(p) in wanted}


@contextmanager
def freeze_bottom(model: nn.Module, n: int, embeddings: bool = True) -> Iterator[list[str]]:
    """For the time of the block, the n lowest layers and the embeddings require no gradient, for anybody's loop: what
    an optimizer does not get, neither weight decay nor momentum moves. The authors' code sets gradients to zero, which
    both go on from.

    Yields:
        The names of the frozen parameters.
    """
    found = bottom(model, n, embeddings)
    before = {name: p.requires_grad for name, p in found.items()}
    try:
        for p in found.values():
            p.requires_grad_(False)
        yield list(found)
    finally:
        for name, p in found.items():
            p.requires_grad_(before[name])


def early_stop(on: str, level: float) -> Callable[[Mapping[str, float]], bool]:
    """When to stop a new task, for `fit(evaluate=..., stop=early_stop("new", 0.99))`: as soon as it is learned, since
    every further update undoes more.

    >>> early_stop("new", 0.9)({"new": 0.95, "old": 0.2})
    True
    """
    return lambda found: found[on] >= level
