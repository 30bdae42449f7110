"""The user's own log of who took what: a table with a column of users and one of items, and perhaps one of times.

It comes as `Recommendation`, as the built-in logs do (`palimpsest.tasks.interactions`). Of every user with three items
or more a fifth is tested on, and a fifth validates, at least one each. What is tested is the same for every seed: with
times, a user's latest items, else those that a fixed rule draws from the names of user and item.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from palimpsest.errors import UserError
from palimpsest.tasks.columns import read_cells
from palimpsest.tasks.fresh import generator, split_seed
from palimpsest.tasks.held_out import content_digest, key
from palimpsest.tasks.interactions import Interactions, Recommendation

FEWEST = 3  # items of a user whose items are held out, one for each part
HELD = 0.2  # share of a user's items for each of the two held-out parts
NEGATIVES = 100
STREAM = 191  # random stream of this file


@dataclass(frozen=True, eq=False)
class InteractionFile:
    """A log that was read, with what was found out about it.

    Attributes:
        users, items: their names, sorted.
        notes: what a user should know, a sentence each.
        digest: SHA-256 of the content.
        negatives: how many each held-out interaction gets.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    notes: tuple[str, ...]
    digest: str
    negatives: int
    log: Interactions = field(repr=False)
    tested: torch.Tensor = field(repr=False)
    held: torch.Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.log)

    def splits(self, seed: int) -> Recommendation:
        """Interactions to train on, to choose settings on, and to test on; the last are the same for every seed."""
        draws = torch.Generator().manual_seed(split_seed(seed, "train", STREAM))
        order = torch.rand(len(self.log), generator=draws)
        # Of each user whose items are held out, the first in a random order of the rest.
        place = _place(self.log.user, order.masked_fill(self.tested, 2.0))
        counts = self.log.user.bincount(minlength=len(self.users))
        validated = self.held & ~self.tested & (place < _share(counts)[self.log.user])
        train = self.log[~self.tested & ~validated]
        return Recommendation(
            train,
            self._with_negatives(validated, generator(seed, "validation", STREAM)),
            self._with_negatives(self.tested, generator(0, "test", STREAM)),
            self.users,
            self.items,
        )

    def _with_negatives(self, which: torch.Tensor, draws: torch.Generator) -> Interactions:
        """Interactions, each with different items that its user never took."""
        rows = self.log[which]
        order = self.log.user.argsort(stable=True)
        ends = self.log.user.bincount(minlength=len(self.users)).cumsum(0).tolist()
        by_user = self.log.item[order]
        found = torch.empty(len(rows), self.negatives, dtype=torch.long)
        rng = np.random.default_rng(draws.initial_seed())
        for row, user in enumerate(rows.user.tolist()):
            taken = np.sort(by_user[ends[user - 1] if user else 0 : ends[user]].numpy())
            drawn = rng.choice(len(self.items) - len(taken), self.negatives, replace=False, shuffle=False)
            # The k-th item that is not taken stands after as many taken ones as have fewer untaken before them.
            drawn += np.searchsorted(taken - np.arange(len(taken)), drawn, side="right")
            found[row] = torch.from_numpy(drawn)
        return Interactions(rows.user, rows.item, rows.time, found)


def read_interactions(
    path: str | Path, *, user: str = "user", item: str = "item", time: str | None = None
) -> InteractionFile:
    """A log, checked.

    Args:
        path: CSV, Parquet or JSON lines; columns that are not named here are not read.
        user, item: names of the columns that say who and what.
        time: name of the column that says when, in numbers or dates.

    Raises:
        UserError: what `read_cells` refuses; no such column, a value that is missing, fewer than two items, no user
            with three items, users who took nearly all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "log.csv")
        ...     lines = [f"u{n % 20},i{n * n % 97}" for n in range(200)]
        ...     _ = file.write_text("\\n".join(["user,item", *lines]))
        ...     log = read_interactions(file)
        >>> task = log.splits(0)
        >>> len(log.users), len(log.items), len(task.train) + len(task.validation) + len(task.test) == len(log)
        (20, 49, True)
    """
    cells = read_cells(path)
    if len({user, item, time}) < 3:
        raise UserError(f"user, item and time are different columns, got {user!r}, {item!r} and {time!r}")
    who, what = (cells.names_in(name, role) for name, role in ((user, "user"), (item, "item")))
    when = None if time is None else cells.times(time)
    # The order of the file decides nothing: by user, then item, a pair that occurs again at its first time.
    by_time = np.arange(len(cells)) if when is None else when
    order = np.lexsort([by_time, what.values, who.values])
    pairs = np.stack([who.values, what.values], 1)[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(1)
    pairs, seconds = pairs[first], None if when is None else torch.from_numpy(when[order][first])
    notes = []
    if again := len(order) - len(pairs):
        repeat = "repeats" if again == 1 else "repeat"
        notes.append(f"{again:,} of {len(order):,} interactions {repeat} a pair of user and item: it counts once")
    if when is not None and cells.column(time).kind == "date":
        seconds = seconds * 86_400
    log = Interactions(*(torch.from_numpy(column.copy()) for column in pairs.T), time=seconds)
    users, items = who.levels, what.levels
    if len(items) < 2:
        raise UserError(f"{path}: all interactions are with one item, {items[0]!r}: there is nothing to choose from")
    keys = [key(users[row[0]], items[row[1]]) for row in pairs.tolist()]
    counts = log.user.bincount(minlength=len(users))
    negatives = max(1, min(NEGATIVES, len(items) // 2))
    few, greedy = counts < FEWEST, counts > len(items) - negatives
    for which, says in ((few, f"took fewer than {FEWEST} items"), (greedy & ~few, "took nearly all items")):
        if n := int(which.sum()):
            notes.append(f"{n:,} of {len(users):,} users {says}: theirs are only trained on")
    if (few | greedy).all():
        raise UserError(f"{path}: no user has {FEWEST} items and left {negatives}: there is nothing to test on")
    held = ~(few | greedy)[log.user]
    latest = torch.from_numpy(np.argsort(np.argsort(keys)).astype(np.float64))
    if seconds is not None:  # of one time, the rule decides
        latest = torch.from_numpy(np.argsort(np.lexsort([latest.numpy(), -seconds.numpy()])).astype(np.float64))
    tested = held & (_place(log.user, latest) < _share(counts)[log.user])
    cold = len(set(log.item[tested].tolist()) - set(log.item[~tested].tolist()))
    if cold:
        occur = "occurs" if cold == 1 else "occur"
        notes.append(f"{cold:,} of {len(items):,} items {occur} in the test part alone: no model can learn of them")
    times = [] if seconds is None else [str(value) for value in seconds.tolist()]
    digest = content_digest([*keys, *times])
    return InteractionFile(users, items, (*notes, *cells.notes), digest, negatives, log, tested, held)


def _share(counts: torch.Tensor) -> torch.Tensor:
    """How many of a user's items are held out for one part, of so many."""
    return (HELD * counts).round().clamp(min=1).long()


def _place(user: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The place of each interaction among its user's, by ascending value, from 0."""
    order = value.argsort(stable=True)
    order = order[user[order].argsort(stable=True)]
    counts = user.bincount()
    place = torch.empty_like(user)
    place[order] = torch.arange(len(user)) - (counts.cumsum(0) - counts)[user[order]]
    return place
