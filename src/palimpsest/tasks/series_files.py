"""The user's own series: a table with one series a row, or with one moment of a series a row.

A series is an image of one row, [channels, 1, length], as in `palimpsest.tasks.mnist1d`, so that all that acts
on images takes it; `x[:, :, 0]` is [n, channels, length], for `Conv1d`. Values that are missing are taken from the
straight line between their neighbours, and every channel is standardised by the training series alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from palimpsest.errors import UserError
from palimpsest.tasks.columns import Cells, Column, read_cells
from palimpsest.tasks.fresh import row_keys
from palimpsest.tasks.held_out import content_digest, duplicates_note, key, naming, parts
from palimpsest.tasks.splits import Split, Splits

SHORTEST = 4  # values of a series
FURTHEST = 1e6  # deviations from the mean, at which a value is cut


@dataclass(frozen=True, eq=False)
class SeriesFile:
    """Series that were read, with what was found out about them.

    Attributes:
        classes: names of the classes, sorted.
        channels: the columns whose values the series hold; ("value",) where a row is a series.
        length: values of every series.
        notes: what a user should know, a sentence each.
        digest: SHA-256 of the content.
    """

    classes: tuple[str, ...]
    channels: tuple[str, ...]
    length: int
    notes: tuple[str, ...]
    digest: str
    x: Float[np.ndarray, "n channels length"] = field(repr=False)
    y: Int[np.ndarray, " n"] = field(repr=False)
    keys: tuple[str, ...] = field(repr=False)
    groups: tuple[int, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.y)

    def splits(self, seed: int) -> Splits[Split]:
        """Series to train on, to choose settings on, and to test on; the last are the same for every seed.

        `x` is float32 [n, channels, 1, length]; `index` is the series' place in the file, from 0 (in long form, in the
        order in which series begin).
        """
        divided = parts(self.keys, seed, labels=self.y, classes=self.classes, groups=self.groups)
        seen = self.x[divided.train]
        mean, deviation = (each[:, :, None] for each in (seen.mean((0, 2))[None], seen.std((0, 2))[None]))
        x = ((self.x - mean) / np.where(deviation > 0, deviation, 1)).clip(-FURTHEST, FURTHEST)
        x = torch.from_numpy(x.astype(np.float32))[:, :, None]
        return Splits(*(Split(x[rows], torch.from_numpy(self.y[rows]), torch.from_numpy(rows)) for rows in divided))


def read_series(
    path: str | Path,
    target: str,
    *,
    id: str | None = None,
    time: str | None = None,
    value: str | Sequence[str] | None = None,
    group: str | None = None,
    length: int | None = None,
) -> SeriesFile:
    """Series with a class each, from a table in one of two forms.

    Wide, where `id` is not given: a series a row, its values in the columns other than `target` and `group`, in their
    order. Long: a moment a row, whose series the column `id` names, with its `time` and one or more values. Series of
    several lengths are brought to one by straight lines between their values, at moments that are equally far apart.

    Args:
        path: CSV, Parquet or JSON lines.
        target: the column of classes; in long form the same in all rows of a series.
        id, time, value: columns of the long form; several values are channels.
        group: a column; series of one value stay in one part (a patient, say).
        length: of all series, in long form; None for the median.

    Raises:
        UserError: what `read_cells` and `parts` refuse; values that are no numbers, a series with none or with fewer
            than 4, one that changes its target or has a moment twice.

    Example:
        >>> import math, tempfile
        >>> lines = [[f"{math.sin(n + t / (2 + n % 2)):.4f}" for t in range(16)] + ["ab"[n % 2]] for n in range(40)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "waves.csv")
        ...     head = ",".join([f"t{t}" for t in range(16)] + ["kind"])
        ...     _ = file.write_text("\\n".join([head, *(",".join(line) for line in lines)]))
        ...     series = read_series(file, "kind")
        >>> series.classes, tuple(series.splits(0).train.x.shape)
        (('a', 'b'), (24, 1, 1, 16))
    """
    cells = read_cells(path)
    values = (value,) if isinstance(value, str) else tuple(value or ())
    named = [name for name in (target, id, time, group, *values) if name is not None]
    if len(set(named)) < len(named):
        raise UserError(f"target, id, time, values and group are different columns, got {', '.join(named)}")
    for name, role in (
        (target, "target"),
        (id, "id"),
        (time, "time"),
        (group, "group"),
        *((v, "value") for v in values),
    ):
        if name is not None:
            cells.check(name, role)
    if id is None and (time is not None or values or length is not None):
        raise UserError("time, value and length belong to the long form: give id, the column that names the series")
    if id is not None and (time is None or not values):
        raise UserError("the long form needs id, time and value: which series, when, and what")
    labels = cells.complete(target, "target").as_text()
    owners = None if group is None else cells.names_in(group, "group")
    notes: list[str] = []
    if id is None:
        x, first = _wide(cells, {target, group}, path), np.arange(len(cells))
        channels: tuple[str, ...] = ("value",)
    else:
        x, first = _long(cells, id, time, values, [labels, *([] if owners is None else [owners])], length, notes)
        channels = values
    gaps = np.isnan(x)
    if (empty := np.flatnonzero(gaps.all(2).any(1))).size:
        raise UserError(f"{cells.where(int(first[empty[0]]))}: the series has no value")
    if gaps.any():
        missing = f"{'is' if gaps.sum() == 1 else 'are'} missing: filled by lines between their neighbours"
        notes.append(f"{gaps.sum():,} of {gaps.size:,} values {missing}")
        for series, gap in zip(x.reshape(-1, x.shape[2]), gaps.reshape(-1, x.shape[2]), strict=True):
            if gap.any():
                series[gap] = np.interp(np.flatnonzero(gap), np.flatnonzero(~gap), series[~gap])
    classes, y = labels.levels, labels.values[first]
    keys = [key(of_row, classes[label]) for of_row, label in zip(row_keys(x), y.tolist(), strict=True)]
    notes += [*duplicates_note(keys, "series"), *cells.notes]
    groups = None if owners is None else tuple(owners.values[first].tolist())
    digest = content_digest(keys, *channels)
    found = SeriesFile(classes, channels, x.shape[2], tuple(notes), digest, x, y, tuple(keys), groups)
    with naming(path):
        found.splits(0)
    return found


def _wide(cells: Cells, others: set[str | None], path: str | Path) -> Float[np.ndarray, "n 1 length"]:
    names = [name for name in cells.names if name not in others]
    if len(names) < SHORTEST:
        raise UserError(
            f"{path}: {len(names)} columns of values: a series has at least {SHORTEST} (or give id, time, value)"
        )
    return np.stack([_numbers(cells, name) for name in names], 1)[:, None]


def _numbers(cells: Cells, name: str) -> Float[np.ndarray, " n"]:
    column = cells.column(name)
    if column.kind != "number" and not column.missing.all():
        row = int(np.flatnonzero(~column.missing)[0])
        says = column.levels[column.values[row]] if column.kind == "text" else "a date"
        raise UserError(
            f"{cells.where(row)}: column {name!r} of the series holds {says!r}: write numbers, or leave it out"
        )
    return np.full(len(cells), np.nan) if column.kind == "text" else column.values.astype(np.float64)


def _long(
    cells: Cells,
    id: str,
    time: str,
    values: Sequence[str],
    constant: Sequence[Column],
    length: int | None,
    notes: list[str],
) -> tuple[Float[np.ndarray, "n channels length"], Int[np.ndarray, " n"]]:
    """The series, in the order in which they begin in the file, and the first row of each."""
    which, when = cells.names_in(id, "id").values, cells.times(time)
    measured = np.stack([_numbers(cells, name) for name in values])
    order = np.lexsort([when, which])
    runs = np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
    runs.sort(key=min)
    for run in runs:
        for column in constant:
            if (other := run[column.values[run] != column.values[run[0]]]).size:
                raise UserError(f"{cells.where(int(other[0]))}: {column.name!r} changes within one series")
        if (again := np.flatnonzero(np.diff(when[run]) == 0)).size:
            raise UserError(
                f"{cells.where(int(run[again[0] + 1]))}: the series has the time {when[run][again[0]]:g} twice"
            )
        if len(run) < SHORTEST:
            raise UserError(f"{cells.where(int(min(run)))}: a series of {len(run)} values: {SHORTEST} are the least")
    lengths = np.array([len(run) for run in runs])
    length = length or int(np.median(lengths))
    if length < SHORTEST:
        raise UserError(f"length must be at least {SHORTEST}, got {length}")
    changed = int((lengths != length).sum())
    if changed:
        brought = f"{'is' if changed == 1 else 'are'} brought to {length} values"
        notes.append(f"{changed:,} of {len(runs):,} series {brought}, of {min(lengths)} to {max(lengths)}")
    x = np.full((len(runs), len(values), length), np.nan)
    for place, run in enumerate(runs):
        for channel, series in enumerate(measured[:, run]):
            known = ~np.isnan(series)
            if len(run) == length:
                x[place, channel] = series
            elif known.any():
                moments = np.linspace(when[run[0]], when[run[-1]], length)
                x[place, channel] = np.interp(moments, when[run][known], series[known])
    return x, np.array([min(run) for run in runs])
