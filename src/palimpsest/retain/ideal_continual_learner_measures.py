"""What the theory of the ideal continual learner has besides its principle: when it applies, what is lost where it does
not, how many rows stand for a task, and how it is rehearsal and a growing network.

Source: Peng, Giampouras and Vidal (2023), The ideal continual learner: an agent that never forgets, arXiv 2305.00316.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.retain.ideal_continual_learner import ICLRegression

Regression = tuple[Tensor, Tensor]
"""rows X [n, d] and labels y [n]"""


def in_order(tasks: Iterable[Regression]) -> ICLRegression:
    """What is known after least-squares tasks, one after another."""
    learner = None
    for X, y in tasks:
        learner = (learner or ICLRegression.start(X.shape[1], X.dtype)).step(X, y)
    if learner is None:
        raise ValueError("there is no task")
    return learner


def joint_loss(w: Float[Tensor, " d"], tasks: Sequence[Regression]) -> float:
    """The mean square error over the rows of all tasks.

    >>> joint_loss(torch.ones(1), [(torch.ones(1, 1), torch.ones(1)), (torch.ones(1, 1), torch.zeros(1))])
    0.5
    """
    return float(torch.cat([X @ w - y for X, y in tasks]).square().mean())


def shared_minimizer(tasks: Sequence[Regression], tol: float = 1e-8) -> bool:
    """Whether one w is a least-squares solution of every task: a test of rank.

    w solves a task if and only if X w is what of y lies in the columns of X; so all of these equations together must
    have a solution.

    >>> X = torch.eye(2, dtype=torch.float64)
    >>> shared_minimizer([(X[:1], torch.ones(1).double()), (X[1:], torch.ones(1).double())])
    True
    >>> shared_minimizer([(X, torch.ones(2).double()), (X, torch.zeros(2).double())])
    False
    """
    reached = torch.cat([X @ (torch.linalg.pinv(X) @ y) for X, y in tasks])
    stacked = torch.cat([X for X, _ in tasks])
    left = reached - stacked @ (torch.linalg.pinv(stacked) @ reached)
    return bool(left.norm() <= tol * reached.norm().clamp(min=1e-300))


def order_gap(tasks: Sequence[Regression], orders: Iterable[Sequence[int]] | None = None) -> tuple[float, float]:
    """The least and the greatest joint loss that the tasks end with, over the orders in which they may come.

    Where they share a minimiser both are that of joint least squares.

    Args:
        orders: those that are tried; None: all, of which there are many for more than six tasks.

    >>> X = torch.eye(2, dtype=torch.float64)
    >>> order_gap([(X, torch.ones(2).double()), (X[[0, 0]], torch.zeros(2).double())])
    (0.25, 0.5)
    """
    orders = permutations(range(len(tasks))) if orders is None else orders
    losses = [joint_loss(in_order(tasks[number] for number in order).w, tasks) for order in orders]
    return min(losses), max(losses)


def rehearsal_relaxation(
    past: Sequence[Regression], task: Regression, s: int, generator: torch.Generator
) -> Float[Tensor, " d"]:
    """The solution of a task among the least-squares solutions of what is kept: `s` rows of each past task.

    Args:
        generator: the source of which rows are kept.

    >>> X, one = torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    >>> rehearsal_relaxation([(X[:2], one[:2])], (X, 0 * one), 2, torch.Generator())
    tensor([1., 1., 0.], dtype=torch.float64)
    """
    if s < 1:
        raise ValueError(f"s must be at least 1, got {s}")
    kept = [torch.randperm(len(y), generator=generator)[:s] for _, y in past]
    memory = [(X[rows], y[rows]) for (X, y), rows in zip(past, kept, strict=True)]
    together = tuple(torch.cat(parts) for parts in zip(*memory, strict=True))
    return in_order([together, task]).w


def excess(w: Float[Tensor, " d"], truth: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> float:
    """How much larger the expected square error of a past task is at w than at its optimum, the truth.

    >>> excess(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), torch.eye(2))
    4.0
    """
    return float((w - truth) @ covariance @ (w - truth))


def icl_matrix_factorisation(
    S: Float[Tensor, "d k"] | None, M: Float[Tensor, "d n"], tol: float = 1e-8
) -> Float[Tensor, "d more"]:
    """A basis that spans what it did and the columns of M, with columns more only for what was not there: the growing
    network among the ideal learners.

    >>> S = icl_matrix_factorisation(None, torch.eye(3)[:, :1])
    >>> icl_matrix_factorisation(S, torch.tensor([[2.0], [3.0], [0.0]])).shape
    torch.Size([3, 2])
    """
    S = M.new_zeros(len(M), 0) if S is None else S
    U, s, _ = torch.linalg.svd(M - S @ (S.T @ M), full_matrices=False)
    return torch.cat([S, U[:, s > tol * torch.linalg.matrix_norm(M, 2)]], 1)
