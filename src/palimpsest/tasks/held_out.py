"""How the rows of a user's file are divided: a test part that is the same for every seed, and the rest by the seed.

The test part is drawn from the content of the rows alone: neither the order of a file nor a seed changes it, so that no
seed chooses on what another tests on. Rows that are equal stay in one part, and so do those of a group; with times, the
latest rows are the test part. Training and validation rows are drawn by the seed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from palimpsest.errors import UserError
from palimpsest.tasks.fresh import split_seed

FEWEST = 10  # rows that can be divided at all
OF_A_CLASS = 3  # one for each part
REPEATED = 10  # where rows occur so often on average, equal ones are taken for different things that look alike
TENTHS = 10  # of the numbers that are predicted, to stratify by
STREAM = 190  # random stream of this file


class Parts(NamedTuple):
    """Numbers of the rows of each part, from 0, ascending."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]


def parts(
    keys: Sequence[str],
    seed: int,
    *,
    labels: Int[np.ndarray, "n *labels"] | Float[np.ndarray, " n"] | None = None,
    classes: Sequence[str] = (),
    strata: Int[np.ndarray, " n"] | None = None,
    groups: Sequence[Hashable] | None = None,
    times: Float[np.ndarray, " n"] | None = None,
    test: float = 0.2,
    validation: float = 0.2,
) -> Parts:
    """Rows to train on, to choose settings on, and to test on, of which the last do not depend on the seed.

    Every class (or tenth of the numbers) gives about the same share of its rows to each part, and at least one where it
    has enough. Of labels, a row counts for the rarest that it has.

    Args:
        keys: a digest of each row's content (`key`, `palimpsest.tasks.fresh.row_keys`), which decides the test part.
        seed: 0 to 999,999.
        labels: classes from 0, numbers (floating), or 0 and 1 for each of several labels.
        classes: their names; given, classes are checked (see `check_classes`).
        strata: what to stratify by in place of the labels.
        groups: rows of one value stay in one part.
        times: the latest rows are the test part, and those of one time stay on one side.
        test, validation: shares of the rows.

    Raises:
        UserError: fewer than 10 rows, a class of fewer than 3 rows or with none to train on, fewer than 3 groups, one
            time only, or groups and times together.
        ValueError: shares or lengths that are wrong.

    Example:
        >>> keys = [key(str(row)) for row in range(100)]
        >>> [len(part) for part in parts(keys, 0)]
        [60, 20, 20]
        >>> bool((parts(keys, 0).test == parts(keys, 1).test).all())
        True
    """
    n = len(keys)
    if not (test > 0 and validation > 0 and test + validation < 1):
        raise ValueError(f"test and validation must be above 0 and sum to below 1, got {test} and {validation}")
    for name, values in (("labels", labels), ("strata", strata), ("groups", groups), ("times", times)):
        if values is not None and len(values) != n:
            raise ValueError(f"{name} must have a value for each of the {n} rows, got {len(values)}")
    if groups is not None and times is not None:
        raise UserError("rows are kept apart by a group or by time, not by both: leave one out")
    if n < FEWEST:
        raise UserError(f"{n} rows are too few to train, choose and test on: give at least {FEWEST}")
    if classes:
        check_classes(labels, classes)
    unit = _units(keys, groups)
    sizes = np.bincount(unit)
    if len(sizes) < OF_A_CLASS:
        raise UserError(f"all rows are of {len(sizes)} group{'s'[: len(sizes) > 1]}: three are the least, one a part")
    place = np.empty(n, dtype=np.int64)  # of each row by its key: digests are as good as random
    place[np.argsort(np.asarray(keys), kind="stable")] = np.arange(n)
    order = np.argsort(_smallest(unit, place))
    stratum = _joined(_most_frequent(unit, _strata(labels, place, len(sizes)) if strata is None else strata))
    holds = _classes_of(unit, labels)
    if times is None:
        tested = _drawn(order, sizes, stratum, test, holds, left=2)
    else:
        tested = np.zeros(len(sizes), dtype=bool)
        tested[unit[_latest(times, test)]] = True  # equal rows are of one time
    rest = order[~tested[order]]
    rest = np.random.default_rng(split_seed(seed, "train", STREAM)).permutation(rest)
    validated = _drawn(rest, sizes, stratum, validation, holds, left=1)
    found = Parts(*(np.flatnonzero(which[unit]) for which in (~tested & ~validated, validated, tested)))
    if not all(map(len, found)):
        raise UserError("three parts cannot be made: too many rows are equal, of one group, or late")
    if classes and labels.ndim == 1 and (never := set(range(len(classes))) - set(labels[found.train].tolist())):
        raise UserError(f"class {classes[min(never)]!r} has no row to train on, for all are late: leave the class out")
    return found


def check_classes(labels: Int[np.ndarray, "n *labels"], classes: Sequence[str]) -> None:
    """Raises a UserError for one class, classes of fewer than 3 rows, or more classes than half of the rows.

    >>> check_classes(np.array([0, 0, 0, 1]), ["cat", "dog"])
    Traceback (most recent call last):
    palimpsest.errors.UserError: 1 of 2 classes has fewer than 3 rows ('dog': 1): leave it out or join it with another
    """
    if labels.ndim == 2:
        for counts, says in ((labels.sum(0), "yes"), ((1 - labels).sum(0), "no")):
            for name, count in zip(classes, counts.tolist(), strict=True):
                if count < OF_A_CLASS:
                    raise UserError(f"the label {name!r} is {says} in {count} rows: {OF_A_CLASS} are the least")
        return
    if len(classes) < 2:
        raise UserError(f"all rows are of one class, {classes[0]!r}: there is nothing to tell apart")
    if len(classes) > len(labels) / 2:
        raise UserError(f"{len(classes)} classes in {len(labels)} rows: a class needs at least {OF_A_CLASS} rows")
    counts = np.bincount(labels, minlength=len(classes))
    few = np.flatnonzero(counts < OF_A_CLASS)
    if len(few):
        named = ", ".join(f"{classes[c]!r}: {counts[c]}" for c in few[:5]) + ", ..." * (len(few) > 5)
        mend = "has fewer" if len(few) == 1 else "have fewer"
        which = "leave it out or join it with another" if len(few) == 1 else "leave them out or join them"
        raise UserError(f"{len(few)} of {len(classes)} classes {mend} than {OF_A_CLASS} rows ({named}): {which}")


def duplicates(keys: Sequence[str]) -> int:
    """How many rows equal an earlier one.

    >>> duplicates(["a", "b", "a", "a"])
    2
    """
    return len(keys) - len(set(keys))


def duplicates_note(keys: Sequence[str], what: str = "rows") -> list[str]:
    """What a user is told of equal rows: nothing where there are none.

    >>> duplicates_note(["a", "b", "a"])
    ['1 of 3 rows equals an earlier one: equal rows stay in one part']
    """
    count = duplicates(keys)
    if not count:
        return []
    equals = "equals" if count == 1 else "equal"
    if _common(keys):
        says = f"only {len(keys) - count} differ, so that equal ones are taken for different things that look alike"
    else:
        says = f"equal {what} stay in one part"
    return [f"{count:,} of {len(keys):,} {what} {equals} an earlier one: {says}"]


def key(*values: str | bytes) -> str:
    """A digest of a row's content.

    >>> key("a", "b") == key("a", "b"), key("ab", "") == key("a", "b")
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def content_digest(keys: Sequence[str], *names: str) -> str:
    """SHA-256 of a file's content: its rows in their order, and what names it."""
    return hashlib.sha256("\n".join([*names, *keys]).encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A UserError begins with the path.

    >>> with naming("mine.csv"):
    ...     raise UserError("it is empty")
    Traceback (most recent call last):
    palimpsest.errors.UserError: mine.csv: it is empty
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _common(keys: Sequence[str]) -> bool:
    return len(set(keys)) * REPEATED <= len(keys)


def _units(keys: Sequence[str], groups: Sequence[Hashable] | None) -> Int[np.ndarray, " n"]:
    """Numbers of what is never divided: rows that are equal, of one group, or connected by such rows."""
    n = len(keys)
    unit = np.arange(n)
    for values in (None if _common(keys) else keys, groups):
        if values is not None:
            numbers: dict[Hashable, int] = {}
            number = np.array([numbers.setdefault(value, len(numbers)) for value in values])
            first = np.full(len(numbers), n)
            np.minimum.at(first, number, np.arange(n))
            links = sparse.coo_matrix((np.ones(2 * n), (np.tile(np.arange(n), 2), np.r_[unit, first[number]])), (n, n))
            unit = sparse.csgraph.connected_components(links, directed=False)[1]
            # A component is named by its first row, so that the next links find it.
            named = np.full(unit.max() + 1, n)
            np.minimum.at(named, unit, np.arange(n))
            unit = named[unit]
    return np.unique(unit, return_inverse=True)[1]


def _strata(labels: np.ndarray | None, place: np.ndarray, units: int) -> Int[np.ndarray, " n"] | None:
    if labels is None:
        return None
    if labels.dtype.kind == "f":  # the tenth of the numbers that each falls in, or a larger part where rows are few
        rank = np.empty_like(place)
        rank[np.lexsort([place, labels])] = np.arange(len(place))
        return rank * max(1, min(TENTHS, units // TENTHS)) // len(labels)
    if labels.ndim == 1:
        return labels
    rarity = np.argsort(np.argsort(labels.sum(0), kind="stable"), kind="stable")
    return np.where(labels > 0, rarity, labels.shape[1]).min(1)


def _joined(stratum: np.ndarray) -> np.ndarray:
    """Strata of too few units to give one to each part are taken together."""
    _, place, counts = np.unique(stratum, return_inverse=True, return_counts=True)
    return np.where(counts[place] < OF_A_CLASS, -1, stratum)


def _classes_of(unit: np.ndarray, labels: np.ndarray | None) -> list[set[int]]:
    """The classes of each unit's rows; none where there are no classes."""
    holds: list[set[int]] = [set() for _ in range(unit.max() + 1)]
    if labels is not None and labels.ndim == 1 and labels.dtype.kind != "f":
        for which, label in zip(unit.tolist(), labels.tolist(), strict=True):
            holds[which].add(label)
    return holds


def _most_frequent(unit: np.ndarray, strata: np.ndarray | None) -> Int[np.ndarray, " units"]:
    """The stratum of most of a unit's rows; of several the smallest."""
    found = np.zeros(unit.max() + 1, dtype=np.int64)
    if strata is None:
        return found
    counts = Counter(zip(unit.tolist(), strata.tolist(), strict=True))
    for (which, stratum), _ in sorted(counts.items(), key=lambda item: (item[1], -item[0][1])):
        found[which] = stratum
    return found


def _smallest(unit: np.ndarray, values: np.ndarray) -> Int[np.ndarray, " units"]:
    found = np.full(unit.max() + 1, len(unit))
    np.minimum.at(found, unit, values)
    return found


def _drawn(
    order: np.ndarray, sizes: np.ndarray, stratum: np.ndarray, share: float, holds: list[set[int]], *, left: int
) -> np.ndarray:
    """Which units are drawn: of each stratum, in the given order, what comes nearest to a share of its rows; where
    nothing does, its smallest. At least `left` units of it stay where there are as many, and one of every class."""
    drawn = np.zeros(len(sizes), dtype=bool)
    stratum = np.unique(stratum, return_inverse=True)[1]
    rows, sizes = np.bincount(stratum, weights=sizes), sizes.tolist()
    stay = Counter(label for which in order.tolist() for label in holds[which])
    pools: dict[int, list[int]] = {}
    for which, each in zip(order.tolist(), stratum[order].tolist(), strict=True):
        pools.setdefault(each, []).append(which)
    for each, pool in pools.items():
        want = min(round(share * rows[each]), sum(sizes[which] for which in pool) / 2)
        most = max(len(pool) - left, min(1, len(pool) - 1))
        taken = 0
        smallest = sorted(pool, key=lambda which: sizes[which])
        for which, any_will_do in [*((which, False) for which in pool), *((which, True) for which in smallest)]:
            wanted = not taken if any_will_do else taken + sizes[which] / 2 <= want
            if most and wanted and all(stay[label] > 1 for label in holds[which]):
                drawn[which] = True
                stay.subtract(holds[which])
                taken, most = taken + sizes[which], most - 1
    return drawn


def _latest(times: np.ndarray, share: float) -> np.ndarray:
    """Which rows are later than a cut between two times, about a share of all."""
    distinct, counts = np.unique(times, return_counts=True)
    if len(distinct) < 2:
        raise UserError("all rows are of one time: there are no later ones to test on")
    later = len(times) - counts.cumsum()[:-1]
    return times > distinct[np.abs(later - share * len(times)).argmin()]
