"""Who took what: a log of users and items, split for recommending what a user took besides.

Every user's interactions are put in a random order of their own, the same for all seeds, and dealt to 21 parts: seed s
is tested on part s mod 20, settings are chosen on the last part. So twenty consecutive seeds are tested on twenty
disjoint sets of interactions, a 21st of every user's in each, and an interval over them counts none twice. All
else is trained on, and so is the first interaction of every user, always: nobody is new to the model.

A held-out item is ranked among all items that its user did not take in training (`known`), or among the row's own
`negatives`, which are drawn once a seed, not once a model. The second is cheap, and orders models otherwise than the
first does, so that it must not be the only one (Krichene and Rendle 2020, On sampled metrics for item
recommendation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from palimpsest.tasks.fresh import generator
from palimpsest.tasks.splits import Rows

PARTS = 20
"""disjoint test parts"""
NEGATIVES = 100
STREAM = 180  # random stream of this file


@dataclass(frozen=True, eq=False)
class Interactions(Rows):
    """Pairs of a user and an item.

    Attributes:
        user, item: their positions among the users and the items of the whole.
        time: when it was, in seconds, where that is known.
        negatives: items that the user never took, of held-out interactions.
    """

    user: Int[Tensor, " n"]
    item: Int[Tensor, " n"]
    time: Float[Tensor, " n"] | None = None
    negatives: Int[Tensor, "n negatives"] | None = None


@dataclass(frozen=True, eq=False)
class Recommendation:
    """Interactions to train on, to choose settings on, and to test on.

    Attributes:
        train, validation, test: no pair is in two of them, nor twice in one; the last two have negatives.
        users, items: their names.
    """

    train: Interactions
    validation: Interactions
    test: Interactions
    users: tuple[str, ...]
    items: tuple[str, ...]

    @cached_property
    def popularity(self) -> Int[Tensor, " items"]:
        """How many users took an item in training."""
        return self.train.item.bincount(minlength=len(self.items))

    def known(self, users: Int[Tensor, " n"]) -> Bool[Tensor, "n items"]:
        """Which items each of these users took in training: a ranking leaves them out."""
        return _taken(self.train, users, len(self.users), len(self.items))


def recommendation(
    log: Interactions, users: tuple[str, ...], items: tuple[str, ...], seed: int, *, negatives: int = NEGATIVES
) -> Recommendation:
    """A log split for a seed, as the head of this file says.

    Args:
        log: all interactions; a pair that occurs several times counts once, at its first place.
        users, items: their names, in the order of their numbers.
        seed: 0 to 999,999.
        negatives: how many each held-out interaction gets, of the items that its user did not take at all, each item
            as likely as another.

    Raises:
        ValueError: a user or an item has no name, or a user left fewer items than there are to be negatives.

    Example:
        >>> log = Interactions(torch.arange(4).repeat_interleave(30), torch.arange(30).repeat(4))
        >>> task = recommendation(log, tuple("abcd"), tuple(map(str, range(40))), 3, negatives=10)
        >>> len(task.train), len(task.validation), len(task.test)
        (109, 5, 6)
        >>> task.test.negatives.min()
        tensor(30)
    """
    for name, values, names in (("user", log.user, users), ("item", log.item, items)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < len(names):
            span = f"{values.min()} to {values.max()}"
            raise ValueError(f"{name}s must be numbered from 0 to {len(names) - 1}, got numbers from {span}")
    pair = log.user * len(items) + log.item
    order = pair.argsort(stable=True)
    again = torch.zeros(len(log), dtype=torch.bool)
    again[order[1:]] = pair[order[1:]] == pair[order[:-1]]
    log = log[~again]
    part = _parts(log.user, len(users))
    tested = part == seed % PARTS
    held = {"validation": log[part == PARTS], "test": log[tested]}
    for split, rows in held.items():
        drawn = _unseen(log, rows.user, len(users), len(items), negatives, generator(seed, split, STREAM))
        held[split] = replace(rows, negatives=drawn)
    return Recommendation(log[~tested & (part != PARTS)], **held, users=users, items=items)


def _parts(user: Tensor, n_users: int) -> Int[Tensor, " n"]:
    """The part that each interaction is dealt to; -1 for the first of every user, in the user's random order."""
    draws = generator(0, "train", STREAM)
    order = torch.rand(len(user), generator=draws).argsort()
    order = order[user[order].argsort(stable=True)]
    counts = user.bincount(minlength=n_users)
    place = torch.empty_like(user)
    place[order] = torch.arange(len(user)) - (counts.cumsum(0) - counts)[user[order]]
    part = (place + torch.randint(PARTS + 1, (n_users,), generator=draws)[user]) % (PARTS + 1)
    return part.where(place > 0, -1)


def _unseen(
    log: Interactions, users: Tensor, n_users: int, n_items: int, k: int, draws: torch.Generator
) -> Int[Tensor, "n k"]:
    """k different items for each of these users, of those that are in none of the user's interactions."""
    found = torch.empty(len(users), k, dtype=torch.long)
    for start in range(0, len(users), 256):  # never an array of all users by all items
        taken = _taken(log, users[start : start + 256], n_users, n_items)
        if (least := n_items - int(taken.sum(1).max())) < k:
            raise ValueError(f"a user took all items but {least}: ask for fewer negatives than {k}")
        order = torch.rand(taken.shape, generator=draws).masked_fill(taken, -1)
        found[start : start + 256] = order.topk(k, 1).indices
    return found


def _taken(log: Interactions, users: Tensor, n_users: int, n_items: int) -> Bool[Tensor, "n items"]:
    distinct, row = users.unique(return_inverse=True)
    place = torch.full((n_users,), -1)
    place[distinct] = torch.arange(len(distinct))
    place = place[log.user]
    taken = torch.zeros(len(distinct), n_items, dtype=torch.bool)
    taken[place[place >= 0], log.item[place >= 0]] = True
    return taken[row]
