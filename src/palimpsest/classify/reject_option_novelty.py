"""How familiar an input is to a network that was trained: the scores of a separated rejector, which looks at the input
before any answer (the novelty rejection of Hendrickx et al. 2021, arXiv 2107.11277)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Familiarity:
    """Novelty of inputs, from the features of the training rows: a separated rejector's score.

    Attributes:
        means: of each class [classes, d], and `precision` [d, d] of features around them, for Mahalanobis' distance.
        rows: the training rows [n, d], for the distance to the k-th nearest.
    """

    means: Tensor
    precision: Tensor
    rows: Tensor
    k: int

    @classmethod
    def fit(
        cls, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], k: int = 5, ridge: float = 1e-3
    ) -> Familiarity:
        """`ridge`: a share of the mean variance that is added to each variance.

        Raises:
            ValueError: features and labels that do not fit, or fewer than k rows.
        """
        if features.ndim != 2 or labels.shape != features.shape[:1] or not 1 <= k <= len(features):
            raise ValueError(f"need features [n, d] of k = {k} rows and labels, got {features.shape}, {labels.shape}")
        rows = features.detach().double()
        names, place = labels.unique(return_inverse=True)
        means = torch.stack([rows[place == one].mean(0) for one in range(len(names))])
        around = rows - means[place]
        covariance = around.T @ around / len(rows)
        covariance += (ridge * covariance.diagonal().mean() + 1e-12) * torch.eye(len(covariance), dtype=rows.dtype)
        return cls(means, torch.linalg.inv(covariance), rows, k)

    def mahalanobis(self, features: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        """Minus the squared distance to the nearest class's mean, in units of the spread around means."""
        apart = features.detach().double()[:, None] - self.means
        return -torch.einsum("bcd,de,bce->bc", apart, self.precision, apart).min(1).values

    def neighbours(self, features: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        """Minus the distance to the k-th nearest training row."""
        return -torch.cdist(features.detach().double(), self.rows).topk(self.k, largest=False).values[:, -1]
