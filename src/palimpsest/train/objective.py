"""What the loop makes of an objective: a plain step function seen as one, the terms as a module, their sum."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

from torch import Tensor, nn

RESERVED = ("step", "lr", "grad_norm", "evaluation")  # the other keys of a step's record


class StepFunction:
    """A plain function `(model, batch) -> Tensor | dict[str, Tensor]` seen as an objective without state."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def init(self, model: nn.Module, data: Any) -> None:
        return None

    def loss(self, state: None, model: nn.Module, batch: Any) -> dict[str, Tensor] | Tensor:
        return self.function(model, batch)


class Terms(nn.Module):
    """The computation from a batch to the named terms, as one module.

    DDP wraps this and not the model: the objective sees the model itself, with all its attributes, and may call it or
    any part of it as often as it likes; DDP sees one forward for each backward, which is what it is made for.
    """

    def __init__(self, model: nn.Module, compute: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.model = model
        self.compute = compute

    def forward(self, batch: Any) -> dict[str, Tensor]:
        terms = self.compute(self.model, batch)
        return terms if isinstance(terms, dict) else {"loss": terms}


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the terms, checked: scalars with fitting names, and something to differentiate."""
    if not terms:
        raise ValueError("the objective returned no terms: return at least one named scalar")
    for name, term in terms.items():
        if not isinstance(term, Tensor):
            raise TypeError(f"the term {name!r} is a {type(term).__name__}, not a tensor: return scalar tensors")
        if term.ndim:
            raise ValueError(
                f"the term {name!r} has shape {tuple(term.shape)}: reduce it to a scalar (its mean over rows)"
            )
        if name in RESERVED or (name == "loss" and len(terms) > 1):
            raise ValueError(f"a term may not be called {name!r}, the record needs that key: rename it")
    loss = reduce(add, terms.values())
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not depend on any trainable parameter (it does not require grad): "
            "compute it from the model's outputs, without no_grad, detach or item"
        )
    return loss
