"""Networks of which only a few units speak of a row, what else makes them so, and how sparse they are.

Sources: the network: Keskinen (2024), Hard ASH, arXiv 2404.17651; units that win locally: Srivastava et al. (2013),
Compete to compute; elephant functions: Lan and Mahmood (2023), arXiv 2310.01365.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.models.forward import evaluating
from palimpsest.models.language import seeded


class RowNormLinear(nn.Linear):
    """A linear layer without bias whose rows are centred and of length 1, whatever the weights are.

    >>> import torch
    >>> layer = RowNormLinear(3, 2)
    >>> x = torch.tensor([[1.0, 2.0, 4.0]])
    >>> before = layer(x)
    >>> _ = layer.weight.data.mul_(7).add_(5)
    >>> torch.allclose(layer(x), before, atol=1e-5)
    True
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        return F.linear(x, F.normalize(self.weight - self.weight.mean(1, keepdim=True), dim=1))


class SparseNetwork(nn.Module):
    """A wide hidden layer, then one head without bias; both begin with He's normal weights.

    Args:
        in_features, classes, width: sizes.
        activation: of the hidden layer, which it sees as a whole [batch, width].
        row_norm: bring the rows of the hidden layer's weights to length 1.
        mean, std: of the inputs, which are standardised by them; MNIST's.
        seed: of the weights.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        activation: Callable[[Tensor], Tensor],
        *,
        width: int = 1000,
        row_norm: bool = True,
        mean: float = 0.1307,
        std: float = 0.3081,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.activation, self.mean, self.std = activation, mean, std

        def layers() -> tuple[nn.Linear, nn.Linear]:
            hidden = RowNormLinear(in_features, width) if row_norm else nn.Linear(in_features, width, bias=False)
            head = nn.Linear(width, classes, bias=False)
            for layer in (hidden, head):
                nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
            return hidden, head

        self.hidden, self.head = seeded(seed, layers)

    def features(self, x: Float[Tensor, "batch *row"]) -> Float[Tensor, "batch width"]:
        """What the head reads."""
        return self.activation(self.hidden((x.flatten(1) - self.mean) / self.std))

    def forward(self, x: Float[Tensor, "batch *row"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.features(x))


def top_k(x: Float[Tensor, "... units"], k: int = 64) -> Float[Tensor, "... units"]:
    """The k largest of a row as they are, 0 for the others.

    >>> import torch
    >>> top_k(torch.tensor([3.0, 1.0, 2.0]), k=2)
    tensor([3., 0., 2.])
    """
    return x * (x >= x.topk(k, dim=-1).values[..., -1:])


def lwta(x: Float[Tensor, "... units"], groups: int = 50) -> Float[Tensor, "... units"]:
    """The largest of each group of neighbours as it is, 0 for the others.

    >>> import torch
    >>> lwta(torch.tensor([3.0, 1.0, -2.0, -1.0]), groups=2)
    tensor([ 3.,  0., -0., -1.])
    """
    grouped = x.unflatten(-1, (groups, -1))
    winners = F.one_hot(grouped.argmax(-1), grouped.shape[-1])
    return (grouped * winners).flatten(-2)


def elephant(x: Tensor, a: float = 0.16, d: float = 4.0) -> Tensor:
    """1 / (1 + |x / a|^d): 1 near 0, and 0 away from it.

    >>> import torch
    >>> elephant(torch.tensor([0.0, 0.16]))
    tensor([1.0000, 0.5000])
    """
    return 1 / (1 + (x / a).abs() ** d)


def sparsity(model: nn.Module, x: Tensor, below: float = 1e-2) -> float:
    """The share of a model's features that are nearly 0, over rows and units."""
    with evaluating(model):
        return float((model.features(x).abs() < below).double().mean())


def overlap(model: nn.Module, x: Tensor, other: Tensor) -> float:
    """The cosine of what the features say of two tasks on average: how far one disturbs what the other uses."""
    with evaluating(model):
        one, two = (model.features(rows).mean(0).double() for rows in (x, other))
    return float(F.cosine_similarity(one, two, dim=0))
