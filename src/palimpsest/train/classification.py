"""Training on labelled rows: a loss that compares what a model says of a row with the row's label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.train.method import Objective


@dataclass(frozen=True)
class Supervised(Objective):
    """The loss of a batch of labelled rows.

    Attributes:
        compare: (logits [batch, classes], labels) -> a scalar; a function of `torch.nn.functional` or of
            `palimpsest.losses`, with its settings bound by `functools.partial`.
        given: what else it gets, by name, from the data it is trained on: ("counts",).

    >>> import torch
    >>> from palimpsest.models.vision import mlp
    >>> from palimpsest.tasks.labelled import Labelled
    >>> from palimpsest.tasks.tabular import tabular
    >>> from palimpsest.train import apply
    >>> data = Labelled(tabular("wine", 0).train, classes=3)
    >>> applied = apply(mlp(13, 3), Supervised(), data, steps=20, lr=1e-2)
    >>> applied.history.steps[-1]["loss"] < 0.2 < applied.history.steps[0]["loss"]
    True
    """

    compare: Callable[..., Tensor] = F.cross_entropy
    given: tuple[str, ...] = ()

    def init(self, model: nn.Module, data: Any) -> Mapping[str, Tensor]:
        return {name: getattr(data, name) for name in self.given}

    def loss(self, state: Mapping[str, Tensor], model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": self.compare(logits_of(model, batch), batch["labels"], **state)}


def logits_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """What a classifier says of the batch's images ("pixel_values") or rows of features ("x")."""
    output = model(batch["pixel_values"] if "pixel_values" in batch else batch["x"])
    return getattr(output, "logits", output)
