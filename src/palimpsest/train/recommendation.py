"""Learning who wants what from who took what: by sampled negatives, and in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from palimpsest.losses.ranking import bpr
from palimpsest.models.recommenders import ItemWeights, MatrixFactorisation
from palimpsest.train.method import Edit, Objective
from palimpsest.train.ranges import Above, AtLeast


@dataclass(frozen=True)
class Ranking(Objective):
    """A matrix factorisation learns to rank what a user took above negatives.

    A batch has `user` and `item` [n], and `negatives` [n, k], which the user did not take.

    Attributes:
        ranking: (positive scores [n], negative scores [n, k]) -> loss; by default `bpr`.
        penalty: of the squared norms of the vectors that a batch uses, summed over their width, mean over its rows.
    """

    ranking: Callable[[Tensor, Tensor], Tensor] = bpr
    penalty: Annotated[float, AtLeast(0)] = 0.0

    def loss(self, state: None, model: MatrixFactorisation, batch: Any) -> dict[str, Tensor]:
        user, item, negatives = batch["user"], batch["item"], batch["negatives"]
        positive, negative = model.of(user, item[:, None])[:, 0], model.of(user, negatives)
        terms = {"ranking": self.ranking(positive, negative)}
        if self.penalty:
            items = model.items(item).square().sum(-1) + model.items(negatives).square().sum(-1).mean(-1)
            terms["size"] = self.penalty * (model.users(user).square().sum(-1) + items).mean()
        return terms


@dataclass(frozen=True)
class EASE(Edit):
    """Each item's score is linear in the other items that a user took, by least squares, in closed form.

        min_B |X - X B|^2 + penalty |B|^2, diag B = 0:    B = I - P / diag(P),  P = (X'X + penalty I)^-1

    `data.taken` is X, [users, items].

    Attributes:
        penalty: of the squared weights.

    Source: Steck (2019), arXiv 1905.03375.
    """

    penalty: Annotated[float, Above(0)] = 100.0

    def edit(self, model: Any, data: Any, **training: Any) -> ItemWeights:
        """The model that scores by B; the one that is given is left as it was."""
        taken = data.taken.float()
        gram = taken.T @ taken
        gram.diagonal().add_(self.penalty)
        inverse = torch.linalg.inv(gram)
        weights = -inverse / inverse.diagonal()
        weights.fill_diagonal_(0.0)
        return ItemWeights(taken, weights, taken.new_zeros(taken.shape[1]))
