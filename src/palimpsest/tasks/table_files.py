"""The user's own tables: a CSV, Parquet or JSON-lines file, read into what networks learn from.

Numbers are standardised, their missing values replaced by the mean, with a column that tells where. Text, and whole
numbers of few values, are categories: a column of zeros and ones for every value, those that are rare in training taken
together. A date is a number of days, and where it matters the day of the week, of the year and the time of day, each as
sine and cosine. Means, deviations and categories are those of the training rows alone.

What tells nothing is left out and said so in `notes`: columns that are constant, and ids. So are columns that give the
target away, and rows that are equal, which stay in one part (`palimpsest.tasks.held_out`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from palimpsest.errors import UserError
from palimpsest.tasks.column_notes import identifier, missing_marks, spellings
from palimpsest.tasks.columns import Cells, Column, read_cells
from palimpsest.tasks.fresh import row_keys
from palimpsest.tasks.held_out import Parts, content_digest, duplicates_note, key, naming, parts
from palimpsest.tasks.splits import Splits
from palimpsest.tasks.tabular import Table

FEW = 5  # different whole numbers that are taken for categories
CLASSES = 20  # different whole numbers that are taken for classes, at most
RARE, VALUES = 3, 100  # training rows below which a category is rare, and the most that a column has
FURTHEST = 1e6  # deviations from the mean, at which a value is cut
SHARE, ERRORS = (
    0.01,
    0.1,
)  # of rows, and of what the most frequent class errs, that a column errs which tells the target
CORRELATION = 0.999
YES, NO = {"1", "true", "yes", "y", "t"}, {"0", "false", "no", "n", "f"}
CYCLES = (("weekday", 7.0, 7.0), ("year", 365.2425, 60.0), ("day", 1.0, 0.0))
"""name, days, and the span of a column in days above which it is of use"""


@dataclass(frozen=True, eq=False)
class TableFile:
    """A table that was read, with what was found out about it.

    Attributes:
        targets: the columns that are predicted.
        kind: "classes", "number", or "labels" (several columns of 0 and 1).
        classes: names of the classes or labels; empty where a number is predicted.
        notes: what a user should know, a sentence each.
        digest: SHA-256 of the content.
        tasks: names of the tasks that rows belong to, in the order in which they first occur; empty where none was
            asked for.
    """

    targets: tuple[str, ...]
    kind: Literal["classes", "number", "labels"]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    digest: str
    columns: tuple[Column, ...] = field(repr=False)
    y: Int[np.ndarray, "n *labels"] | Float[np.ndarray, " n"] = field(repr=False)
    index: Int[np.ndarray, " n"] = field(repr=False)
    keys: tuple[str, ...] = field(repr=False)
    groups: tuple[int, ...] | None = field(default=None, repr=False)
    times: Float[np.ndarray, " n"] | None = field(default=None, repr=False)
    tasks: tuple[str, ...] = ()
    task: Int[np.ndarray, " n"] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.y)

    def splits(self, seed: int) -> Splits[Table]:
        """Rows to train on, to choose settings on, and to test on; the last are the same for every seed.

        `x` is float32, ready for a network, with as many columns as `features(seed)` names. `y` holds classes from 0,
        numbers of mean 0 and standard deviation 1 in training, or 0 and 1 for each of the labels. `index` is the row in
        the file, the first after the header being 1.
        """
        divided = self._parts(seed)
        made = zip(self._encodings(divided.train), self.columns, strict=True)
        x = np.concatenate([encoding(column) for encoding, column in made], 1, dtype=np.float32)
        y = self.y
        if self.kind == "number":
            y = _scaled(y, *_scale(y, divided.train)).astype(np.float32)
        return Splits(*(Table(*(torch.from_numpy(each[rows]) for each in (x, y, self.index))) for rows in divided))

    def by_task(self, seed: int) -> dict[str, Splits[Table]]:
        """The same by the name of each task, as `palimpsest.tasks.streams.domain_tasks` takes them.

        Raises:
            UserError: no column of tasks was named, classes are not what is predicted, or a task has no row in one of
                the parts.
        """
        if self.task is None or self.kind != "classes":
            raise UserError("a stream needs a column of tasks and a target of classes: name both")
        divided = self.splits(seed)

        def of(number: int) -> Splits[Table]:
            return divided.mapped(
                lambda rows: rows[torch.from_numpy(self.task[np.searchsorted(self.index, rows.index)] == number)]
            )

        found = {name: of(number) for number, name in enumerate(self.tasks)}
        for name, task in found.items():
            if not all(map(len, vars(task).values())):
                raise UserError(f"the task {name!r} has too few rows for three parts: leave it out")
        return found

    def features(self, seed: int) -> tuple[str, ...]:
        """Names of the columns of `x`, which the training rows of a seed decide."""
        return tuple(name for encoding in self.encodings(seed) for name in encoding.columns)

    def encodings(self, seed: int) -> tuple[Encoding, ...]:
        """How each column becomes columns of `x`, which the training rows of a seed decide; without those of which
        nothing is made. `read_features` reads other rows by them."""
        return tuple(encoding for encoding in self._encodings(self._parts(seed).train) if encoding.columns)

    def _parts(self, seed: int) -> Parts:
        # Every class of every task is spread over the parts.
        strata = None if self.task is None else self.task * max(1, len(self.classes)) + self.y
        return parts(
            self.keys, seed, labels=self.y, classes=self.classes, strata=strata, groups=self.groups, times=self.times
        )

    def _encodings(self, train: np.ndarray) -> list[Encoding]:
        found = [_fitted(column, train) for column in self.columns]
        if not any(encoding.columns for encoding in found):
            raise UserError("every column is constant in the rows to train on: there is nothing to learn from")
        return found


@dataclass(frozen=True)
class Encoding:
    """How one column becomes what a network reads.

    Attributes:
        name: of the column.
        kind: what its values are; "few": few whole numbers, which are taken for categories.
        columns: names of those that are made of it; none where all would be constant in the rows to train on.
        levels: the categories that have a column of their own.
        mean: of the numbers, and what stands where one is missing.
        furthest, deviation: of the rows to train on, how far a number is from the mean at most, and the standard
            deviation in that unit, so that no square vanishes.

    >>> size = Encoding("size", "number", ("size", "size missing"), mean=2.0)
    >>> size(Column("size", "number", np.array([3.0, np.nan])))
    array([[1., 0.],
           [0., 1.]])
    """

    name: str
    kind: Literal["number", "few", "date", "text"]
    columns: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    furthest: float = 1.0
    deviation: float = 1.0

    def __call__(self, column: Column) -> Float[np.ndarray, "n columns"]:
        made = self.made(column)
        found = [made[name] for name in self.columns]
        return np.stack(found, 1).astype(np.float64) if found else np.zeros((len(column.values), 0))

    def made(self, column: Column) -> dict[str, np.ndarray]:
        """All that can be made of it, also what is constant in the rows to train on."""
        gaps, name = column.missing, self.name
        made: dict[str, np.ndarray] = {}
        if self.kind in ("few", "text"):
            text = column.as_text()
            place = {level: code for code, level in enumerate(text.levels)}
            codes = [place.get(level, -2) for level in self.levels]  # a missing value is -1
            made = {f"{name}={level}": text.values == code for level, code in zip(self.levels, codes, strict=True)}
            made[f"{name}=(other)"] = ~np.isin(text.values, codes) & ~gaps
        else:
            filled = np.where(gaps, self.mean, column.values)
            made[name] = _scaled(filled, self.mean, self.furthest, self.deviation)
        if self.kind == "date":
            for cycle, days, _ in CYCLES:
                turn = np.where(gaps, 0, column.values) * (2 * np.pi / days)
                for wave in (np.sin, np.cos):
                    made[_wave(name, wave, cycle)] = np.where(gaps, 0, wave(turn).round(9))
        made[f"{name} missing"] = gaps
        return made


def read_table(
    path: str | Path,
    targets: str | Sequence[str],
    *,
    group: str | None = None,
    time: str | None = None,
    task: str | None = None,
    kind: Literal["classes", "number"] | None = None,
) -> TableFile:
    """A table, checked and understood.

    Args:
        path: CSV (commas, semicolons, tabs or bars; compressed by gzip, bzip2 or xz or not), Parquet, or JSON lines.
        targets: the column that is predicted, text or whole numbers of at most 20 values as classes, other numbers as
            numbers; or several columns of 0 and 1 (or true and false, yes and no), labels each. Rows in which one is
            missing are left out.
        group: a column whose rows of one value stay in one part (a patient, say). It is no feature.
        time: a column that tells when: the latest rows are the test part. It is no feature.
        task: a column that names the task which a row belongs to, of a stream of tasks that arrive in the order in
            which they first occur; for a target of classes. It is no feature.
        kind: what a target of numbers is, where the rule above is wrong.

    Raises:
        UserError: what `read_cells` and `parts` refuse; no such column, a target that is constant, all missing or of
            dates, no column to learn from.

    Example:
        >>> import tempfile
        >>> rows = "".join(f"{n / 2},{'ab'[n % 2]},{'yes' if n % 7 > 3 else 'no'}\\n" for n in range(100))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "mine.csv")
        ...     _ = file.write_text("size,colour,ripe\\n" + rows)
        ...     table = read_table(file, "ripe")
        >>> table.kind, table.classes, table.features(0)
        ('classes', ('no', 'yes'), ('size', 'colour=a', 'colour=b'))
        >>> task = table.splits(0)
        >>> tuple(task.train.x.shape), bool((task.test.index == table.splits(1).test.index).all())
        ((60, 3), True)
    """
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    if not targets or len(set(targets)) < len(targets):
        raise UserError(f"give one target or several different ones, got {', '.join(targets) or 'none'}")
    if kind not in (None, "classes", "number") or (kind and len(targets) > 1):
        raise UserError(f"kind is 'classes' or 'number', and of one target, got {kind!r} for {', '.join(targets)}")
    cells = read_cells(path)
    roles = {"target": targets} | {
        role: () if name is None else (name,) for role, name in (("group", group), ("time", time), ("task", task))
    }
    for role, names in roles.items():
        for name in names:
            cells.check(name, role)
            if sum(name in others for others in roles.values()) > 1:
                raise UserError(f"{path}: {name!r} cannot be two of target, group, time and task")
    kept, y, kind, classes, notes = _target(cells, targets, kind, path)
    groups = None
    if group is not None:
        named = cells.names_in(group, "group")
        groups = tuple(named.values[kept].tolist())
        notes += spellings(named, "groups")
    times = cells.times(time)[kept] if time is not None else None
    of_task, tasks = None, ()
    if task is not None:
        if kind != "classes":
            raise UserError(f"{path}: tasks are of a target of classes, and {targets[0]!r} is {kind}")
        named = cells.names_in(task, "task")
        notes += spellings(named, "tasks")
        codes, first, of_task = np.unique(named.values[kept], return_index=True, return_inverse=True)
        order = np.argsort(first)
        tasks, of_task = tuple(named.levels[code] for code in codes[order]), np.argsort(order)[of_task]
    index, columns = np.flatnonzero(kept) + 1, []
    for name in cells.names:
        if name not in {*targets, group, time, task}:
            column = _of_rows(cells.column(name), kept)
            if why := _tells_nothing(column, index):
                notes.append(f"column {name!r} is left out: {why}")
            else:
                columns.append(column)
                notes += [*identifier(column), *missing_marks(column), *spellings(column)]
    notes += cells.notes
    if not columns:
        raise UserError(f"{path}: no column to learn from beside the {', '.join(map(repr, targets))}")
    asked = [y] if y.ndim == 1 else list(y.T)
    keys = _keys(columns, [*asked, *([] if times is None else [times])])
    table = TableFile(
        targets,
        kind,
        classes,
        (),
        content_digest(keys, *targets, *(column.name for column in columns)),
        tuple(columns),
        y,
        index,
        tuple(keys),
        groups,
        times,
        tasks,
        of_task,
    )
    with naming(path):
        divided = table._parts(0)
        table._encodings(divided.train)
    seen = np.concatenate([divided.train, divided.validation])  # of every seed
    return replace(table, notes=(*notes, *duplicates_note(keys), *_gives_away(columns, asked, targets, seen)))


def _target(
    cells: Cells, targets: tuple[str, ...], kind: str | None, path: str | Path
) -> tuple[np.ndarray, np.ndarray, Literal["classes", "number", "labels"], tuple[str, ...], list[str]]:
    """Which rows have all targets; theirs; what kind they are; their names; notes."""
    columns = [cells.column(name) for name in targets]
    for column in columns:
        if not column.distinct:
            raise UserError(f"{path}: the target {column.name!r} has no value in any row")
        if column.kind == "date":
            raise UserError(f"{path}: the target {column.name!r} is of dates: give a column of classes or numbers")
        if column.distinct == 1:
            value = column.as_text().levels[0]
            raise UserError(f"{path}: the target {column.name!r} is {value!r} in every row: there is nothing to learn")
    kept = ~np.any([column.missing for column in columns], 0)
    which = f"{' or '.join(map(repr, targets))} is missing (empty, NA, None or the like)"
    gone = int((~kept).sum())
    left_out = f"{gone:,} of {len(kept):,} rows {'is' if gone == 1 else 'are'} left out: {which}"
    notes = [] if kept.all() else [left_out]
    if len(columns) > 1:
        return kept, np.stack([_flags(column, kept, cells) for column in columns], 1), "labels", targets, notes
    column = _of_rows(columns[0], kept)
    if column.kind == "text":
        if kind == "number":
            raise UserError(f"{path}: the target {column.name!r} holds {column.levels[0]!r}, which is no number")
        notes += spellings(column, "classes")
        return kept, column.values, "classes", column.levels, notes
    few = column.whole and column.distinct <= CLASSES
    if kind != "classes" and (kind == "number" or not few):
        return kept, column.values, "number", (), [*notes, *missing_marks(column)]
    values, y = np.unique(column.values, return_inverse=True)
    if kind is None and len(values) > 2:
        notes.append(f"{column.name!r} is taken for {len(values)} classes, not for a number")
    return kept, y, "classes", tuple(str(int(value) if value == int(value) else value) for value in values), notes


def _flags(column: Column, kept: np.ndarray, cells: Cells) -> Int[np.ndarray, " n"]:
    """0 and 1 of a label, in the rows that are kept."""
    text = column.as_text()
    odd = [code for code, level in enumerate(text.levels) if level.lower() not in YES | NO]
    if odd:
        at = cells.where(int(np.flatnonzero(np.isin(text.values, odd))[0]))
        raise UserError(
            f"{at}: the label {column.name!r} is {text.levels[odd[0]]!r}: of several targets each is 0 or 1"
        )
    return np.array([level.lower() in YES for level in text.levels], dtype=np.int64)[text.values[kept]]


def _of_rows(column: Column, rows: np.ndarray) -> Column:
    return replace(column, values=column.values[rows])


def _tells_nothing(column: Column, index: Int[np.ndarray, " n"]) -> str | None:
    """Why a column is left out, if it is."""
    distinct, present = column.distinct, int((~column.missing).sum())
    if not present:
        return "it has no value in any row"
    if distinct == 1 and present == len(index):
        return "it is the same in every row"
    if column.kind == "text":
        if distinct == present:
            return "its texts all differ, as those of an id do"
        if np.bincount(column.values[~column.missing]).max() < RARE:
            return f"none of its texts occurs {RARE} times"
    elif column.kind == "number" and distinct == present == len(index) and column.whole:
        counts = column.values[0] in (0, 1) and (column.values - column.values[0] == index - index[0]).all()
        if counts or re.search(r"(^|[_ .-])(id|index|row)$|[a-z]I[dD]$", column.name, re.IGNORECASE):
            return "it numbers the rows"
    return None


def read_features(path: str | Path, encodings: Sequence[Encoding]) -> Float[torch.Tensor, "n features"]:
    """Other rows, encoded as those that a network was trained on.

    Args:
        path: as for `read_table`; further columns do not matter.
        encodings: of `TableFile.encodings`.

    Raises:
        UserError: what `read_cells` refuses; no such column, or one whose values are of another kind.
    """
    cells = read_cells(path)
    made = []
    for encoding in encodings:
        cells.check(encoding.name, "network")
        column = cells.text(encoding.name) if encoding.kind == "text" else cells.column(encoding.name)
        wanted = "number" if encoding.kind == "few" else encoding.kind
        if column.kind != wanted:
            if not column.says_nothing:
                kinds = {"number": "numbers", "date": "dates", "text": "texts"}
                says = f"holds {kinds[column.kind]}, and {kinds[wanted]} in the rows that were trained on"
                raise UserError(f"{path}: column {encoding.name!r} {says}")
            column = Column(encoding.name, wanted, np.full(len(column.values), np.nan))
        made.append(encoding(column))
    return torch.from_numpy(np.concatenate(made, 1, dtype=np.float32))


def _fitted(column: Column, train: Int[np.ndarray, " train"]) -> Encoding:
    """How a column is encoded, by the rows to train on."""
    seen, name = _of_rows(column, train), column.name
    few = column.kind == "number" and seen.whole and 2 < seen.distinct <= FEW
    if few or column.kind == "text":
        column = column.as_text()
        seen = _of_rows(column, train)
        counts = np.bincount(seen.values[~seen.missing], minlength=len(column.levels))
        frequent = np.sort(np.argsort(-counts, kind="stable")[:VALUES])
        levels = tuple(column.levels[code] for code in frequent[counts[frequent] >= RARE])
        found = Encoding(name, "few" if few else "text", levels=levels)
    else:
        present = seen.values[~seen.missing]
        mean = present.mean() if len(present) else 0.0
        found = Encoding(name, column.kind, (), (), *_scale(np.where(column.missing, mean, column.values), train))
    varies = [title for title, values in found.made(column).items() if np.ptp(values[train].astype(np.float64)) > 0]
    if column.kind == "date":
        span = np.ptp(present) if len(present) else 0.0
        short = {_wave(name, wave, cycle) for cycle, _, least in CYCLES if span <= least for wave in (np.sin, np.cos)}
        varies = [title for title in varies if title not in short]
    return replace(found, columns=tuple(varies))


def _wave(name: str, wave: np.ufunc, cycle: str) -> str:
    return f"{name} {wave.__name__} of {cycle}"


def _scale(values: Float[np.ndarray, " n"], train: Int[np.ndarray, " train"]) -> tuple[float, float, float]:
    """Mean, largest distance from it, and standard deviation in that unit, of the rows to train on."""
    centred = values[train] - values[train].mean()
    furthest = np.abs(centred).max() or 1.0
    return float(values[train].mean()), float(furthest), float((centred / furthest).std() or 1.0)


def _scaled(values: Float[np.ndarray, " n"], mean: float, furthest: float, deviation: float) -> Float[np.ndarray, " n"]:
    """Mean 0 and standard deviation 1 where they were taken; no value further away than a network can read."""
    with np.errstate(over="ignore"):  # what is not trained on may be endlessly far, and is cut
        return np.clip((values - mean) / furthest / deviation, -FURTHEST, FURTHEST)


def _keys(columns: Sequence[Column], others: Sequence[np.ndarray]) -> list[str]:
    """A digest of each row: of its values, whatever the numbers of the texts."""
    texts = [
        np.array([*(int(key(level)[:16], 16) for level in column.levels), 0], dtype=np.uint64)[column.values]
        for column in columns
        if column.kind == "text"
    ]
    numbers = [column.values for column in columns if column.kind != "text"] + list(others)
    # One form of what is not there, and one of zero.
    plain = [np.where(np.isnan(values), np.nan, values + 0.0).view(np.uint64) for values in map(np.asarray, numbers)]
    return row_keys(np.stack(texts + plain, 1))


def _gives_away(
    columns: Sequence[Column], asked: Sequence[np.ndarray], targets: Sequence[str], rows: np.ndarray
) -> list[str]:
    """A sentence for every column that alone tells a target, on rows that are not tested on."""
    shuffled = np.random.default_rng(0).permutation(rows)  # equal values stand in no order that tells
    notes = []
    for target, y in zip(targets, (each[shuffled] for each in asked), strict=True):
        tells = _tells_number if y.dtype.kind == "f" else _tells_class
        for column in columns:
            if tells(_of_rows(column, shuffled), y):
                notes.append(
                    f"column {column.name!r} alone tells {target!r}: leave it out if it is known only afterwards"
                )
    return notes


def _tells_class(column: Column, y: Int[np.ndarray, " n"]) -> bool:
    """Whether the classes change hardly where rows stand in the order of a column's values: within texts not at all,
    along numbers as often as there are classes. A text that occurs once tells nothing."""
    order = np.argsort(column.values, kind="stable")
    values, y = column.values[order], y[order]
    changes = y[1:] != y[:-1]
    if column.kind == "text":
        errors = (changes & (values[1:] == values[:-1])).sum() + (np.unique(values, return_counts=True)[1] == 1).sum()
    else:
        errors = changes.sum() - np.count_nonzero(np.bincount(y)) + 1
    return bool(errors <= SHARE * len(y) and errors <= ERRORS * (len(y) - np.bincount(y).max()))


def _tells_number(column: Column, y: Float[np.ndarray, " n"]) -> bool:
    """Whether a column's numbers correlate with the target, or the means of its texts do."""
    values = column.values
    if column.kind == "text":
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        values = (np.bincount(place, y) / counts)[place]
        values = np.where(counts[place] > 1, values, y.mean())
    known = ~np.isnan(values)
    values, y = values[known], y[known]
    if len(y) < 3 or not (np.ptp(values) and np.ptp(y)):
        return False
    values, y = ((each - each.min()) / np.ptp(each) for each in (values, y))
    return bool(abs(np.corrcoef(values, y)[0, 1]) > CORRELATION)
