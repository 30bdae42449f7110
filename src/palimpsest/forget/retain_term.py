"""What methods that forget have in common: the term that holds the rest of the model in place, and its reference."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.forget.procedure import Batch, ForgetData
from palimpsest.models.score import Encoded, cross_entropy, reference_kl, score
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast


def frozen_copy(model: nn.Module) -> nn.Module:
    """The reference: the model as it is now, in evaluation mode, without gradients."""
    return deepcopy(model).eval().requires_grad_(False)


def reference_logprobs(model: nn.Module, rows: Encoded, pad_id: int) -> Float[Tensor, "rows"]:
    """Summed log-probability of every answer under the model as it is now: computed once, so that no second
    model need be held while the first one trains. Indexed by a batch's `index`."""
    device = next(model.parameters()).device
    return torch.as_tensor(score(model, rows, pad_id=pad_id).logp, dtype=torch.float32, device=device)


@dataclass(frozen=True)
class Retain(Objective):
    """What holds the rest of the model in place while it forgets; objectives that offer it inherit these fields.

    Attributes:
        retain: "ce" trains on the retain rows, "kl" keeps the model's distribution on them near that of the
            reference (a frozen copy, held in memory), "none" does without retain rows. The KL term is taken at the
            answers' tokens, which are what is asked for; the authors' codes take all positions, prompts and padding
            included.
        retain_weight: the term's weight.
    """

    retain: Literal["ce", "kl", "none"] = "ce"
    retain_weight: Annotated[float, AtLeast(0)] = 1.0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset() if self.retain == "none" else frozenset({"retain"})

    def init(self, model: nn.Module, data: ForgetData) -> Any:
        return self.reference(model)

    def reference(self, model: nn.Module) -> nn.Module | None:
        """What the KL term is taken to; None where there is none."""
        return frozen_copy(model) if self.retain == "kl" else None

    def retain_term(self, reference: nn.Module | None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The term by its name; nothing for "none"."""
        if self.retain == "none":
            return {}
        rows = batch["retain"]
        term = cross_entropy(model, rows) if self.retain == "ce" else reference_kl(reference, model, rows)
        return {"retain": self.retain_weight * term}
