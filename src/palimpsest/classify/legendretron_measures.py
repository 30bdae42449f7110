"""What a learned link is looked at and compared by (of LegendreTron, Lam et al. 2023, arXiv 2301.11695)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.models.forward import evaluating


class FreeLink(nn.Module):
    """A link without convexity, a network of two hidden layers: what it learns need be no proper loss. For comparison.

    >>> FreeLink(3)(torch.zeros(2, 2)).shape
    torch.Size([2, 3])
    """

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        k = classes - 1
        self.layers = nn.Sequential(
            nn.Linear(k, width), nn.Softplus(), nn.Linear(width, width), nn.Softplus(), nn.Linear(width, k)
        )

    def forward(self, scores: Float[Tensor, "batch k"]) -> Float[Tensor, "batch classes"]:
        moved = self.layers(scores)
        return torch.cat([moved, moved.new_zeros(len(moved), 1)], 1).log_softmax(1)


def induced_loss(link: nn.Module, shares: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
    """The loss of each class where an inner model says what softmax would read as `shares`: minus the log-probability
    that the link gives instead. With the link that changes nothing it is -log of the shares.

    Args:
        shares: rows inside the simplex, such as a grid for a picture of three classes.

    Raises:
        ValueError: rows that are not positive or do not sum to 1.

    >>> class Same(nn.Module):
    ...     def forward(self, scores):
    ...         return torch.cat([scores, scores.new_zeros(len(scores), 1)], 1).log_softmax(1)
    >>> (-induced_loss(Same(), torch.tensor([[0.25, 0.25, 0.5]]))).exp()
    tensor([[0.2500, 0.2500, 0.5000]])
    """
    if not bool((shares > 0).all()) or not torch.allclose(shares.sum(1), torch.ones_like(shares[:, 0])):
        raise ValueError("shares must be above 0 and sum to 1 in each row")
    with evaluating(link):
        return -link((shares[:, :-1] / shares[:, -1:]).log())


def flip_labels(
    labels: Int[Tensor, " n"], classes: int, eta: float, generator: torch.Generator | None = None
) -> Int[Tensor, " n"]:
    """With probability eta each label is replaced by any other class, all alike.

    Raises:
        ValueError: an eta out of [0, 1], or fewer than two classes.

    >>> bool((flip_labels(torch.arange(4), 4, eta=1.0) == torch.arange(4)).any())
    False
    """
    if not 0 <= eta <= 1 or classes < 2:
        raise ValueError(f"eta must be in [0, 1] and classes at least 2, got {eta} and {classes}")
    moved = (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
    return torch.where(torch.rand(labels.shape, generator=generator) < eta, moved, labels)
