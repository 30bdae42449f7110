"""Weight aligning: a last layer that favours new classes by the length of their weights is brought back to fairness.

Source: Zhao, Xiao, Gan, Zhang and Xia (2019), Maintaining discrimination and fairness in class incremental learning,
arXiv 1911.07053.

Distillation keeps old classes apart from each other, but against new ones they lose: the weights of classes with many
rows grow longer. After each task the new classes' weights are multiplied by

    gamma = mean over old classes of |w_k| / mean over new classes of |w_k|

so that both have the same mean length; no order among the old or among the new changes. So that a length is the size of
a logit, weights are kept from below 0 after every update, where features are not negative either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from palimpsest.retain.continual import Present, State, last_layer
from palimpsest.retain.increments import ExemplarDistillation, of_today


def aligning_factor(
    weight: Float[Tensor, "classes d"], old: Bool[Tensor, " classes"], new: Bool[Tensor, " classes"]
) -> Float[Tensor, ""]:
    """gamma: by what the weights of new classes are multiplied; 1 where there are no old, no new, or none but zeros.

    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 10.0]])
    >>> aligning_factor(weight, torch.tensor([True, False]), torch.tensor([False, True]))
    tensor(0.5000)
    """
    lengths = torch.linalg.vector_norm(weight, dim=1)
    if not old.any() or not new.any() or not lengths[new].any():
        return lengths.new_ones(())
    return lengths[old].mean() / lengths[new].mean()


@dataclass(frozen=True)
class WeightAligning(ExemplarDistillation):
    """Exemplars and distillation, and a last layer that is aligned after each task, before it is asked or teaches.

    Attributes:
        size, temperature: as in `ExemplarDistillation`.
        align: False leaves the lengths as they are.
        clip: keep the last layer's weights from below 0 after every update.
        scale_bias: multiply the new classes' biases too.
    """

    align: bool = True
    clip: bool = True
    scale_bias: bool = False

    def fits(self, model: nn.Module) -> None:
        super().fits(model)
        last_layer(model)

    def after_step(self, state: State, model: nn.Module) -> None:
        """Negative weights of the last layer become 0."""
        if self.clip:
            with torch.no_grad():
                last_layer(model).weight.clamp_(min=0)

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        if self.align and "old" in state:
            head, today = last_layer(model), of_today(data)
            new = today & ~data.old
            gamma = aligning_factor(head.weight.detach(), data.old & ~today, new)
            with torch.no_grad():
                head.weight[new] *= gamma
                if self.scale_bias and head.bias is not None:
                    head.bias[new] *= gamma
        return super().after_task(state, model, data)
