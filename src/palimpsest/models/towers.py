"""Two small towers, one for images and one for texts, that meet on one sphere, as in CLIP.

Radford et al. (2021), arXiv 2103.00020.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class SceneTower(nn.Sequential):
    """Scenes of 16 x 16 pixels to one vector: two convolutions of stride 2, and a hidden layer on the 4 x 4 positions.

    Args:
        width: channels of the first convolution; the second has twice as many.
        features: width of the vector.

    >>> SceneTower()(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 64])
    """

    def __init__(self, width: int = 24, features: int = 64) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(1, 2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * width, features),
            nn.ReLU(),
        )


class TextTower(nn.Module):
    """Words to one vector: embeddings with positions, transformer layers, and the mean over the words.

    Args:
        words: how many there are, without 0, which is padding.
        length: words of the longest text.
        width: of the vector.
        layers: of the transformer; with 0 the vector is the mean of the embeddings, and word order is lost.

    >>> TextTower(words=30, length=17, width=32)(torch.tensor([[4, 7, 1, 0, 0]])).shape
    torch.Size([1, 32])
    """

    def __init__(self, words: int, length: int, width: int = 64, layers: int = 1) -> None:
        super().__init__()
        self.words = nn.Embedding(words + 1, width, padding_idx=0)
        self.positions = nn.Parameter(0.1 * torch.randn(length, width)) if layers else None
        layer = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, 2 * width, **layer) for _ in range(layers))

    def tokens(self, tokens: Int[Tensor, "n words"]) -> Float[Tensor, "n words width"]:
        """A vector for every word; those of padding mean nothing."""
        x, padding = self.words(tokens), tokens == 0
        if self.positions is not None:
            x = x + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return x

    def forward(self, tokens: Int[Tensor, "n words"]) -> Float[Tensor, "n width"]:
        present = (tokens > 0)[..., None].to(self.words.weight.dtype)
        return (self.tokens(tokens) * present).sum(1) / present.sum(1).clamp(min=1)


class TwoTowers(nn.Module):
    """An image tower and a text tower, each followed by a linear map to the common sphere.

    Args:
        image: its `features(x)`, if it has that method, or its output, is a tensor [n, image_dim].
        text: tokens [n, words] -> [n, text_dim].
        image_dim, text_dim, dim: widths.
        extra: modules of the loss that are trained too (a learnable temperature), under their names.

    >>> model = TwoTowers(nn.Linear(6, 4), TextTower(words=30, length=17, width=8), 4, 8, dim=3)
    >>> image, text = model(torch.randn(2, 6), torch.tensor([[4, 7, 1], [2, 9, 0]]))
    >>> image.shape, torch.allclose(text.norm(dim=1), torch.ones(2))
    (torch.Size([2, 3]), True)
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        image_dim: int,
        text_dim: int,
        dim: int = 32,
        extra: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.image_map, self.text_map = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        self.extra = nn.ModuleDict(extra or {})

    def images(self, x: Tensor) -> Float[Tensor, "n dim"]:
        """Unit-norm embeddings of images."""
        return F.normalize(self.image_map(getattr(self.image, "features", self.image)(x)), dim=1)

    def texts(self, tokens: Int[Tensor, "n words"]) -> Float[Tensor, "n dim"]:
        """Unit-norm embeddings of texts."""
        return F.normalize(self.text_map(self.text(tokens)), dim=1)

    def forward(self, x: Tensor, tokens: Int[Tensor, "n words"]) -> tuple[Tensor, Tensor]:
        return self.images(x), self.texts(tokens)
