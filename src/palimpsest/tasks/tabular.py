"""Tables that ship with scikit-learn and statsmodels, standardised inside the training split.

`tabular` splits a table anew by each seed, stratified; `cross_validated` cuts it once into disjoint test parts, of
which each seed has its own. No row is in two splits, nor are two rows of one household. Means and standard deviations
are those of the training rows alone, so that nothing of the test rows leaks into what a model sees. Views for
contrastive and self-supervised learning hide a share of a row's features: behind the mean, or behind the values of
other rows (SCARF, Bahri, Jiang, Tay and Metzler 2021, arXiv 2106.15147).

| table | rows x features | predicted | chance | linear | boosted |
|---|---|---|---|---|---|
| iris | 149 x 4 | 3 classes | 0.30 | 0.96 | 0.95 |
| wine | 178 x 13 | 3 classes | 0.40 | 0.98 | 0.98 |
| breast_cancer | 569 x 30 | 2 classes | 0.63 | 0.98 | 0.96 |
| diabetes | 442 x 10 | a number | 0 | 0.50 | 0.38 |
| modechoice | 210 x 17 | 4 classes | 0.30 | 0.81 | 0.88 |
| randhie | 20,190 x 7 | 3 classes | 0.42 | 0.45 | 0.46 |
| randhie_visits | 20,190 x 7 | a number | 0 | 0.09 | 0.08 |

The scores are those of logistic or ridge regression and of histogram gradient boosting, as scikit-learn sets them, over
20 `cross_validated` parts (6 for randhie): mean accuracy, or R squared where a number is predicted; chance is the most
frequent class. All rows leave little room in the first three: take fewer to train on.

Sources: Fisher (1936) for iris; Forina et al. (1991) for wine; Wolberg, Street and Mangasarian (1993) for breast
cancer, all of the UCI Machine Learning Repository; Efron et al. (2004) for diabetes; Greene and Hensher (1997) for
modechoice; the RAND Health Insurance Experiment, in Cameron and Trivedi (2005), for randhie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from palimpsest.tasks.fresh import check_disjoint, row_keys, split_seed, stratified_order
from palimpsest.tasks.splits import Rows, Splits
from palimpsest.train.order import shuffled

TABLES = ("iris", "wine", "breast_cancer", "diabetes", "modechoice", "randhie", "randhie_visits")
SPLIT, REST = 130, 131  # random streams of this file
FOLDS = 20
BINS = 10  # of a number that is predicted, to stratify by


@dataclass(frozen=True, eq=False)
class Table(Rows):
    """Rows with what is predicted from them.

    Attributes:
        x: features, float32; a category is its place in `TableFacts.categories`, see `one_hot` (and hide it behind
            other rows: 0 is one of its values).
        y: classes from 0, or standardised numbers (float32).
        index: which row of the table it is, as it ships; for modechoice, which traveller.
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
        target: what is predicted.
        kinds: of each column, "number", "binary" (a number with two values) or "category".
        categories: the values of each column that is a category, by its name.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    target: str
    kinds: tuple[Literal["number", "binary", "category"], ...]
    categories: Mapping[str, tuple[str, ...]]


def tabular(
    name: str, seed: int, *, train: int | None = None, validation: float = 0.15, test: float = 0.3, raw: bool = False
) -> Splits[Table]:
    """A table, split by the seed: "iris" (149 x 4, 3 classes), "wine" (178 x 13, 3 classes), "breast_cancer" (569 x 30,
    2 classes), "diabetes" (442 x 10, a number), "modechoice" (210 x 17: which of 4 ways a traveller takes), "randhie"
    (20,190 x 7: no, one to three, or more visits to a physician in a year) or "randhie_visits" (the same rows, the
    logarithm of 1 + visits).

    A random stratified order of the rows is cut: the first share is the test set, the next the validation set, the rest
    is for training. A smaller training set is contained in a larger one of the same seed, and its test set is the same
    one. (Rows of scikit-learn's tables that occur twice are kept once: iris has one. Those of a household in randhie,
    which are nearly the same, stay together.)

    Args:
        name: of the table.
        seed: 0 to 999,999.
        train: how many rows to train on; None takes all that remain.
        validation, test: shares of the table, in [0, 1).
        raw: leave features (and a number that is predicted) in their units; otherwise every column that is no category
            has mean 0 and standard deviation 1 over the training rows.

    Raises:
        ValueError: an unknown table, shares that leave nothing to train on, or more training rows than remain.

    Example:
        >>> task = tabular("breast_cancer", 0)
        >>> len(task.train), len(task.validation), len(task.test)
        (313, 85, 171)
        >>> bool(task.train.x.mean(0).abs().max() < 1e-5)
        True
    """
    table = _table(name)
    n = len(table.y)
    for share_of, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"{share_of} must be a share in [0, 1), got {share}")
    of_test = round(test * n)
    parts = _cut(table, np.arange(n), split_seed(seed, "train", SPLIT), (of_test, of_test + round(validation * n)))
    return _splits(table, *parts, train, raw)


def cross_validated(
    name: str, seed: int, *, train: int | None = None, validation: float = 0.15, folds: int = FOLDS, raw: bool = False
) -> Splits[Table]:
    """A table of which each seed is tested on rows of its own: part seed mod `folds` of a fixed stratified cut.

    So `folds` seeds in a row are tested on every row once. The other rows are split by the seed, stratified, for
    validation and training.

    Args:
        name, seed, train, raw: as in `tabular`.
        validation: share of the table, in [0, 1).
        folds: how many test parts, at least 2 and at most as many as there are rows.

    Raises:
        ValueError: as `tabular`, and for `folds` out of its range.

    Example:
        >>> tests = [cross_validated("wine", seed).test.index for seed in range(100, 120)]
        >>> torch.cat(tests).unique().numel(), len(tests[0])
        (178, 9)
    """
    table = _table(name)
    n = len(table.y)
    if not 2 <= folds <= n:
        raise ValueError(f"folds must be from 2 to the {n} rows, got {folds}")
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a share in [0, 1), got {validation}")
    tests = _cut(table, np.arange(n), 0, [round(fold * n / folds) for fold in range(1, folds)])
    test = tests[seed % folds]
    rest = np.setdiff1d(np.arange(n), test)
    held, kept = _cut(table, rest, split_seed(seed, "train", REST), (round(validation * n),))
    return _splits(table, test, held, kept, train, raw)


def facts(name: str) -> TableFacts:
    """The names of a table's columns and classes, and what they hold.

    >>> facts("iris").classes
    ('setosa', 'versicolor', 'virginica')
    >>> facts("randhie").kinds[-1], facts("randhie").categories
    ('category', {'health': ('excellent', 'good', 'fair', 'poor')})
    """
    return _table(name).facts


@cache
def digest(name: str) -> str:
    """SHA-256 over a table's rows, features and target, in their order: equal where the table is."""
    table = _table(name)
    return hashlib.sha256("".join(row_keys(np.column_stack([table.x, table.y]))).encode()).hexdigest()


def one_hot(x: Float[Tensor, "rows features"], facts: TableFacts) -> Float[Tensor, "rows columns"]:
    """Every category as columns of zeros and ones, one a value; other features as they are, all in their order.

    >>> train = tabular("randhie", 0).train
    >>> one_hot(train.x, facts("randhie")).shape[1], len(facts("randhie").features)
    (10, 7)

    Raises:
        ValueError: `x` has not as many columns as there are features.
    """
    if x.ndim != 2 or x.shape[1] != len(facts.features):
        raise ValueError(f"x must be [rows, {len(facts.features)}], got {list(x.shape)}")
    columns = []
    for column, name in zip(x.T, facts.features, strict=True):
        values = facts.categories.get(name)
        columns.append(column[:, None] if values is None else (column[:, None] == torch.arange(len(values))).to(x))
    return torch.cat(columns, 1)


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


@dataclass(frozen=True, eq=False)
class _Whole:
    """A table as it ships: features [n, d] and targets [n] in their units, the rows' numbers, and which rows belong
    together, as numbers that ascend."""

    x: np.ndarray
    y: np.ndarray
    index: np.ndarray
    group: np.ndarray
    facts: TableFacts


@cache
def _table(name: str) -> _Whole:
    if name not in TABLES:
        raise ValueError(f"the table must be one of {', '.join(TABLES)}, got {name!r}")
    if name == "modechoice":
        return _modechoice()
    if name.startswith("randhie"):
        return _randhie(numbers=name == "randhie_visits")
    from sklearn import datasets  # late: takes longer to import than to load

    table = datasets.load_diabetes(scaled=False) if name == "diabetes" else getattr(datasets, f"load_{name}")()
    _, rows = np.unique(table.data, axis=0, return_index=True)
    rows = np.sort(rows)  # each row kept once
    target = {"iris": "species", "wine": "cultivar", "breast_cancer": "diagnosis", "diabetes": "progression"}[name]
    y = table.target[rows].astype(np.float64 if name == "diabetes" else np.int64)
    classes = () if name == "diabetes" else tuple(map(str, table.target_names))
    return _whole(
        table.data[rows], y, rows, np.arange(len(rows)), tuple(map(str, table.feature_names)), classes, target
    )


def _modechoice() -> _Whole:
    """One row a traveller: what each way would take and cost, and the traveller's income and company."""
    from statsmodels.datasets.modechoice import load_pandas

    modes = ("air", "train", "bus", "car")
    # The table has a row for each traveller and way, the ways always in this order.
    data = {name: column.to_numpy().reshape(-1, len(modes)) for name, column in load_pandas().data.items()}
    columns = {
        f"{mode} {name}": data[name][:, place]
        for place, mode in enumerate(modes)
        for name in ("ttme", "invc", "invt", "gc")
        if (mode, name) != ("car", "ttme")  # nobody waits for a car
    }
    columns |= {name: data[name][:, 0] for name in ("hinc", "psize")}
    rows = np.arange(len(data["choice"]))
    y = data["choice"].argmax(1)
    return _whole(np.column_stack(list(columns.values())), y, rows, rows, tuple(columns), modes, "mode")


def _randhie(*, numbers: bool) -> _Whole:
    """One row a person and year; the three columns of self-rated health are one category."""
    from statsmodels.datasets.randhie import load_pandas

    data = load_pandas().data
    plan, person = ["lncoins", "idp", "lpi", "fmde"], ["physlm", "disea"]
    health = data[["hlthg", "hlthf", "hlthp"]].to_numpy() @ [1, 2, 3]
    x = np.column_stack([data[plan + person].to_numpy(), health])
    # A household's rows follow one another and share the insurance plan, a person's what is known of the person: a new
    # household begins where both change.
    new = (x[1:, :4] != x[:-1, :4]).any(1) & (x[1:, 4:] != x[:-1, 4:]).any(1)
    household = np.concatenate([[0], new.cumsum()])
    visits = data["mdvis"].to_numpy()
    y = np.log1p(visits) if numbers else np.digitize(visits, [1, 4])
    classes = () if numbers else ("none", "one to three", "four or more")
    categories = {"health": ("excellent", "good", "fair", "poor")}
    features = (*plan, *person, "health")
    return _whole(x, y, np.arange(len(y)), household, features, classes, "visits", categories)


def _whole(
    x: np.ndarray,
    y: np.ndarray,
    index: np.ndarray,
    group: np.ndarray,
    features: tuple[str, ...],
    classes: tuple[str, ...],
    target: str,
    categories: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> _Whole:
    def kind(name: str, column: np.ndarray) -> Literal["number", "binary", "category"]:
        if name in categories:
            return "category"
        return "binary" if len(np.unique(column)) == 2 else "number"

    columns = (np.ascontiguousarray(x, dtype=np.float64), y, index, group)
    for column in columns:
        column.setflags(write=False)
    kinds = tuple(kind(name, column) for name, column in zip(features, columns[0].T, strict=True))
    return _Whole(*columns, TableFacts(features, classes, target, kinds, categories))


def _cut(table: _Whole, rows: np.ndarray, seed: int, at: Sequence[int]) -> list[np.ndarray]:
    """Rows in a random order, stratified, cut after about so many of them and through no group."""
    _, group, sizes = np.unique(table.group[rows], return_inverse=True, return_counts=True)
    strata, rng = _strata(table.y), np.random.default_rng(seed)
    order = stratified_order(np.rint(np.bincount(group, strata[rows]) / sizes), rng)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    ends = np.concatenate([[0], sizes[order].cumsum()])
    cuts = ends[np.searchsorted(ends, at, side="right") - 1]
    pieces = np.split(rows[np.argsort(place[group], kind="stable")], cuts)
    if len(sizes) == len(rows):
        return pieces
    # The beginning of a piece is of many groups.
    return [piece[stratified_order(strata[piece], rng)] for piece in pieces]


def _splits(
    table: _Whole, test: np.ndarray, validation: np.ndarray, rest: np.ndarray, train: int | None, raw: bool
) -> Splits[Table]:
    if not len(rest):
        raise ValueError("validation and test must leave rows to train on: give smaller shares")
    if train is not None and not 1 <= train <= len(rest):
        raise ValueError(f"train must be from 1 to the {len(rest)} rows that remain, got {train}")
    parts = {"train": rest[:train], "validation": validation, "test": test}
    check_disjoint(**{part: table.group[rows].tolist() for part, rows in parts.items()})
    x, y = table.x, table.y
    if not raw:
        category = np.array([kind == "category" for kind in table.facts.kinds])
        x = np.where(category, x, _standardised(x, parts["train"]))
        y = y if y.dtype.kind == "i" else _standardised(y, parts["train"])
    labels = y if y.dtype.kind == "i" else y.astype(np.float32)
    columns = (x.astype(np.float32), labels, table.index)
    return Splits(
        **{part: Table(*(torch.from_numpy(column[rows]) for column in columns)) for part, rows in parts.items()}
    )


def _strata(y: np.ndarray) -> np.ndarray:
    """Classes as they are; a number by the tenth of the table that it falls in."""
    return y if y.dtype.kind == "i" else np.argsort(np.argsort(y, kind="stable"), kind="stable") * BINS // len(y)


def _standardised(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the given rows; a column that is constant there is only moved."""
    mean, deviation = values[rows].mean(0), values[rows].std(0)
    return (values - mean) / np.where(deviation > 0, deviation, 1)
