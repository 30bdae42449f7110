"""k-means on the unit sphere, the clusters and prototypes of contrastive methods (Dhillon and Modha 2001)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.input_checks import check_embeddings


class Clusters(NamedTuple):
    """Unit-norm centres, the cluster of every row, and the mean cosine of rows to their centres."""

    centres: Float[Tensor, "k d"]
    assigned: Int[Tensor, " n"]
    cohesion: float


@torch.no_grad()
def spherical_kmeans(
    z: Float[Tensor, "n d"], k: int, *, iterations: int = 50, restarts: int = 1, seed: int = 0
) -> Clusters:
    """Clusters of directions: rows go to the centre of highest cosine, centres are their rows' normalised sums.

    Starts from rows drawn far from one another (k-means++ by 1 - cosine); a cluster that loses all rows takes the row
    that fits its own centre worst, and may yet stay empty where rows coincide. Ends when nothing moves, or after
    `iterations`; the best of `restarts` is given.

    Raises:
        ValueError, TypeError: rows that are not finite or have no direction, a k outside of 1 to n.

    >>> z = torch.tensor([[1.0, 0.0], [5.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
    >>> spherical_kmeans(z, 2).assigned.unique(return_counts=True)[1]
    tensor([2, 2])
    """
    check_embeddings(z=z)
    for name, value in (("iterations", iterations), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not isinstance(k, int) or not 1 <= k <= len(z):
        raise ValueError(f"k must be a whole number from 1 to {len(z)}, the number of rows, got {k}")
    z = z.detach().float()
    if not bool((z != 0).any(1).all()):
        raise ValueError(f"row {int((z == 0).all(1).nonzero()[0])} is 0 and has no direction")
    z = F.normalize(z, dim=1)
    generator = torch.Generator().manual_seed(seed)
    return max((_once(z, k, iterations, generator) for _ in range(restarts)), key=lambda found: found.cohesion)


def _once(z: Tensor, k: int, iterations: int, generator: torch.Generator) -> Clusters:
    centres = _start(z, k, generator)
    assigned = None
    for _ in range(iterations):
        cosine, now = (z @ centres.T).max(1)
        if assigned is not None and bool((now == assigned).all()):
            break
        assigned = now
        counts = torch.bincount(assigned, minlength=k)
        worst = iter(cosine.argsort().tolist())
        for empty in (counts == 0).nonzero()[:, 0].tolist():
            row = next(row for row in worst if counts[assigned[row]] > 1)
            counts[assigned[row]] -= 1
            assigned[row] = empty
        sums = torch.zeros_like(centres).index_add_(0, assigned, z)
        # Opposite rows may cancel: their cluster keeps the centre that it has.
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 1e-6, F.normalize(sums, dim=1), centres)
    cosine, assigned = (z @ centres.T).max(1)
    return Clusters(centres, assigned, float(cosine.mean()))


def _start(z: Tensor, k: int, generator: torch.Generator) -> Tensor:
    chosen = [int(torch.randint(len(z), (1,), generator=generator))]
    away = 1 - z @ z[chosen[0]]
    for _ in range(k - 1):
        weights = away.clamp(min=0).cpu()
        weights[chosen] = 0
        if not weights.sum() > 0:  # all other rows sit on centres already
            weights = torch.ones(len(z))
            weights[chosen] = 0
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        away = torch.minimum(away, 1 - z @ z[chosen[-1]])
    return z[chosen].clone()
