"""Which class vectors are neighbours: features that come near two make an edge, and it fades.

Source: Malepathirana, Senanayake and Halgamuge (2023), NAPA-VQ, arXiv 2308.09297, after Fritzke (1995), A growing
neural gas network learns topologies.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHARPNESS = 0.001  # of the weights of neighbours
CUT = 10  # visits without a meeting after which an edge is gone


def distances(
    features: Float[Tensor, "batch d"], vectors: Float[Tensor, "classes d"]
) -> Float[Tensor, "batch classes"]:
    """Of every row to every vector, by differences.

    >>> distances(torch.ones(1, 4), torch.zeros(1, 4))
    tensor([[2.]])
    """
    return torch.cdist(features[None], vectors[None], compute_mode="donot_use_mm_for_euclid_dist")[0]


@torch.no_grad()
def updated(
    edges: Float[Tensor, "n n"],
    apart: Float[Tensor, "batch n"],
    near: int,
    decay: float = 0.9,
) -> Float[Tensor, "n n"]:
    """Edges after a batch, whatever its order: a feature visits its nearest vector i and sets the edges from i to the
    `near` nearest, i among them, to 1; edges of i that others of its visits met fade by the visits that did not.

        e_ij <- (1 if met else e_ij) decay^(visits of i - meetings of i and j), 0 below decay^10

    Args:
        apart: the distance of each feature from each vector.

    >>> updated(torch.eye(3), torch.tensor([[0.0, 1.0, 5.0]]), near=2)
    tensor([[1., 1., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    nearest = apart.topk(near, largest=False).indices
    visited = nearest[:, 0]
    meetings = torch.zeros_like(edges)
    meetings.index_put_((visited[:, None], nearest), torch.ones_like(meetings[0, 0]), accumulate=True)
    visits = visited.bincount(minlength=len(edges))[:, None]
    edges = edges.maximum((meetings > 0).to(edges)) * decay ** (visits - meetings).clamp(min=0)
    return edges.masked_fill(edges < decay**CUT, 0)


def neighbourhood_loss(
    apart: Float[Tensor, "batch n"],
    labels: Int[Tensor, " batch"],
    edges: Float[Tensor, "n n"],
) -> Float[Tensor, ""]:
    """mean relu(|f - c_y|^2 - sum over neighbours j of w_j |f - c_j|^2), the weights w = softmax of -0.001 |f - c_j|^2
    without a gradient; without a neighbour the sum is 0.

    Args:
        apart: the distance |f - c_j| of each feature from each vector.

    >>> neighbourhood_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([0]), torch.ones(2, 2))
    tensor(3.)
    """
    apart = apart.square()
    own = torch.arange(len(edges), device=labels.device) == labels[:, None]
    joined = (edges[labels] > 0) & ~own
    weights = (-SHARPNESS * apart.detach()).masked_fill(~joined, -torch.inf).softmax(1).nan_to_num(0.0)
    return (apart[own] - (weights * apart).sum(1)).relu().mean()


def between(
    prototypes: Float[Tensor, "n d"],
    edges: Float[Tensor, "n n"],
    labels: Int[Tensor, " m"],
    draws: Mapping[str, Tensor],
) -> Float[Tensor, "m d"]:
    """Prototypes, each on the way towards one at random of those that it has an edge to, itself among them.

    Args:
        prototypes: nan for those that are not known.
        labels: whose are drawn.
        draws: "which" neighbour, from 0 to 1, and what share is its "own".

    >>> draws = {"which": torch.tensor([0.0, 0.9]), "own": torch.tensor([0.75, 0.75])}
    >>> between(torch.tensor([[0.0], [1.0]]), torch.ones(2, 2), torch.tensor([0, 0]), draws)
    tensor([[0.0000],
            [0.2500]])
    """
    near = (edges > 0)[labels] & ~prototypes.isnan().any(1)
    rank = (draws["which"] * near.sum(1)).long()[:, None]  # uniform on 0 .. neighbours - 1
    other = ((near.cumsum(1) - 1 == rank) & near).int().argmax(1)
    own = draws["own"].to(prototypes)[:, None]
    return own * prototypes[labels] + (1 - own) * prototypes[other]


def visited(
    edges: Float[Tensor, "n n"], apart: Float[Tensor, "batch n"], labels: Int[Tensor, " batch"], near: int, decay: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "n n"]]:
    """The loss by the edges as a batch leaves them, and these edges, the same in both directions from then on."""
    edges = updated(edges, apart, near, decay)
    return neighbourhood_loss(apart, labels, edges), (edges + edges.T) / 2


def near_of(n: int, neighbours: int | None) -> int:
    """How many of n vectors a feature makes neighbours: as asked, or 15 of 200 as in the paper, but at least 3.

    >>> near_of(200, None), near_of(16, None), near_of(2, None)
    (15, 3, 2)
    """
    return min(n, max(3, round(15 / 200 * n)) if neighbours is None else neighbours)


def draws(classes: Int[Tensor, " classes"], n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """What `between` needs: classes at random, and the numbers that say which neighbour, and how far."""
    labels = classes[torch.randint(len(classes), (n,), generator=generator)]
    which, share = torch.rand(2, n, generator=generator, dtype=torch.float64)
    return {"labels": labels, "which": which, "own": 0.5 + share / 2}
