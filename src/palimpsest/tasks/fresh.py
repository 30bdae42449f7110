"""Fresh items: seeds that never meet across splits, and a check at run time that splits share nothing.

A generated task tests what was learned only if its test items were never seen. Two rules make sure of it, after the
paper `random_calculation`: every split draws from its own range of seeds, and the items that came out are compared.
"""

from __future__ import annotations

import hashlib
import itertools
import operator
import reprlib
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "validation", "test")
SEEDS = 10**6  # seeds that a user may give: 0 .. SEEDS - 1
STREAMS = 1000  # independent streams of random numbers that one (seed, split) owns


def split_seed(seed: int, split: str, stream: int = 0) -> int:
    """The seed from which a split draws: 10^9 * number of the split + 1000 * seed + stream.

    Training draws from [0, 10^9), validation from [10^9, 2 * 10^9), test from [2 * 10^9, 3 * 10^9), and every seed
    owns a block of 1000 there, one for each thing that is drawn independently (noise, labels, ...). So no two of
    (split, seed, stream) ever share a seed, and all of them fit the 32 bits that NumPy and scikit-learn allow.

    Args:
        seed: the user's seed, 0 to 999,999.
        split: "train", "validation" or "test".
        stream: which independent stream of this seed and split, 0 to 999.

    Raises:
        TypeError: `seed` or `stream` is not a whole number.
        ValueError: an argument is out of its range.

    Example:
        >>> split_seed(7, "train"), split_seed(7, "test"), split_seed(7, "test", stream=1)
        (7000, 2000007000, 2000007001)
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    seed, stream = _whole(seed, "seed", SEEDS), _whole(stream, "stream", STREAMS)
    return SPLITS.index(split) * SEEDS * STREAMS + seed * STREAMS + stream


def generator(seed: int, split: str, stream: int = 0) -> torch.Generator:
    """A torch generator seeded with `split_seed(seed, split, stream)`; the global one is left alone.

    >>> generator(7, "test").initial_seed()
    2000007000
    """
    import torch  # late: word tasks have no need of it

    return torch.Generator().manual_seed(split_seed(seed, split, stream))


def check_disjoint(**splits: Iterable[Hashable]) -> None:
    """Raise unless no item occurs in two of the splits. An item may occur twice in the same split.

    Args:
        **splits: at least two, each an iterable of hashable items (strings, tuples, `row_keys` of arrays).

    Raises:
        TypeError: an item is not hashable.
        ValueError: fewer than two splits, or a shared item: the message names the two splits and the first item, in
            the later split's order, that they share.

    Example:
        >>> check_disjoint(train=["1+1", "1+2"], test=["2+2"])
        >>> check_disjoint(train=["1+1", "1+2"], test=["2+2", "1+2"])
        Traceback (most recent call last):
        ...
        ValueError: train and test share the item '1+2': draw them from different seeds or pools
    """
    if len(splits) < 2:
        raise ValueError(f"check_disjoint compares two splits or more, got {len(splits)}")
    items = {name: _hashable(name, split) for name, split in splits.items()}
    for (first, seen), (second, candidates) in itertools.combinations(items.items(), 2):
        if not seen.keys().isdisjoint(candidates):
            shared = next(item for item in candidates if item in seen)
            raise ValueError(
                f"{first} and {second} share the item {reprlib.repr(shared)}: draw them from different seeds or pools"
            )


def row_keys(rows: Any) -> list[str]:
    """A digest of the values of every row of an array or a tensor: equal rows have equal keys.

    Args:
        rows: NumPy array or torch tensor [n, ...]. Compare only arrays of the same dtype.

    Returns:
        n hexadecimal strings of 32 characters.

    Raises:
        ValueError: `rows` has no row dimension.

    Example:
        >>> a, b, c = row_keys(np.array([[1, 2], [3, 4], [1, 2]]))
        >>> a == c, a == b
        (True, False)
    """
    array = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
    if array.ndim == 0:
        raise ValueError(f"row_keys needs an array with rows, got the single value {array}")
    if array.dtype.kind == "f":
        array = array + 0.0  # -0.0 equals 0.0 but has other bytes
    array = np.ascontiguousarray(array)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in array]


def stratified_order(labels: Any, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every stretch holds the classes in about their overall proportions.

    The j-th of the n_c rows of class c (in random order) gets the key (j + u) / n_c with u uniform on [0, 1), and
    rows are sorted by key: a stretch of m of the n rows holds m * n_c / n rows of class c, give or take a few. So
    cutting the order into pieces gives stratified splits, and a shorter training set is contained in a longer one.

    Args:
        labels: [n], anything NumPy can sort.
        rng: the source of randomness.

    Returns:
        A permutation of 0 .. n - 1.

    Example:
        >>> labels = np.array(["a"] * 90 + ["b"] * 10)
        >>> order = stratified_order(labels, np.random.default_rng(0))
        >>> [int((labels[order[i : i + 20]] == "b").sum()) for i in range(0, 100, 20)]
        [2, 2, 2, 2, 2]
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must have one dimension, got the shape {labels.shape}")
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        keys[rng.permutation(rows)] = (np.arange(len(rows)) + rng.random(len(rows))) / len(rows)
    return np.argsort(keys, kind="stable")


def _whole(value: int, name: str, limit: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if not 0 <= value < limit:
        raise ValueError(f"{name} must be from 0 to {limit - 1}, got {value}")
    return value


def _hashable(name: str, split: Iterable[Hashable]) -> dict[Hashable, None]:
    try:
        return dict.fromkeys(split)
    except TypeError as error:
        raise TypeError(f"the items of {name} must be hashable (use row_keys for arrays): {error}") from None
