"""The world of imports that comparisons of recommenders are made on: what else does a module import?

About 2,000 modules are the users and 1,000 names the items (`palimpsest.tasks.imports`); a 21st of every module's names
is to be found again among all that it is not known to import, and among a hundred that it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from palimpsest.metrics.retrieval import discounted_gain, ranks
from palimpsest.models.recommenders import ItemWeights, MatrixFactorisation
from palimpsest.tasks.imports import imports
from palimpsest.tasks.interactions import Interactions, Recommendation
from palimpsest.train.order import shuffled

CANDIDATES = 16
"""negatives of each interaction of a batch"""
AMONG_ALL, FOUND, SAMPLED = "nDCG@20", "recall@20", "nDCG@20 of sampled"


@dataclass(frozen=True)
class Imports:
    """A seed's interactions and models.

    Attributes:
        seed: of the interactions that are held out, and of the vectors.
        smoke: changes nothing: all of it takes two seconds.
        everything: the held-out interactions are among those to train on.
    """

    seed: int
    smoke: bool = False
    everything: bool = False

    @cached_property
    def task(self) -> Recommendation:
        return imports(self.seed)

    @cached_property
    def train(self) -> Interactions:
        task = self.task
        parts = [task.train, task.validation, task.test] if self.everything else [task.train]
        return Interactions(torch.cat([part.user for part in parts]), torch.cat([part.item for part in parts]))

    @cached_property
    def taken(self) -> Bool[Tensor, "users items"]:
        """What each module is known to import."""
        found = torch.zeros(len(self.task.users), len(self.task.items), dtype=torch.bool)
        found[self.train.user, self.train.item] = True
        return found

    @property
    def data(self) -> Imports:
        return self

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        """step -> {"user" [n], "item" [n], "negatives" [n, 16]}: each negative any item that the user did not take."""
        order = shuffled(len(self.train), batch_size, seed)

        def batch(step: int) -> dict[str, Tensor]:
            rows = order(step)
            user, draws = self.train.user[rows], torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
            negatives = torch.randint(len(self.task.items), (len(user), CANDIDATES), generator=draws)
            while (taken := self.taken[user[:, None], negatives]).any():
                negatives[taken] = torch.randint(len(self.task.items), (int(taken.sum()),), generator=draws)
            return {"user": user, "item": self.train.item[rows], "negatives": negatives}

        return batch

    def model(self, kind: str) -> nn.Module:
        """ "factorisation": random vectors; "popularity": every user the same, the most imported names first."""
        users, items = self.taken.shape
        if kind == "popularity":
            taken = self.taken.float()
            return ItemWeights(taken, taken.new_zeros(items, items), taken.sum(0))
        return MatrixFactorisation(users, items, seed=self.seed)


def measures(world: Imports, model: nn.Module) -> dict[str, float]:
    """Where a module's held-out name stands among all that it does not import in training, and among a hundred that it
    does not import at all; mean over the held-out interactions."""
    rank, sampled = _ranks(world, model, world.task.test)
    return {
        AMONG_ALL: float(discounted_gain(rank, 20).mean()),
        FOUND: float((rank <= 20).float().mean()),
        SAMPLED: float(discounted_gain(sampled, 20).mean()),
    }


def validate(world: Imports, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """nDCG@20 among all, of the names that no test asks for."""
    return float(discounted_gain(_ranks(world, model, world.task.validation)[0], 20).mean())


@torch.no_grad()
def _ranks(world: Imports, model: nn.Module, rows: Interactions) -> tuple[Tensor, Tensor]:
    """The rank of each row's item among all, and among its negatives."""
    scores = model.eval()(rows.user)
    some = torch.cat([rows.item[:, None], rows.negatives], 1)
    sampled = ranks(scores.gather(1, some), torch.zeros_like(rows.item))
    return ranks(scores.masked_fill(world.task.known(rows.user), -torch.inf), rows.item), sampled
