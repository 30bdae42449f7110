"""Which labels a mixture of the observed ones can reach, and which label to observe next (of Loki, Roberts et al. 2023,
arXiv 2307.12226, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.classify.loki import frechet_variance


def locus(distances: Float[Tensor, "labels labels"], observed: Sequence[int], grid: int = 12) -> list[int]:
    """The labels that are the Fréchet mean of some mixture of the observed ones, ties included. The mixtures are of
    every two of the observed labels, and of every three, in steps of 1 / grid: enough for trees, paths and grids, and a
    lower bound elsewhere.

    Raises:
        ValueError: as `loki_predict`, or a grid below 1.

    >>> line = (torch.arange(5.0)[:, None] - torch.arange(5.0)).abs()
    >>> locus(line, [0, 4]), locus(line, [1, 2])
    ([0, 1, 2, 3, 4], [1, 2])
    """
    if grid < 1:
        raise ValueError(f"grid must be at least 1, got {grid}")
    mixtures = torch.stack(list(_mixtures(len(observed), grid)))
    variance = frechet_variance(mixtures, distances, observed)
    nearest = variance <= variance.min(1, keepdim=True).values + 1e-9
    return nearest.any(0).nonzero()[:, 0].tolist()


def is_cover(distances: Float[Tensor, "labels labels"], observed: Sequence[int], grid: int = 12) -> bool:
    """Whether every label can be reached: a tree's leaves do, a path's ends and a grid's corners do.

    >>> is_cover((torch.arange(5.0)[:, None] - torch.arange(5.0)).abs(), [0, 3])
    False
    """
    return len(locus(distances, observed, grid)) == len(distances)


def next_class(distances: Float[Tensor, "labels labels"], observed: Sequence[int], grid: int = 12) -> int:
    """The unobserved label with which the locus becomes largest; of several such the one that is farthest from the
    present locus, which on a tree is the authors' choice throughout.

    Raises:
        ValueError: as `locus`, or where every label is observed.

    >>> line = (torch.arange(6.0)[:, None] - torch.arange(6.0)).abs()
    >>> next_class(line, [0, 2])
    5
    """
    others = [label for label in range(len(distances)) if label not in set(observed)]
    if not others:
        raise ValueError("every label is observed")
    far = distances[:, locus(distances, observed, grid)].min(1).values
    return max(others, key=lambda label: (len(locus(distances, [*observed, label], grid)), float(far[label])))


def sample_bound(n: int, observed: int, diameter: float, dimension: int) -> float:
    """How the bound on what is lost to estimating probabilities from n rows falls, up to a constant: diameter^2
    sqrt(observed dimension log(n) / n). For plots; no number of it is a guarantee.

    >>> sample_bound(400, 4, 2.0, 8) < sample_bound(100, 4, 2.0, 8)
    True
    """
    if min(n, observed, dimension) < 1 or diameter < 0:
        raise ValueError(f"n, observed and dimension must be at least 1, got {n}, {observed}, {dimension}")
    return diameter**2 * math.sqrt(observed * dimension * math.log(max(n, 2)) / n)


def nearest_embedding(
    probabilities: Float[Tensor, "batch seen"], vectors: Float[Tensor, "labels d"], observed: Sequence[int]
) -> Int[Tensor, " batch"]:
    """The label whose vector is nearest to the mean of the observed labels' vectors, weighed by their probabilities:
    what is done where labels have embeddings, for comparison.

    >>> nearest_embedding(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0], [1.0], [2.0]]), [0, 2])
    tensor([1])
    """
    mean = probabilities.to(vectors) @ vectors[list(observed)]
    return torch.cdist(mean, vectors).argmin(1)


def _mixtures(seen: int, grid: int) -> list[Tensor]:
    found = list(torch.eye(seen, dtype=torch.float64))
    for one in combinations_with_replacement(range(seen), 3):
        if len(set(one)) == 1:
            continue
        i, j, k = one
        for a in range(grid + 1):
            for b in range(grid + 1 - a) if len(set(one)) == 3 else (0,):
                mix = torch.zeros(seen, dtype=torch.float64)
                mix[i] += a / grid
                mix[j] += b / grid
                mix[k] += 1 - (a + b) / grid
                found.append(mix)
    return found
