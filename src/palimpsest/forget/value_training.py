"""Training that moves value vectors and nothing else: all of them, or one; see `palimpsest.forget.concept_vectors`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.procedure import Batch, ForgetData
from palimpsest.models.blocks import blocks, mlp_output, output_weights
from palimpsest.train.method import Objective


@dataclass(frozen=True)
class ValueMatricesOnly(Objective):
    """Another objective, with all but the MLPs' output matrices frozen: the paper's baseline between fine-tuning the
    whole model and Needle.

    Attributes:
        objective: what is minimised, such as `NPO()`.
    """

    objective: Any

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(getattr(self.objective, "needs", ()))

    def trainable(self, model: nn.Module) -> list[nn.Parameter]:
        return [weight for block in blocks(model) for weight in output_weights(block)]

    def init(self, model: nn.Module, data: ForgetData) -> Any:
        return self.objective.init(model, data)

    def loss(self, state: Any, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.objective.loss(state, model, batch)


@dataclass(frozen=True)
class ColumnAscent(Objective):
    """Gradient ascent on the forget answers that moves one value vector and nothing else.

    Attributes:
        layer, dim: which.
    """

    layer: int
    dim: int

    def trainable(self, model: nn.Module) -> list[nn.Parameter]:
        return [mlp_output(blocks(model)[self.layer]).weight]

    def loss(self, state: None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return GradAscent(retain="none").loss(None, model, batch)

    def gradients(self, state: None, model: nn.Module) -> None:
        down = mlp_output(blocks(model)[self.layer])
        neurons = down.weight.grad if isinstance(down, Conv1D) else down.weight.grad.T
        neurons[: self.dim] = 0
        neurons[self.dim + 1 :] = 0
