"""Tables that ship with scikit-learn: three of classes and one of numbers, standardised inside the training split.

Each seed splits a table anew, stratified, no row in two splits. Means and standard deviations are those of the
training rows alone, so that nothing of the test rows leaks into what a model sees. Views for contrastive and
self-supervised learning hide a share of a row's features: behind the mean, or behind the values of other rows (SCARF,
Bahri, Jiang, Tay and Metzler 2021, arXiv 2106.15147).

Sources: Fisher (1936) for iris; Forina et al. (1991) for wine; Wolberg, Street and Mangasarian (1993) for breast
cancer, all of the UCI Machine Learning Repository; Efron et al. (2004) for diabetes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from palimpsest.tasks.fresh import check_disjoint, row_keys, split_seed, stratified_order
from palimpsest.tasks.splits import Rows, Splits
from palimpsest.train.order import shuffled

TABLES = ("iris", "wine", "breast_cancer", "diabetes")
SPLIT = 130  # random stream of this file
BINS = 10  # of a number that is predicted, to stratify by


@dataclass(frozen=True, eq=False)
class Table(Rows):
    """Rows with what is predicted from them.

    Attributes:
        x: features, float32.
        y: classes from 0, or standardised numbers (float32).
        index: which row of scikit-learn's table it is.
    """

    x: Float[Tensor, "n features"]
    y: Int[Tensor, " n"] | Float[Tensor, " n"]
    index: Int[Tensor, " n"]

    def batch(self, rows: slice | Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Rows as `x` and `labels`, and the row numbers as `index`.

        >>> batch = tabular("wine", 0).train.batch([3, 5])
        >>> {name: tuple(value.shape) for name, value in batch.items()}
        {'x': (2, 13), 'labels': (2,), 'index': (2,)}
        """
        part = self[rows]
        index = torch.arange(len(self))[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        return {"x": part.x, "labels": part.y, "index": index}


@dataclass(frozen=True)
class TableFacts:
    """What a table is about.

    Attributes:
        features: names of the columns.
        classes: names of the classes; empty where a number is predicted.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]


def tabular(
    name: str, seed: int, *, train: int | None = None, validation: float = 0.15, test: float = 0.3, raw: bool = False
) -> Splits[Table]:
    """One of scikit-learn's tables: "iris" (149 x 4, 3 classes), "wine" (178 x 13, 3 classes), "breast_cancer"
    (569 x 30, 2 classes) or "diabetes" (442 x 10, a number).

    A random stratified order of the rows is cut: the first share is the test set, the next the validation set, the rest
    is for training. A smaller training set is contained in a larger one of the same seed, and its test set is the same
    one. (Rows that occur twice are kept once: iris has one.)

    Args:
        name: of the table.
        seed: 0 to 999,999.
        train: how many rows to train on; None takes all that remain.
        validation, test: shares of the table, in [0, 1).
        raw: leave features (and a number that is predicted) in their units; otherwise every column has mean 0 and
            standard deviation 1 over the training rows.

    Raises:
        ValueError: an unknown table, shares that leave nothing to train on, or more training rows than remain.

    Example:
        >>> task = tabular("breast_cancer", 0)
        >>> len(task.train), len(task.validation), len(task.test)
        (313, 85, 171)
        >>> bool(task.train.x.mean(0).abs().max() < 1e-5)
        True
    """
    x, y, index = _table(name)
    for share_of, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"{share_of} must be a share in [0, 1), got {share}")
    of_test, of_validation = round(test * len(y)), round(validation * len(y))
    remaining = len(y) - of_test - of_validation
    if remaining < 1:
        raise ValueError(f"validation and test must leave rows to train on, got {validation} and {test}")
    if train is not None and not 1 <= train <= remaining:
        raise ValueError(f"train must be from 1 to the {remaining} rows that remain, got {train}")
    order = stratified_order(_strata(y), np.random.default_rng(split_seed(seed, "train", SPLIT)))
    parts = {
        "train": order[of_test + of_validation :][:train],
        "validation": order[of_test : of_test + of_validation],
        "test": order[:of_test],
    }
    check_disjoint(**{part: row_keys(x[rows]) for part, rows in parts.items()})
    if not raw:
        x = _standardised(x, parts["train"])
        y = y if y.dtype.kind == "i" else _standardised(y, parts["train"])

    def split(rows: np.ndarray) -> Table:
        labels = y if y.dtype.kind == "i" else y.astype(np.float32)
        return Table(*(torch.from_numpy(column[rows]) for column in (x.astype(np.float32), labels, index)))

    return Splits(**{part: split(rows) for part, rows in parts.items()})


def facts(name: str) -> TableFacts:
    """The names of a table's columns and classes.

    >>> facts("iris").classes
    ('setosa', 'versicolor', 'virginica')
    """
    table = _load(name)
    classes = () if name == "diabetes" else tuple(map(str, table.target_names))
    return TableFacts(tuple(map(str, table.feature_names)), classes)


def feature_mask(rows: int, features: int, rate: float, generator: torch.Generator) -> Bool[Tensor, "rows features"]:
    """Which features to hide: in every row round(rate * features), at random places.

    >>> feature_mask(3, 10, 0.4, torch.Generator()).sum(1)
    tensor([4, 4, 4])
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be from 0 to 1, got {rate}")
    places = torch.rand(rows, features, generator=generator).argsort(1)
    return places < round(rate * features)


def masked(
    x: Float[Tensor, "rows features"],
    mask: Bool[Tensor, "rows features"],
    *,
    pool: Float[Tensor, "pool features"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "rows features"]:
    """Features hidden where the mask is True: behind 0, which is the mean of a standardised table; or, given a pool of
    rows, each behind the same feature of a row drawn from it (so that every column keeps its distribution).

    >>> masked(torch.ones(1, 3), torch.tensor([[True, False, True]]))
    tensor([[0., 1., 0.]])
    """
    if x.ndim != 2 or mask.shape != x.shape:
        raise ValueError(f"x and mask must be [rows, features] each, got {list(x.shape)} and {list(mask.shape)}")
    if pool is None:
        return x.masked_fill(mask, 0)
    if pool.ndim != 2 or not len(pool) or pool.shape[1] != x.shape[1]:
        raise ValueError(f"pool must be [rows, {x.shape[1]}] with at least one row, got {list(pool.shape)}")
    donors = torch.randint(len(pool), x.shape, generator=generator).to(pool.device)
    return torch.where(mask, pool.gather(0, donors).to(x), x)


def masked_views(
    x: Float[Tensor, "rows features"],
    generator: torch.Generator,
    *,
    n: int = 2,
    rate: float = 0.4,
    pool: Float[Tensor, "pool features"] | None = None,
) -> Float[Tensor, "rows n features"]:
    """n views of every row, each with features of its own hidden; see `feature_mask` and `masked`.

    >>> masked_views(torch.randn(4, 13), torch.Generator(), n=3).shape
    torch.Size([4, 3, 13])
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    repeated = x.repeat_interleave(n, 0)
    mask = feature_mask(*repeated.shape, rate, generator).to(x.device)
    return masked(repeated, mask, pool=pool, generator=generator).unflatten(0, (len(x), n))


def masked_batches(
    table: Table,
    batch_size: int,
    *,
    seed: int = 0,
    n: int = 2,
    rate: float = 0.4,
    fill: Literal["mean", "other rows"] = "mean",
) -> Callable[[int], dict[str, Tensor]]:
    """step -> {"views" [batch, n, features], "labels" [batch], "index" [batch]}; `index` is the row in the table.

    Order and views depend on (seed, step) alone, so that a run that resumes at a step needs no replay.

    Args:
        fill: what hides a feature: 0, the mean of a standardised table; or the values of other rows of this table.

    >>> masked_batches(tabular("wine", 0).train, 32, fill="other rows")(0)["views"].shape
    torch.Size([32, 2, 13])
    """
    if fill not in ("mean", "other rows"):
        raise ValueError(f"fill must be 'mean' or 'other rows', got {fill!r}")
    order = shuffled(len(table), batch_size, seed)

    def batch(step: int) -> dict[str, Tensor]:
        rows = order(step)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        pool = table.x if fill == "other rows" else None
        made = masked_views(table.x[rows], generator, n=n, rate=rate, pool=pool)
        return {"views": made, "labels": table.y[rows], "index": rows}

    return batch


@cache
def _table(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, d] and targets [n] in their units, and their rows in scikit-learn's table, each row kept once."""
    table = _load(name)
    _, rows = np.unique(table.data, axis=0, return_index=True)
    rows = np.sort(rows)
    kind = np.float64 if name == "diabetes" else np.int64
    columns = (table.data[rows].astype(np.float64), table.target[rows].astype(kind), rows)
    for column in columns:
        column.setflags(write=False)
    return columns


def _load(name: str):
    from sklearn import datasets  # late: takes longer to import than to load

    if name not in TABLES:
        raise ValueError(f"the table must be one of {', '.join(TABLES)}, got {name!r}")
    return datasets.load_diabetes(scaled=False) if name == "diabetes" else getattr(datasets, f"load_{name}")()


def _strata(y: np.ndarray) -> np.ndarray:
    """Classes as they are; a number by the tenth of the table that it falls in."""
    return y if y.dtype.kind == "i" else np.argsort(np.argsort(y, kind="stable"), kind="stable") * BINS // len(y)


def _standardised(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the given rows; a column that is constant there is only moved."""
    mean, deviation = values[rows].mean(0), values[rows].std(0)
    return (values - mean) / np.where(deviation > 0, deviation, 1)
