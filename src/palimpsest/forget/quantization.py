"""Does quantisation bring it back? Weights rounded as an 8- or 4-bit deployment would round them, for a moment.

Unlearning moves weights a little; rounding may move them back to where the knowledge was (Zhang et al. 2024,
"Catastrophic Failure of LLM Unlearning via Quantization", 2410.16454). Each output channel of a linear layer has its
own scale, s = max |w| / (2^(bits-1) - 1), and its weights become s round(w / s): the symmetric round-to-nearest scheme,
without calibration data. The experts of a mixture, held as one tensor [experts, out, in] or [experts, in, out], are
rounded likewise. Embeddings, convolutions, routers and the last layer stay as they are, as is usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D


def round_to_nearest(weight: Float[Tensor, "*experts out in"], bits: int) -> Float[Tensor, "*experts out in"]:
    """Every row of a matrix, or of several, on its own grid of 2^bits - 1 levels that is symmetric about 0.

    Raises:
        ValueError: if `bits` is not from 2 to 8.

    >>> round_to_nearest(torch.tensor([[1.0, 0.4, -0.2]]), bits=2)
    tensor([[1., 0., -0.]])
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, got {bits}")
    scale = weight.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(scale > 0, scale * (weight / scale.clamp(min=1e-30)).round(), weight)


@contextmanager
@torch.no_grad()
def quantized(model: nn.Module, bits: int) -> Iterator[nn.Module]:
    """The model with the weights of its linear layers rounded for the time of the block; then to the bit as before."""
    matrices = list(_matrices(model))
    kept = [matrix.detach().clone() for matrix in matrices]
    try:
        for matrix in matrices:
            matrix.copy_(round_to_nearest(matrix, bits))
        yield model
    finally:
        for matrix, was in zip(matrices, kept, strict=True):
            matrix.copy_(was)


def _matrices(model: nn.Module) -> Iterator[Float[Tensor, "*experts out in"]]:
    """Views of what is rounded, inputs last."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module in model.modules():
        if isinstance(module, Conv1D):  # of GPT-2, which holds its matrix as [in, out]
            yield module.weight.T
        elif isinstance(module, nn.Linear):
            if module is not head:
                yield module.weight
        elif not isinstance(module, _ConvNd):
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 3 and parameter.is_floating_point():
                    # transformers marks experts that hold theirs as [experts, in, out], such as those of gpt-oss.
                    yield parameter.mT if getattr(module, "is_transposed", False) else parameter
