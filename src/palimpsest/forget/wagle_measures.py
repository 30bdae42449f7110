"""What weight attribution is compared with: masks of the same share by simpler scores (Jia et al. 2024, arXiv
2410.17509)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from palimpsest.forget.masks import gradients, input_norms, top_fraction, top_fraction_by_row
from palimpsest.models.score import Encoded


def baseline_mask(
    kind: Literal["gradient", "magnitude", "wanda", "random"],
    model: nn.Module,
    forget: Encoded,
    keep: float = 0.8,
    *,
    pad_id: int,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, Bool[Tensor, "..."]]:
    """What WAGLE is compared with, for the same share of weights.

    Args:
        kind: "gradient" ranks by |g_f|, "magnitude" by |theta|, "random" by nothing; "wanda" takes from every output
            row of a linear layer the largest |W_ij| |x_j|, x the layer's inputs on the forget rows (Sun et al. 2023,
            arXiv 2306.11695), and the largest |theta| of each row of what is no linear layer.
        seed: of "random".

    Raises:
        ValueError: for another kind, or a share outside (0, 1].
    """
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if kind == "gradient":
        found = gradients(model, forget, pad_id=pad_id, batch_size=batch_size)
        return top_fraction({name: g.abs_() for name, g in found.items()}, keep)
    if kind == "magnitude":
        return top_fraction({name: w.abs() for name, w in weights.items()}, keep)
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        drawn = {name: torch.rand(w.shape, generator=generator).to(w.device) for name, w in weights.items()}
        return top_fraction(drawn, keep)
    if kind != "wanda":
        raise ValueError(f"kind must be 'gradient', 'magnitude', 'wanda' or 'random', got {kind!r}")
    norms = input_norms(model, forget, pad_id=pad_id, batch_size=batch_size)
    # Conv1D, GPT-2's linear layer, has its outputs in columns.
    columns = {id(m.weight) for m in model.modules() if isinstance(m, Conv1D)}
    masks = {}
    for name, p in ((name, p) for name, p in model.named_parameters() if name in weights):
        w = weights[name].abs().view(-1, p.shape[-1]) if p.ndim else weights[name].abs().view(1, 1)
        w = w.T if id(p) in columns else w
        mask = top_fraction_by_row(w * norms[name] if name in norms else w, keep)
        masks[name] = (mask.T if id(p) in columns else mask).reshape(p.shape)
    return masks
