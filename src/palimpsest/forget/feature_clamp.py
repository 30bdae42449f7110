"""Clamps features of a sparse autoencoder in a residual stream, by hooks that come off again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from palimpsest.models.blocks import blocks
from palimpsest.models.hooks import edit_activation
from palimpsest.models.sae import SparseAutoencoder


def clamped(
    h: Float[Tensor, "... d"],
    sae: SparseAutoencoder,
    features: Int[Tensor, "k"],
    clamp: Float[Tensor, "k"],
    where: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "... d"]:
    """Activations with every feature that is active set to its clamp: h + sum_{i: f_i > 0} (clamp_i - f_i) d_i, where
    d_i is the direction of feature i.

    Args:
        clamp: in the features' units, one for each.
        where: which tokens may be edited; None is all.

    >>> sae = SparseAutoencoder(2, 2).requires_grad_(False)
    >>> _ = sae.rows.copy_(torch.eye(2)), sae.encoder.copy_(torch.eye(2))
    >>> clamped(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]), sae, torch.tensor([0]), torch.tensor([-5.0])).tolist()
    [[-5.0, 1.0], [-3.0, 1.0]]
    """
    f = sae.encode(h.to(sae.rows.dtype))[..., features]
    change = torch.where(f > 0, clamp - f, 0.0)
    if where is not None:
        change = change * where[..., None]
    return h + (change @ sae.directions[features]).to(h.dtype)


def hook(
    model: nn.Module,
    sae: SparseAutoencoder,
    layer: int,
    features: Int[Tensor, "k"],
    clamp: Float[Tensor, "k"],
    spared: int | None,
) -> list[Any]:
    """Puts the clamp on; `remove()` of each handle takes it off again."""
    read: dict[str, Any] = {}

    def remember(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
        cache = inputs.get("past_key_values")
        read["ids"] = inputs.get("input_ids", args[0] if args else None)
        read["mask"] = inputs.get("attention_mask", args[1] if len(args) > 1 else None)
        read["past"] = 0 if cache is None else cache.get_seq_length()

    @torch.no_grad()
    def edit(h: Tensor) -> Tensor:
        ids, mask, tokens = read["ids"], read["mask"], h.shape[1]
        if mask is None:
            mask = torch.ones(1, read["past"] + tokens, dtype=torch.long, device=h.device)
        # Not padding, where the mask is 0, nor the first token, where its running sum is 1.
        where = ((mask.cumsum(1) > 1) & mask.bool())[:, -tokens:]
        if spared is not None and ids is not None:
            where = where & (ids != spared)
        return clamped(h, sae, features, clamp, where)

    return [
        model.register_forward_pre_hook(remember, with_kwargs=True),
        edit_activation(blocks(model)[layer], edit),
    ]


@contextmanager
def clamping(
    model: nn.Module,
    sae: SparseAutoencoder,
    layer: int,
    features: Int[Tensor, "k"],
    clamp: Float[Tensor, "k"],
    *,
    spared: int | None = None,
) -> Iterator[nn.Module]:
    """Clamps features while the block lasts; the first token of a text and padding are never edited, nor is the token
    id `spared`."""
    handles = hook(model, sae, layer, features, clamp, spared)
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()
