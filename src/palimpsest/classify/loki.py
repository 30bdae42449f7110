"""Loki: a classifier's probabilities are read as a place among labels that have distances (Roberts et al. 2023, arXiv
2307.12226).

In place of the likeliest label, the one whose mean squared distance to the labels that were seen, weighed by their
probabilities, is smallest: the Fréchet mean. It may be a label that was never seen. Nothing is trained.

    y(x) = argmin over all labels y of sum_i p_i(x) d(y, y_i)^2                                       (Eq. 1)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from scipy.sparse.csgraph import shortest_path
from torch import Tensor
from torch.nn import functional as F


def loki_predict(
    probabilities: Float[Tensor, "batch seen"],
    distances: Float[Tensor, "labels labels"],
    observed: Sequence[int] | None = None,
    power: float = 2.0,
) -> Int[Tensor, " batch"]:
    """The Fréchet mean of each row's probabilities: a number of the labels, the lowest where several are as near.

    Args:
        probabilities: of the labels that were seen.
        distances: between all labels, symmetric, not negative, 0 on the diagonal.
        observed: the labels that were seen, in the order of the probabilities; all of them unless told otherwise.
        power: of the distance; 1 gives the median.

    Raises:
        ValueError: distances that are none, or observed labels that do not fit.

    >>> line = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    >>> loki_predict(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), line, observed=[0, 2])  # 1 was never seen
    tensor([1, 0])
    """
    return frechet_variance(probabilities, distances, observed, power).argmin(1)


def frechet_variance(
    probabilities: Float[Tensor, "batch seen"],
    distances: Float[Tensor, "labels labels"],
    observed: Sequence[int] | None = None,
    power: float = 2.0,
) -> Float[Tensor, "batch labels"]:
    """The mean of each label's distances, to the power, to what was seen: one matrix product, in float64.

    >>> frechet_variance(torch.tensor([[0.5, 0.5]]), 4 * (1 - torch.eye(2)))
    tensor([[8., 8.]], dtype=torch.float64)
    """
    distances = _checked(distances)
    seen = _seen(distances, observed)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(seen):
        raise ValueError(f"need probabilities of the {len(seen)} observed labels, got {list(probabilities.shape)}")
    return probabilities.to(distances) @ distances[seen] ** power


def tree_distance(parents: Sequence[int]) -> Float[Tensor, "labels labels"]:
    """The number of edges between the nodes of a tree.

    Args:
        parents: of each node; -1 for the root.

    Raises:
        ValueError: parents that are no tree.

    >>> tree_distance([-1, 0, 0, 1])[2].tolist()  # 3 is below 1, and 1 and 2 are below 0
    [1.0, 2.0, 0.0, 3.0]
    """
    adjacency = torch.zeros(len(parents), len(parents))
    for child, parent in enumerate(parents):
        if parent == child or not -1 <= parent < len(parents):
            raise ValueError(f"node {child} cannot have the parent {parent}")
        if parent >= 0:
            adjacency[child, parent] = adjacency[parent, child] = 1
    if sum(parent < 0 for parent in parents) != 1 or int(adjacency.sum()) != 2 * (len(parents) - 1):
        raise ValueError("a tree has one root, whose parent is -1, and no circle")
    return graph_distance(adjacency)


def graph_distance(adjacency: Float[Tensor, "labels labels"]) -> Float[Tensor, "labels labels"]:
    """The lengths of shortest paths between the nodes of an undirected graph.

    Args:
        adjacency: symmetric; the length of each edge, 0 where there is none.

    Raises:
        ValueError: a matrix that is not symmetric, negative lengths, or nodes that no path joins.

    >>> graph_distance(torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 1.0], [5.0, 1.0, 0.0]]))[0].tolist()
    [0.0, 1.0, 2.0]
    """
    adjacency = adjacency.double()
    if adjacency.ndim != 2 or not torch.equal(adjacency, adjacency.T) or bool((adjacency < 0).any()):
        raise ValueError("adjacency must be a symmetric matrix of lengths that are not negative")
    lengths = torch.from_numpy(shortest_path(adjacency.cpu().numpy(), directed=False))
    if bool(lengths.isinf().any()):
        raise ValueError("the graph falls into parts that no path joins")
    return lengths


def embedding_distance(vectors: Float[Tensor, "labels d"]) -> Float[Tensor, "labels labels"]:
    """sqrt(2 - 2 cos) of the labels' vectors, such as class means of features, or embeddings of the classes' names:
    for where no other distance is known.

    >>> embedding_distance(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
    tensor([[0., 2.],
            [2., 0.]], dtype=torch.float64)
    """
    unit = F.normalize(vectors.double(), dim=1)
    apart = (2 - 2 * unit @ unit.T).clamp(min=0).sqrt()
    apart = (apart + apart.T) / 2
    return apart.fill_diagonal_(0)


def squared_distance(
    answers: Int[Tensor, " n"], labels: Int[Tensor, " n"], distances: Float[Tensor, "labels labels"]
) -> float:
    """The mean squared distance of answers from the true labels.

    >>> line = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    >>> squared_distance(torch.tensor([0, 0]), torch.tensor([2, 0]), line)
    2.0
    """
    return float(_checked(distances)[answers, labels].square().mean())


def _checked(distances: Tensor) -> Tensor:
    distances = distances.double()
    square = distances.ndim == 2 and distances.shape[0] == distances.shape[1]
    if not square or bool((distances < 0).any()) or bool((distances.diagonal() != 0).any()):
        raise ValueError("distances must be a square matrix, not negative, and 0 on its diagonal")
    if not torch.allclose(distances, distances.T):
        raise ValueError("distances must be symmetric")
    return distances


def _seen(distances: Tensor, observed: Sequence[int] | None) -> list[int]:
    seen = list(range(len(distances)) if observed is None else observed)
    if not seen or len(set(seen)) != len(seen) or not all(0 <= one < len(distances) for one in seen):
        raise ValueError(f"observed must be different labels from 0 to {len(distances) - 1}, got {seen}")
    return seen
