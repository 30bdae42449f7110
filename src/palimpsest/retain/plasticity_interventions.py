"""What is done so that a network stays able to learn: norms before its nonlinearities, units and layers that begin
again, a smoother Adam, and numbers that are learned as classes.

Sources: Lyle et al. (2023), arXiv 2303.01486; units: ReDo, Sokar et al. (2023), arXiv 2302.12902; two-hot: Imani and
White (2018), arXiv 1806.04613. `ShrinkPerturb` is in `renewal`, the weight norm's penalty is `fit`'s `weight_decay`.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from palimpsest.errors import UserError
from palimpsest.models.language import seeded
from palimpsest.retain.continual import last_layer
from palimpsest.retain.hidden_units import hidden_activations, hidden_layers

NONLINEAR = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh)

tuned_adam = partial(Adam, betas=(0.9, 0.9), eps=1e-3)
"""(parameters, lr) -> Adam whose mean of squares forgets as fast as its mean, and whose steps are bounded where both
are small: what `fit` takes as `optimizer`"""


def with_layernorm(model: nn.Module) -> nn.Module:
    """A copy with a layer norm before every nonlinearity behind a linear layer.

    Raises:
        UserError: the model has no linear layer with a nonlinearity behind it in an `nn.Sequential`.

    >>> with_layernorm(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))[1].normalized_shape
    (3,)
    """
    model, put = copy.deepcopy(model), 0
    for part in list(model.modules()):
        if isinstance(part, nn.Sequential):
            for number in reversed(range(len(part) - 1)):
                if isinstance(part[number], nn.Linear) and isinstance(part[number + 1], NONLINEAR):
                    part.insert(number + 1, nn.LayerNorm(part[number].out_features).to(part[number].weight))
                    put += 1
    if not put:
        raise UserError("no linear layer has a nonlinearity behind it in an nn.Sequential: norms cannot be put there")
    return model


def reset_head(model: nn.Module, seed: int = 0) -> None:
    """Draws the last layer's weights anew, in place."""
    seeded(seed, last_layer(model).reset_parameters)


@torch.no_grad()
def redo(model: nn.Module, x: Tensor, tau: float = 0.1, seed: int = 0) -> int:
    """Lets units begin again that are dormant on the rows, in place, and says how many.

    A unit is dormant whose mean |h| is at most tau times its layer's; its incoming weights are drawn anew, its bias and
    its outgoing weights are 0.
    """
    with hidden_activations(model) as said:
        model(x)
    count = 0
    for (into, out), hidden in zip(hidden_layers(model), said, strict=True):
        scores = hidden.reshape(len(hidden), len(into.weight), -1).abs().mean((0, 2))
        dormant = scores <= tau * scores.mean()
        drawn = copy.deepcopy(into)
        seeded(seed + count, drawn.reset_parameters)
        into.weight[dormant] = drawn.weight[dormant]
        if into.bias is not None:
            into.bias[dormant] = 0
        out.weight[:, dormant.repeat_interleave(out.weight.shape[1] // len(dormant))] = 0
        count += int(dormant.sum())
    return count


def two_hot(y: Float[Tensor, " n"], centres: Float[Tensor, " bins"]) -> Float[Tensor, "n bins"]:
    """Numbers as shares of the two bins around them, whose mean they are; those beyond the ends belong to these.

    >>> two_hot(torch.tensor([0.25]), torch.tensor([0.0, 1.0, 2.0]))
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    y = y.clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, y).clamp(1, len(centres) - 1)
    low, high = centres[upper - 1], centres[upper]
    share = (y - low) / (high - low)
    return (
        torch.zeros(len(y), len(centres))
        .to(y)
        .scatter_(1, torch.stack([upper - 1, upper], 1), torch.stack([1 - share, share], 1))
    )


def two_hot_loss(
    logits: Float[Tensor, "n bins"], y: Float[Tensor, " n"], centres: Float[Tensor, " bins"]
) -> Float[Tensor, ""]:
    """The cross-entropy of the shares: regression as classification."""
    return F.cross_entropy(logits, two_hot(y, centres))


def expectation(logits: Float[Tensor, "n bins"], centres: Float[Tensor, " bins"]) -> Float[Tensor, " n"]:
    """The number that logits of bins stand for: the mean of the centres."""
    return logits.softmax(1) @ centres
