"""Models that say how much a user wants each item: users [n] -> scores [n, items]."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class MatrixFactorisation(nn.Module):
    """A user and an item each have a vector: score(u, i) = u . i + b_i (Koren, Bell and Volinsky 2009).

    Args:
        users, items: how many there are.
        width: of the vectors, which begin with a spread of 0.1.
        seed: of the vectors.

    Example:
        >>> model = MatrixFactorisation(3, 5, width=2)
        >>> model(torch.tensor([0, 2])).shape, model.of(torch.tensor([0]), torch.tensor([[1, 4]])).shape
        (torch.Size([2, 5]), torch.Size([1, 2]))
    """

    def __init__(self, users: int, items: int, *, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.users, self.items = (
            nn.Embedding.from_pretrained(0.1 * torch.randn(n, width, generator=draws), freeze=False)
            for n in (users, items)
        )
        self.bias = nn.Parameter(torch.zeros(items))

    def forward(self, users: Int[Tensor, " n"]) -> Float[Tensor, "n items"]:
        return self.users(users) @ self.items.weight.T + self.bias

    def of(self, users: Int[Tensor, " n"], items: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Some items' scores, each user's own."""
        return (self.items(items) @ self.users(users)[..., None])[..., 0] + self.bias[items]


class ItemWeights(nn.Module):
    """Scores from what a user took: score(u, i) = sum over the taken items j of B_ji, plus b_i.

    Args:
        taken: what every user took.
        weights: B.
        bias: b.
    """

    def __init__(
        self, taken: Float[Tensor, "users items"], weights: Float[Tensor, "items items"], bias: Float[Tensor, " items"]
    ) -> None:
        super().__init__()
        self.register_buffer("taken", taken)
        self.weights, self.bias = nn.Parameter(weights), nn.Parameter(bias)

    def forward(self, users: Int[Tensor, " n"]) -> Float[Tensor, "n items"]:
        return self.taken[users] @ self.weights + self.bias
