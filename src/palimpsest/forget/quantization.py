"""Does quantisation bring it back? Weights rounded as an 8- or 4-bit deployment would round them, for a moment.

Unlearning moves weights a little; rounding may move them back to where the knowledge was (Zhang et al. 2024,
"Catastrophic Failure of LLM Unlearning via Quantization", 2410.16454). Each output channel of a linear layer has its
own scale, s = max |w| / (2^(bits-1) - 1), and its weights become s round(w / s): the symmetric round-to-nearest scheme,
without calibration data. Embeddings and the last layer stay as they are, as is usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def round_to_nearest(weight: Float[Tensor, "out in"], bits: int) -> Float[Tensor, "out in"]:
    """Every row of a matrix on its own grid of 2^bits - 1 levels that is symmetric about 0.

    Raises:
        ValueError: if `bits` is not from 2 to 8.

    >>> round_to_nearest(torch.tensor([[1.0, 0.4, -0.2]]), bits=2)
    tensor([[1., 0., -0.]])
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, got {bits}")
    scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(scale > 0, scale * (weight / scale.clamp(min=1e-30)).round(), weight)


@contextmanager
@torch.no_grad()
def quantized(model: nn.Module, bits: int) -> Iterator[nn.Module]:
    """The model with the weights of its linear layers rounded for the time of the block; then to the bit as before."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    kept = [layer.weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            # Conv1D, of GPT-2, holds its matrix as [in, out].
            w = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
            w.copy_(round_to_nearest(w, bits))
        yield model
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight.copy_(weight)
