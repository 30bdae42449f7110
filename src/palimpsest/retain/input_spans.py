"""What the layers of a network read of a task, and steps that they do not notice.

A layer's weights and its bias are one matrix W, whose inputs have a 1 more. With an orthonormal basis M of the inputs,
W + step (I - M M^T) says of each of them what W says.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.continual import Present
from palimpsest.train.classification import logits_of


def extended(
    M: Float[Tensor, "d k"], gram: Float[Tensor, "d d"], energy: float = 1.0, tol: float = 1e-6
) -> Float[Tensor, "d more"]:
    """An orthonormal basis with as few directions more as it takes to hold a share of the squared length of all rows.

    Args:
        M: the basis so far.
        gram: X^T X of the rows.
        energy: the share.
        tol: directions in which rows are shorter than `tol` times the longest are left out even so.

    >>> extended(torch.zeros(3, 0), torch.diag(torch.tensor([4.0, 1.0, 0.0])), energy=0.8).abs().T
    tensor([[1., 0., 0.]])
    """
    free = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) - M @ M.T
    values, vectors = torch.linalg.eigh(free @ gram @ free)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    total = gram.trace()
    held = (M * (gram @ M)).sum() + values.cumsum(0)
    kept = (held - values < energy * total) & (values > tol**2 * torch.linalg.matrix_norm(gram, 2))
    return torch.cat([M, vectors[:, kept]], 1)


def projected(model: nn.Module, steps: dict[str, Tensor], spans: dict[str, Tensor]) -> dict[str, Tensor]:
    """Steps of parameters, by name, without what the inputs in each layer's span would notice; 0 for parameters of no
    such layer."""
    found = {name: torch.zeros_like(step) for name, step in steps.items()}
    for name, layer in layers_of(model).items():
        names = [f"{name}.{part}".lstrip(".") for part in ("weight", "bias")[: 1 + (layer.bias is not None)]]
        if names[0] not in steps:
            continue
        parts = [steps[each] if each in steps else torch.zeros_like(layer.bias) for each in names]
        matrix = torch.cat([part.reshape(len(part), -1) for part in parts], 1)
        M = spans[name].to(matrix)
        matrix = matrix - matrix @ M @ M.T
        for each, part, value in zip(names, parts, matrix.split([part[0].numel() for part in parts], 1), strict=True):
            if each in found:
                found[each] = value.reshape(part.shape)
    return found


def input_grams(model: nn.Module, data: Present) -> dict[str, Float[Tensor, "d d"]]:
    """X^T X of all that each layer reads of the task's rows, in float64; a layer with a bias reads a 1 besides."""
    layers, grams = layers_of(model), {}

    def adds(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().double()
            if isinstance(layer, nn.Conv2d):
                sizes = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
                x = F.unfold(x, *sizes).transpose(1, 2)
            x = x.flatten(0, -2)
            x = x if layer.bias is None else F.pad(x, (0, 1), value=1.0)
            grams[name] = grams.get(name, 0) + x.T @ x

        return hook

    hooks = [layer.register_forward_pre_hook(adds(name, layer)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for batch in data.batches(data.rows, model):
                logits_of(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return grams


def layers_of(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and the convolutions of all channels of a model, those that train, by name."""
    plain = (nn.Linear, nn.Conv2d)
    return {
        name: each
        for name, each in model.named_modules()
        if isinstance(each, plain) and getattr(each, "groups", 1) == 1 and each.weight.requires_grad
    }
