"""What prediction errors approximate: how unsure a Gaussian process would be of a row after the rows of a class.

Source: Zajac, Tuytelaars and van de Ven (2023), Prediction error-based classification for class-incremental learning,
arXiv 2305.18806; the kernel of a wide network with relu: Cho and Saul (2009), Kernel methods for deep learning.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def arc_cosine_kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """The covariance of the outputs of infinitely wide random networks with one hidden layer of relu, at two rows; of
    layers as they begin, uniform within 1 / sqrt(inputs), without the last one's bias.

        |x'| |y'| (sin t + (pi - t) cos t) / (6 pi),    x' = (x, 1) / sqrt(3 d),    t the angle between x' and y'

    >>> x = torch.zeros(1, 2)
    >>> arc_cosine_kernel(x, x)  # 1/3 of half a variance of 1/6
    tensor([[0.0278]])
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"rows must be [n, d] and [m, d], got {list(x.shape)} and {list(y.shape)}")
    x, y = (torch.cat([each, torch.ones_like(each[:, :1])], 1) / (3 * each.shape[1]) ** 0.5 for each in (x, y))
    lengths = x.norm(dim=1)[:, None] * y.norm(dim=1)
    cosine = (x @ y.T / lengths).clamp(-1, 1)
    angle = cosine.arccos()
    return lengths * ((1 - cosine.square()).sqrt() + (torch.pi - angle) * cosine) / (6 * torch.pi)


def posterior_variance(seen: Float[Tensor, "n d"], x: Float[Tensor, "m d"], noise: float = 1e-6) -> Float[Tensor, " m"]:
    """k(x, x) - k(x, seen) (k(seen, seen) + noise I)^-1 k(seen, x), in float64: minus a class's score is about this.

    >>> seen = torch.eye(3)
    >>> posterior_variance(seen, torch.cat([seen, -seen]))[:3].max() < 1e-5
    tensor(True)
    """
    seen, x = seen.double(), x.double()
    factor = torch.linalg.cholesky(
        arc_cosine_kernel(seen, seen) + noise * torch.eye(len(seen), dtype=seen.dtype, device=seen.device)
    )
    explained = torch.linalg.solve_triangular(factor, arc_cosine_kernel(seen, x), upper=False).square().sum(0)
    own = (x.square().sum(1) + 1) / (18 * x.shape[1])
    return own - explained
