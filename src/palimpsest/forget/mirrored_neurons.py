"""Neurons that a skill excites: their statistics, the mirrored values, and the hooks that put these in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.models.blocks import blocks, mlp_activation, mlp_output
from palimpsest.models.hooks import activations, edit_activation
from palimpsest.models.score import Encoded

LEAST = 1e-6  # a standard deviation, so that a neuron that never moves divides nothing by 0


def probe(
    model: nn.Module, rows: Encoded, *, pad_id: int, batch_size: int = 64
) -> tuple[Float[Tensor, "neurons"], Float[Tensor, "neurons"]]:
    """Mean and standard deviation of every MLP neuron's pre-activation over all tokens of the rows.

    Returns:
        Both in float64, the neurons of the first block first.

    >>> from palimpsest.models import causal_lm
    >>> mean, std = probe(causal_lm(10, d_model=16, n_layers=2), Encoded([[1, 5, 6], [7, 8]], [0, 0]), pad_id=0)
    >>> mean.shape, bool((std >= 0).all())
    (torch.Size([96]), True)
    """
    modules = {str(i): mlp_activation(block) for i, block in enumerate(blocks(model))}
    n, total, squares = 0, 0.0, 0.0
    for batch, seen in activations(model, rows, modules, "input", pad_id=pad_id, batch_size=batch_size):
        real = batch["attention_mask"].bool()
        z = torch.cat([seen[name][real] for name in modules], dim=-1).double()
        n, total, squares = n + len(z), total + z.sum(0), squares + z.square().sum(0)
    mean = total / n
    return mean, (squares / n - mean.square()).clamp(min=0).sqrt()


def adjusted(
    z: Float[Tensor, "... k"],
    forget: tuple[Float[Tensor, "k"], Float[Tensor, "k"]],
    retain: tuple[Float[Tensor, "k"], Float[Tensor, "k"]],
    uniform: Float[Tensor, "... k"],
) -> Float[Tensor, "... k"]:
    """Pre-activations, mirrored where they look like the skill; see `palimpsest.forget.skill_unlearning`.

    Args:
        z: of k neurons.
        forget, retain: mean and standard deviation of each neuron.
        uniform: draws from [0, 1), which decide.

    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> adjusted(torch.tensor([[5.0], [0.1]]), (5 * one, one), (zero, one), torch.zeros(2, 1)).tolist()
    [[0.0], [0.10000000149011612]]
    """
    (mu_f, s_f), (mu_r, s_r) = ((mu, s.clamp(min=LEAST)) for mu, s in (forget, retain))
    # log N_f - log N_r: of it the probability is the logistic function, without the densities' underflow.
    log_ratio = ((z - mu_r) / s_r).square() / 2 - ((z - mu_f) / s_f).square() / 2 + (s_r / s_f).log()
    hit = (log_ratio >= 0) & (uniform < log_ratio.sigmoid())
    return torch.where(hit, mu_r - (z - mu_f) * s_r / s_f, z)


def edit_neurons(
    model: nn.Module,
    neurons: Mapping[str, Tensor],
    new: Callable[[Float[Tensor, "... k"], Mapping[str, Tensor]], Float[Tensor, "... k"]],
) -> list[Any]:
    """Puts hooks on that change the pre-activations of some MLP neurons; `remove()` of each handle takes it off again.

    Args:
        neurons: "neurons", their numbers, those of the first block first; and whatever else is known of each.
        new: (pre-activations, what is known of these neurons) -> those in their place.
    """
    start, handles = 0, []
    for block in blocks(model):
        width = mlp_output(block).weight.shape[1 if isinstance(mlp_output(block), nn.Linear) else 0]
        here = (neurons["neurons"] >= start) & (neurons["neurons"] < start + width)
        if here.any():
            mine = {name: value[here].to(next(block.parameters()).device) for name, value in neurons.items()}
            columns = mine.pop("neurons") - start

            def edit(z: Tensor, columns: Tensor = columns, mine: dict[str, Tensor] = mine) -> Tensor:
                known = {name: value.to(z.dtype) for name, value in mine.items()}
                return z.index_copy(-1, columns, new(z[..., columns], known))

            handles.append(edit_activation(mlp_activation(block), edit, "input"))
        start += width
    return handles
