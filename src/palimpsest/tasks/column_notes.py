"""What a user should look at in a column: perhaps an identifier, a mark of missing values, or one category twice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from palimpsest.tasks.columns import Column

LONG = 30  # values from which on it is no accident that they rise, or that they are all different within a short range
NEARLY = 0.95  # of the steps from row to row, that rise
DENSE, SPARSE = 2, 10  # times the rows: how far the values of an identifier reach, in any order and where they rise
CALENDAR = 1700, 2100  # whole numbers from here to there are years
OFTEN, DIFFERENT = 3, 5  # how often a mark occurs, and how many different values it stands apart from
_MARK = re.compile(r"-(1|7+|8+|9+|32768)|77+|88+|99+")
SHOWN = 3  # of the spellings that one category has, in a message


def identifier(column: Column) -> list[str]:
    """A note on whole numbers that are all different and rise from row to row, or lie close together.

    >>> identifier(Column("Kunden-Nr", "number", np.arange(1000.0, 1100.0)))
    ["column 'Kunden-Nr' looks like an identifier (whole numbers, all different): leave it out if it is one"]
    """
    values = column.values
    if column.kind != "number" or column.missing.any() or not column.whole or column.distinct < max(LONG, len(values)):
        return []
    if values.min() >= CALENDAR[0] and values.max() <= CALENDAR[1]:
        return []
    reach, rise = np.ptp(values) / len(values), (np.diff(values) > 0).mean()
    if reach > (SPARSE if rise >= NEARLY else DENSE):
        return []
    return [
        f"column {column.name!r} looks like an identifier (whole numbers, all different): leave it out if it is one"
    ]


def missing_marks(column: Column) -> list[str]:
    """A note on -1, or a number of sevens, eights or nines, that is repeated and the least or the largest: where it
    stands further from all others than those from each other, or is one of nines below zero and no other is negative.

    >>> missing_marks(Column("age", "number", np.array([20.0, 30, 40, 50, 60, -999, -999, -999])))
    ["column 'age': is -999 (3 times) a mark of missing values? If so, leave those cells empty"]
    """
    if column.kind != "number":
        return []
    values, counts = np.unique(column.values[~column.missing], return_counts=True)
    if len(values) <= DIFFERENT:
        return []
    found = []
    for at, others in ((0, values[1:]), (-1, values[:-1])):
        mark, count = values[at], int(counts[at])
        gap = np.abs(others - mark).min()
        below = mark < 0 <= others.min() and not f"{mark:.15g}".strip("-9")
        if count >= OFTEN and _MARK.fullmatch(f"{mark:.15g}") and (gap > np.ptp(others) or below):
            says = f"is {mark:g} ({count:,} times) a mark of missing values? If so, leave those cells empty"
            found.append(f"column {column.name!r}: {says}")
    return found


def spellings(column: Column, are: str = "categories") -> list[str]:
    """A note on texts that differ in case, spaces or Unicode normalisation alone.

    >>> spellings(Column("city", "text", np.array([0, 1, 2]), ("BERLIN", "Berlin", "Bonn")))
    ["column 'city': 'BERLIN' and 'Berlin' differ in case alone: they are different categories"]
    """
    alike: dict[str, list[str]] = {}
    for code in np.unique(column.values[~column.missing]) if column.kind == "text" else ():
        level = column.levels[code]
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", level).casefold().split()), []).append(level)
    several = [names for names in alike.values() if len(names) > 1]
    if not several:
        return []
    more = f" (and {len(several) - 1:,} more like them)" if len(several) > 1 else ""
    return [f"column {column.name!r}: {_differ(several[0])} alone{more}: they are different {are}"]


def _differ(names: Sequence[str]) -> str:
    """Two or three spellings of one category, and in what they differ."""
    composed = {unicodedata.normalize("NFC", name) for name in names}
    if len(composed) == 1:  # they look the same
        return f"{names[0]!r} is written in {len(names)} ways that differ in Unicode normalisation"
    case = len({name.casefold() for name in names}) == 1
    return f"{' and '.join(map(repr, names[:SHOWN]))} differ in {'case' if case else 'form'}"
