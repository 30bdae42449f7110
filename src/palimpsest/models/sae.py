"""Sparse autoencoders: a layer's activations as a few of many directions.

    f = relu(W_e (x - b_d) + b_e)   [of it the k largest]        x^ = W_d^T f + b_d        |row of W_d| = 1
    loss = |x - x^|^2 + l1 sum f,   mean over tokens;            x = h / scale

`scale` is the root mean square of the activations' entries, so that l1 and the learning rate mean the same for every
model. After Bricken et al. 2023, "Towards Monosemanticity"; the k largest: Gao et al. 2024, arXiv 2406.04093.
`palimpsest.train.sae` trains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.models.language import seeded


class SparseAutoencoder(nn.Module):
    """See the module.

    Args:
        d: entries of an activation.
        m: features.
        k: how many features a token may have; None leaves that to the loss.
        seed: of the weights.

    Raises:
        ValueError: if a size is not positive, or k is above m.

    >>> sae = SparseAutoencoder(8, 32, k=3)
    >>> f = sae.encode(torch.randn(5, 8))
    >>> f.shape, bool(((f > 0).sum(1) <= 3).all())
    (torch.Size([5, 32]), True)
    """

    def __init__(self, d: int, m: int, *, k: int | None = None, seed: int = 0) -> None:
        super().__init__()
        if d < 1 or m < 1 or not (k is None or 1 <= k <= m):
            raise ValueError(f"d and m must be positive, and k from 1 to m or None: got d={d}, m={m}, k={k}")
        self.k = k
        # Its rows are normalised where they are used: a row's length is no degree of freedom, at any step.
        self.rows = nn.Parameter(seeded(seed, lambda: F.normalize(torch.randn(m, d), dim=-1)))
        self.encoder = nn.Parameter(self.rows.detach().clone())
        self.encoder_bias = nn.Parameter(torch.zeros(m))
        self.decoder_bias = nn.Parameter(torch.zeros(d))
        self.register_buffer("scale", torch.ones(()))

    @property
    def decoder(self) -> Float[Tensor, "m d"]:
        """W_d: one direction of length 1 a feature."""
        return F.normalize(self.rows, dim=-1)

    @property
    def directions(self) -> Float[Tensor, "m d"]:
        """What one unit of each feature adds to an activation h."""
        return self.decoder * self.scale

    def encode(self, h: Float[Tensor, "... d"]) -> Float[Tensor, "... m"]:
        """The features of activations; none is negative."""
        f = F.relu((h / self.scale - self.decoder_bias) @ self.encoder.T + self.encoder_bias)
        if self.k is None:
            return f
        values, places = f.topk(self.k, dim=-1)
        return torch.zeros_like(f).scatter(-1, places, values)

    def decode(self, f: Float[Tensor, "... m"]) -> Float[Tensor, "... d"]:
        """The activations that features stand for."""
        return (f @ self.decoder + self.decoder_bias) * self.scale

    def forward(self, h: Float[Tensor, "... d"]) -> tuple[Float[Tensor, "... d"], Float[Tensor, "... m"]]:
        """The reconstruction, and the features."""
        f = self.encode(h)
        return self.decode(f), f

    def loss(self, h: Float[Tensor, "tokens d"], l1: float) -> dict[str, Float[Tensor, ""]]:
        """Its terms, "error" and "sparsity"; with k, sparsity is given, and l1 may be 0."""
        reconstruction, f = self(h)
        error = ((h - reconstruction) / self.scale).square().sum(-1).mean()
        return {"error": error, "sparsity": l1 * f.sum(-1).mean()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, k: int | None = None) -> SparseAutoencoder:
        """The autoencoder with this `state_dict`, which `safetensors` saves as it is."""
        m, d = tensors["rows"].shape
        sae = cls(d, m, k=k)
        sae.load_state_dict(dict(tensors))
        return sae.to(tensors["rows"].device).eval()


@torch.no_grad()
def quality(sae: SparseAutoencoder, h: Float[Tensor, "tokens d"]) -> dict[str, float]:
    """How good an autoencoder is: "explained" (1 - residual variance over variance), "active" features a token, and
    the share of "dead" features, which no token has."""
    reconstruction, f = sae(h)
    residual = (h - reconstruction).square().sum()
    return {
        "explained": 1 - float(residual / (h - h.mean(0)).square().sum().clamp(min=1e-12)),
        "active": float((f > 0).float().sum(-1).mean()),
        "dead": float((f > 0).any(0).logical_not().float().mean()),
    }


def __getattr__(name: str) -> Any:
    """`train_sae`, from where it is now: a registered claim, whose text is fixed, asks for it here."""
    if name != "train_sae":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from palimpsest.train.sae import train_sae

    return train_sae
