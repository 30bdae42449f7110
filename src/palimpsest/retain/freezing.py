"""Only the last layers learn what is new: what lies below them stays as it was, and costs no gradient.

The plainest of all ways to keep the old, and the cheapest: no rows, no second model, no importance. What it costs where
layers fit each other: Yosinski et al. (2014), How transferable are features in deep neural networks?, arXiv 1411.1792.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from palimpsest.retain.continual import Continual, Present, State
from palimpsest.train.ranges import AtLeast


@dataclass(frozen=True)
class Freeze(Continual):
    """From the second task on, the last layers learn and all others are frozen.

    Attributes:
        layers: how many learn: decoder blocks of a language model, layers with weights of their own of any other.
    """

    layers: Annotated[int, AtLeast(1)] = 1

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if not data.number:
            return state
        learns = {id(p) for part in parts(model)[-self.layers :] for p in part.parameters()}
        frozen = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in learns]
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
        return {"frozen": frozen}

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        for name in state.get("frozen", ()):
            model.get_parameter(name).requires_grad_(True)
        return {}


def parts(model: nn.Module) -> Sequence[nn.Module]:
    """The layers of a model in order: a language model's decoder blocks, or the modules with weights of their own.

    >>> from palimpsest.models.vision import mlp
    >>> [len(parts(mlp(4, 3, hidden=hidden))) for hidden in ((8,), (8, 8))]
    [2, 3]
    """
    if hasattr(getattr(model, "config", None), "num_hidden_layers"):
        from palimpsest.models.blocks import blocks  # late: transformers takes seconds

        return blocks(model)
    return [part for part in model.modules() if any(p.requires_grad for p in part.parameters(recurse=False))]
