"""Gradients of several tasks made into one: projections that keep old tasks from suffering, averages without conflict.

All works on a matrix of gradients G [tasks, parameters], a task a row, and through its Gramian K = G G^T alone: one
product over the parameters gives K, the small problem of [tasks, tasks] numbers gives a weight for every row, and one
product more the result w^T G. The small problems are solved exactly, in float64.

    agem      g - min(0, g.r) / |r|^2 r                                        one reference r
    gem       g + R^T v,  v = argmin_{v >= margin} 1/2 v^T (R R^T + eps I) v + (R g)^T v;  g where R g >= 0
    pcgrad    sum_i of g_i, with what conflicts with each g_j in turn taken off
    mgda      the shortest vector of the convex hull
    dualproj  the mean of the rows, brought to the nearest d with G d >= 0
    upgrad    the mean of all rows each brought to the nearest d with G d >= 0

Sources: A-GEM: Chaudhry et al. (2019), arXiv 1812.00420; GEM: Lopez-Paz and Ranzato (2017), arXiv 1706.08840; PCGrad:
Yu et al. (2020), arXiv 2001.06782; MGDA: Desideri (2012), and Sener and Koltun (2018), arXiv 1810.04650; DualProj and
UPGrad: Quinton and Rey (2024), arXiv 2406.16232.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor, nn


def flat_gradient(parameters: Sequence[nn.Parameter]) -> Float[Tensor, " parameters"]:
    """The gradients that stand at the parameters, one after the other; zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def gradient_of(loss: Float[Tensor, ""], parameters: Sequence[nn.Parameter]) -> Float[Tensor, " parameters"]:
    """The gradient of a loss as one vector; what stands at the parameters is left alone.

    >>> w = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> gradient_of(w.square().sum(), [w])
    tensor([2., 4.])
    """
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


def set_gradient(parameters: Sequence[nn.Parameter], vector: Float[Tensor, " parameters"]) -> None:
    """Writes a vector to the parameters as their gradients."""
    for p, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.reshape(p.shape).to(p.dtype)


def agem(gradient: Float[Tensor, " p"], reference: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """The gradient without its part against the reference; as it is where the two do not conflict.

    >>> agem(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))
    tensor([1., 0.])
    """
    _check(gradient[None], reference[None])
    along = gradient @ reference
    return gradient - along / (reference @ reference) * reference if along < 0 else gradient


def gem(
    gradient: Float[Tensor, " p"],
    references: Float[Tensor, "tasks p"],
    *,
    margin: float = 0.5,
    eps: float = 1e-3,
    relative: bool = False,
) -> Float[Tensor, " p"]:
    """The gradient, turned so that it conflicts with no reference; as it is where it conflicts with none.

    Args:
        references: the gradients of earlier tasks.
        margin: the least weight of every reference, once one is in conflict; above 0 it favours earlier tasks.
        eps: added to the diagonal of the references' Gramian; absolute, as in the authors' code, so that it outweighs
            small gradients.
        relative: eps counts in the mean of that diagonal.

    >>> gem(torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0]]), margin=0.0, eps=0.0)
    tensor([1., 0.])
    """
    _check(references, gradient[None])
    if margin < 0 or eps < 0:
        raise ValueError(f"margin and eps must be at least 0, got {margin} and {eps}")
    rows = torch.cat([references, gradient[None]])
    products = _gramian(rows)
    K, b = products[:-1, :-1], products[:-1, -1]
    if b.min() >= 0:
        return gradient
    K = K + eps * (np.diag(K).mean() if relative else 1.0) * np.eye(len(K))
    return _combined(np.append(_at_least(K, b, np.full(len(K), margin)), 1.0), rows)


def pcgrad(gradients: Float[Tensor, "tasks p"], generator: torch.Generator | None = None) -> Float[Tensor, " p"]:
    """The sum of the gradients, each after what conflicts with the others was taken off, one after the other in random
    order.

    Args:
        generator: the source of the orders; None: in the order of the rows.

    >>> pcgrad(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.5000, 1.5000])
    """
    _check(gradients)
    K = _gramian(gradients)
    n = len(K)
    weights = np.eye(n)
    for i, own in enumerate(weights):
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for j in order.tolist():
            along = own @ K[:, j]
            if j != i and along < 0:
                own[j] -= along / K[j, j]
    return _combined(weights.sum(0), gradients)


def mgda(gradients: Float[Tensor, "tasks p"]) -> Float[Tensor, " p"]:
    """The shortest vector among the weighted means of the gradients: no task gets worse along it.

    >>> mgda(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    tensor([1., 1.])
    """
    _check(gradients)
    K = _gramian(gradients)
    root = _root(K / max(np.trace(K), np.finfo(float).tiny))
    # Weights u >= 0 of any sum, at the price (sum - 1)^2: their direction is that of the best weights of sum 1.
    found = nnls(np.vstack([root, np.ones(len(K))]), np.append(np.zeros(len(root)), 1.0))[0]
    return _combined(found / found.sum(), gradients)


def dualproj(gradients: Float[Tensor, "tasks p"]) -> Float[Tensor, " p"]:
    """The mean of the gradients, brought to the nearest vector that conflicts with none.

    >>> dualproj(torch.tensor([[1.0, 0.0], [-3.0, 1.0]]))
    tensor([0.0000, 0.5000])
    """
    _check(gradients)
    K = _gramian(gradients)
    return _combined(_shortest_above(K, np.full(len(K), 1 / len(K))), gradients)


def upgrad(gradients: Float[Tensor, "tasks p"]) -> Float[Tensor, " p"]:
    """The mean of the gradients after each was brought to the nearest vector that conflicts with none.

    >>> upgrad(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.2500, 0.7500])
    """
    _check(gradients)
    K = _gramian(gradients)
    return _combined(np.mean([_shortest_above(K, own) for own in np.eye(len(K))], 0), gradients)


def conflicts(gradients: Float[Tensor, "tasks p"]) -> float:
    """The share of pairs of gradients whose product is negative.

    >>> conflicts(torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 1.0]]))
    0.333...
    """
    _check(gradients)
    K = _gramian(gradients)
    pairs = K[np.triu_indices(len(K), 1)]
    return float((pairs < 0).mean()) if len(pairs) else 0.0


def _shortest_above(K: np.ndarray, least: np.ndarray) -> np.ndarray:
    """argmin_{v >= least} v^T K v: the weights of the vector least^T G brought to where it conflicts with no row."""
    return least if (K @ least).min() >= 0 else _at_least(K, np.zeros(len(K)), least)


def _at_least(K: np.ndarray, b: np.ndarray, least: np.ndarray) -> np.ndarray:
    """argmin_{v >= least} 1/2 v^T K v + b^T v, for b in the range of K."""
    # With v = least + u and K = S^T S, that is the nonnegative u with |S u + t|^2 least, where S^T t = K least + b.
    scale = max(np.abs(np.diag(K)).max(), np.finfo(float).tiny)
    S = _root(K / scale)
    t = np.linalg.lstsq(S.T, (K @ least + b) / scale, rcond=None)[0]
    return least + nnls(S, -t)[0]


def _root(K: np.ndarray) -> np.ndarray:
    """S with S^T S = K, without the directions in which K is nothing but rounding."""
    values, vectors = np.linalg.eigh(K)
    real = values > len(K) * np.finfo(float).eps * max(values[-1], 0)
    if not real.any():
        return np.zeros((1, len(K)))
    return np.sqrt(values[real])[:, None] * vectors.T[real]


def _gramian(rows: Tensor) -> np.ndarray:
    return (rows @ rows.T).double().cpu().numpy()


def _combined(weights: np.ndarray, rows: Tensor) -> Tensor:
    return torch.from_numpy(weights).to(rows) @ rows


def _check(rows: Tensor, others: Tensor | None = None) -> None:
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(f"gradients must be [tasks, parameters] with at least one row, got {list(rows.shape)}")
    if others is not None and rows.shape[1] != others.shape[1]:
        raise ValueError(f"gradients must be equally long, got {rows.shape[1]} and {others.shape[1]}")
