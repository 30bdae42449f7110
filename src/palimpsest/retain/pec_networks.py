"""The small and the large networks whose answers PEC compares, and their first weights.

Source: Zajac, Tuytelaars and van de Ven (2023), Prediction error-based classification for class-incremental learning,
arXiv 2305.18806.
"""

from __future__ import annotations

import torch
from torch import nn

from palimpsest.retain.continual import Weights


class Convolution(nn.Sequential):
    """One 3 x 3 convolution, each channel normed over the image, GELU, an average down to 5 x 5, and a linear layer."""

    def __init__(self, channels: int, width: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.InstanceNorm2d(width, affine=True),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(5),
            nn.Flatten(),
            nn.Linear(25 * width, outputs),
        )


class Dense(nn.Sequential):
    """One hidden layer, normed, with GELU, on the flattened row."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, outputs)
        )


def drawn_weights(network: nn.Module, generator: torch.Generator) -> Weights:
    """Weights as layers begin, drawn from a generator: uniform within 1 / sqrt(inputs); norms begin at 1 and 0."""
    found = {}
    for path, layer in network.named_modules():
        for name, p in layer.named_parameters(recurse=False):
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                bound = layer.weight[0].numel() ** -0.5
                value = (2 * torch.rand(p.shape, generator=generator) - 1).to(p.dtype) * bound
            else:
                value = torch.full(p.shape, float(name == "weight"), dtype=p.dtype)
            found[f"{path}.{name}"] = value
    return found
