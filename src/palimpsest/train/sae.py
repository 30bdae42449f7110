"""Training of sparse autoencoders on a layer's activations; `palimpsest.models.sae` says what they are."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.models.sae import SparseAutoencoder
from palimpsest.train.loop import fit
from palimpsest.train.order import shuffled


def train_sae(
    h: Float[Tensor, "tokens d"],
    m: int,
    *,
    k: int | None = None,
    l1: float = 1.0,
    steps: int = 1000,
    lr: float = 1e-3,
    batch_size: int = 256,
    seed: int = 0,
    **options: Any,
) -> SparseAutoencoder:
    """Trains an autoencoder on activations; `options` go to `palimpsest.train.fit`.

    Args:
        h: activations of many tokens; their mean is the first decoder bias, their root mean square the scale.
        m: features, usually 4 to 32 times d.
        k: see `SparseAutoencoder`; then l1 is not used.
        l1: weight of the features' sum, for activations of mean square 1.

    Raises:
        ValueError: if there are no activations, or they are not finite.

    >>> sae = train_sae(torch.randn(64, 8), 16, steps=3, progress=False)
    >>> reconstruction, f = sae(torch.randn(2, 8))
    """
    if h.ndim != 2 or len(h) == 0 or not h.isfinite().all():
        raise ValueError(f"activations must be [tokens, d], finite and at least one, got {list(h.shape)}")
    h = h.detach().float()
    sae = SparseAutoencoder(h.shape[1], m, k=k, seed=seed).to(h.device)
    with torch.no_grad():
        sae.scale.copy_(h.square().mean().sqrt().clamp(min=1e-12))
        sae.decoder_bias.copy_(h.mean(0) / sae.scale)
    order = shuffled(len(h), min(batch_size, len(h)), seed)
    weight = 0.0 if k else l1
    options = {"progress": False, "schedule": "linear", **options}
    fit(
        sae,
        lambda model, batch: model.loss(batch, weight),
        lambda step: h[torch.as_tensor(order(step))],
        steps=steps,
        lr=lr,
        seed=seed,
        **options,
    )
    return sae.eval()
