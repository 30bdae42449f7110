"""The columns of a user's file: CSV, Parquet or JSON lines, read as text and understood as numbers, dates or text.

CSV may be divided by commas, semicolons, tabs or bars, with or without a byte order mark, with Windows line ends,
compressed. A column is of numbers where every cell is one, of dates where every cell is one in the same form, and else
of text. Numbers may have a unit and marks between thousands (45%, 13 €, 1'200), and among numbers or dates a dash, k.A.
and their like are missing values: notes say so. What is nearly a number or a date (1,5 for 1.5, one word among numbers,
two forms of dates) is refused with its line, and a column that stays text although most of its cells are numbers is
noted, for a column silently read as text is what goes unnoticed.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from palimpsest.errors import MissingExtra, UserError
from palimpsest.tasks.number_forms import MARKS, Written, written
from palimpsest.tasks.rows import read_bytes, read_objects

MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "<na>", "nat", "null", "none"})
"""cells, in lower case, that say that there is no value"""
DELIMITERS = ",;\t|"
LARGEST = 1e100  # of a number: its square is one still
EXACT = 2**53  # up to which whole numbers are what they are as floats
NEARLY, MANY = 0.9, 20  # a share of cells, and distinct numbers, from which a column is meant to be of them
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
UTF16 = (b"\xff\xfe", b"\xfe\xff")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME = r"(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})?)?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})([-/.])(\d{{1,2}})\2(\d{{1,2}}){_TIME}")
_YEAR_LAST = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}){_TIME}")
_NAMED = re.compile(rf"(?:(\d{{1,2}})[ -]([A-Za-z]{{3,9}})|([A-Za-z]{{3,9}}) (\d{{1,2}}))\.?,?[ -](\d{{4}}){_TIME}")
_ZEROS = re.compile(r"[+-]?0\d")  # what begins codes, not numbers
_COMMA = re.compile(r"[+-]?\d+(?:[.,]\d+)*")


@dataclass(frozen=True, eq=False)
class Column:
    """One column, a value for every row.

    Attributes:
        kind: of what the values are.
        values: numbers, NaN where missing; days since 1970 for dates; places in `levels` for text, -1 where missing.
        levels: the texts that occur, sorted; what were numbers, by size.
        notes: how cells were read that can be read otherwise, a sentence each.
    """

    name: str
    kind: Literal["number", "date", "text"]
    values: Float[np.ndarray, " n"] | Int[np.ndarray, " n"]
    levels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> np.ndarray:
        """Which rows have no value."""
        return self.values < 0 if self.kind == "text" else np.isnan(self.values)

    @property
    def distinct(self) -> int:
        """How many different values there are, missing ones aside."""
        return len(np.unique(self.values[~self.missing]))

    @property
    def says_nothing(self) -> bool:
        """Whether every value is missing, or a word for it."""
        return not self.distinct or (self.kind == "text" and all(level.lower() in MARKS for level in self.levels))

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        present = self.values[~self.missing]
        return self.kind == "number" and bool((present == np.round(present)).all())

    def as_text(self) -> Column:
        """The same with every value as text: a whole number without a point."""
        if self.kind == "text":
            return self
        present = ~self.missing
        distinct, place = np.unique(self.values[present], return_inverse=True)
        codes = np.full(len(self.values), -1)
        codes[present] = place
        names = (str(int(value)) if value == int(value) else repr(float(value)) for value in distinct)
        return Column(self.name, "text", codes, tuple(names))


class Cells:
    """The rows of a file by column. A column is understood when it is asked for.

    Attributes:
        names: of the columns, in the order of the file.
        where: row, from 0 -> its place in the file, for messages.
        notes: how the columns that were asked for were read, a sentence each.
    """

    def __init__(self, path: Path, names: Sequence[str], columns: Sequence[Any], where: Callable[[int], str]) -> None:
        self.names, self.where, self._path = tuple(names), where, path
        self.notes: list[str] = []
        self._columns = dict(zip(names, columns, strict=True))

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def check(self, name: str, what: str) -> None:
        """Raises a UserError where there is no column of this name; `what` it is to be begins the message."""
        if name not in self._columns:
            near = [other for other in self.names if other.casefold() == name.casefold()]
            near = near or get_close_matches(name, self.names, n=3, cutoff=0.5)
            others = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {_listed(self.names)}"
            raise UserError(f"{self._path}: no column {name!r} for the {what}: {others}")

    def column(self, name: str) -> Column:
        """A column as numbers, dates or text.

        Raises:
            UserError: a cell that is infinite, or not of the kind that nearly all others are.
        """
        cells = self._columns[name]
        column = cells if isinstance(cells, Column) else typed(name, cells, self.where)
        self.notes += [note for note in column.notes if note not in self.notes]
        return column

    def names_in(self, name: str, what: str) -> Column:
        """A column of names, as text whatever they look like: a number of twenty digits is one. None may be missing."""
        self.check(name, what)
        return self._complete(self.text(name), what)

    def text(self, name: str) -> Column:
        """A column as text, whatever its cells look like."""
        cells = self._columns[name]
        return cells.as_text() if isinstance(cells, Column) else _text(name, cells)

    def complete(self, name: str, what: str) -> Column:
        """A column in which no value may be missing."""
        self.check(name, what)
        return self._complete(self.column(name), what)

    def _complete(self, column: Column, what: str) -> Column:
        if (gaps := np.flatnonzero(column.missing)).size:
            says = f"the {what} {column.name!r} is missing in {len(gaps)} of {len(self)} rows"
            raise UserError(f"{self.where(int(gaps[0]))}: {says}")
        return column

    def times(self, name: str) -> Float[np.ndarray, " n"]:
        """A column that tells when: numbers, or dates as days since 1970.

        Raises:
            UserError: a value is missing, or the column is neither of numbers nor of dates.
        """
        column = self.complete(name, "time")
        if column.kind == "text":
            odd = _odd_time(column)
            at = self.where(int(np.flatnonzero(column.values == odd)[0]))
            says = "write numbers, or dates like 2024-03-31 in one form"
            raise UserError(f"{at}: the time {name!r} is {column.levels[odd]!r}: {says}")
        return column.values


def read_cells(path: str | Path) -> Cells:
    """The columns of a CSV, Parquet or JSON-lines file; which it is, its content says.

    Raises:
        UserError: the file is missing, empty, damaged or not UTF-8; a header with equal names, or a row that does not
            fit it; for Parquet, pyarrow is not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder: give a file")
    if path.suffix.lower() in SHEETS:
        raise UserError(f"{path}: a spreadsheet: save it as CSV")
    content = read_bytes(path)
    if content.startswith(b"PAR1"):
        return _parquet(path, content)
    text = decoded(content, path)
    return _objects(path) if text.lstrip().startswith("{") else _delimited(path, text)


def decoded(content: bytes, path: Path) -> str:
    """A file's content as text.

    Raises:
        UserError: it is empty or not UTF-8, or holds a NUL byte.
    """
    if content.startswith(UTF16):
        raise UserError(f"{path}: the file is UTF-16: save it as UTF-8")
    for begin, name in (
        (b"PAR1", "Parquet"),
        (b"\xd0\xcf\x11\xe0", "Excel"),
        (b"%PDF", "PDF"),
        (b"\x89PNG", "an image"),
    ):
        if content.startswith(begin):
            raise UserError(f"{path}: the file is {name}: give a file of text")
    if (at := content.find(b"\x00")) >= 0:
        raise UserError(f"{path}:{content.count(10, 0, at) + 1}: a NUL byte: the file is damaged or no text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte {error.start}): save the file as UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    return text


def typed(name: str, cells: Sequence[str], where: Callable[[int], str]) -> Column:
    """Cells of text as a column of numbers, dates or text.

    >>> typed("x", ["1", "", "2.5"], str).values
    array([1. , nan, 2.5])
    >>> typed("x", ["31.12.1969", "01.01.1970"], str).values
    array([-1.,  0.])
    >>> typed("x", ["b", "a", "NA"], str).values
    array([ 1,  0, -1])

    Raises:
        UserError: as `Cells.column` says.
    """
    counts = Counter(cells)
    known = _known(counts)

    def refuse(odd: str, says: str) -> None:
        cell = next(cell for cell in cells if known.get(cell) == odd)
        at = where(next(row for row, other in enumerate(cells) if other == cell))
        raise UserError(f"{at}: column {name!r} holds {odd!r}{says}")

    marked = {cell for cell, value in known.items() if value.lower() in MARKS}
    sure = {cell: value for cell, value in known.items() if cell not in marked}
    present = list(dict.fromkeys(sure.values()))
    forms = _forms(present)
    numbers = {value: number for value in present if (number := _number(forms[value].plain)) is not None}
    for value, number in numbers.items():
        if not abs(number) <= LARGEST:
            refuse(value, f": write a finite number, at most {LARGEST:g}, or leave the cell empty")
    codes = {value for value in present if _ZEROS.match(forms[value].plain)}
    notes = _missing(name, [cell for cell in cells if cell in marked])
    if present and len(numbers) == len(present) and not codes:
        if otherwise := next((value for value in present if forms[value].plain != value), None):
            notes = (f"column {name!r} is of numbers: {otherwise!r} is read as {forms[otherwise].plain}", *notes)
        values = _filled(cells, {cell: numbers[value] for cell, value in sure.items()})
        return Column(name, "number", values, notes=notes)
    if len(numbers) < len(present):
        share = _share(numbers, sure, counts)
        odd = next(value for value in present if value not in numbers)
        if all(value in numbers or _COMMA.fullmatch(forms[value].plain) for value in present) and "," in odd:
            refuse(odd, ": write numbers with a decimal point and nothing between thousands")
        if share >= NEARLY and len(numbers) > MANY:
            refuse(odd, " among numbers: write a number or leave the cell empty")
    days = _days(present, refuse)
    if days:
        return Column(name, "date", _filled(cells, {cell: days[value] for cell, value in sure.items()}), notes=notes)
    return replace(_text(name, cells), notes=_nearly_numbers(name, present, sure, counts))


def _forms(present: Sequence[str]) -> dict[str, Written]:
    """How each value is to be read as a number: without unit and marks between thousands where all that have a unit
    have the same one, and a percent sign stands in every cell. A space of the keyboard may be that of a code."""
    plain = {value: Written(value) for value in present}
    forms = {value: form for value in present if _number(value) is None and (form := written(value))}
    units = {form.unit for form in forms.values()} - {""}
    whole = "%" not in units or all(value in forms and forms[value].unit for value in present)
    if len(units) > 1 or not whole or any(form.between == " " for form in forms.values()):
        return plain
    return plain | forms


def _nearly_numbers(
    name: str, present: Sequence[str], sure: Mapping[str, str], counts: Mapping[str, int]
) -> tuple[str, ...]:
    """What is said of a column that stays text although most of its cells look like numbers, codes with a leading zero
    aside; nothing of others."""
    forms = {value: form for value in present if (form := written(value)) and _number(form.plain) is not None}
    alike = {value for value, form in forms.items() if not _ZEROS.match(form.plain)}
    if not alike or (share := _share(alike, sure, counts)) <= 0.5:
        return ()
    first = forms[next(value for value in present if value in alike)]
    odd = next((v for v in present if v not in alike or forms[v].unit != first.unit or forms[v].between == " "), "")
    return (f"column {name!r} is read as text although {share:.0%} of its cells look like numbers: see {odd!r}",)


def _share(values: Container[str], sure: Mapping[str, str], counts: Mapping[str, int]) -> float:
    """The share of cells that hold one of these values, missing ones aside."""
    return sum(counts[cell] for cell, value in sure.items() if value in values) / sum(map(counts.get, sure))


def _missing(name: str, marked: Sequence[str]) -> tuple[str, ...]:
    """What is said of words for a missing value."""
    if not marked:
        return ()
    said = ", ".join(map(repr, sorted({cell.strip() for cell in marked})))
    are = "cell is" if len(marked) == 1 else "cells are"
    return (f"column {name!r}: {len(marked):,} {are} taken as missing ({said})",)


def _text(name: str, cells: Sequence[str]) -> Column:
    known = _known(cells)
    levels = tuple(sorted(set(known.values())))
    place = {level: number for number, level in enumerate(levels)}
    codes = {cell: place[value] for cell, value in known.items()}
    return Column(name, "text", np.array([codes.get(cell, -1) for cell in cells], dtype=np.int64), levels)


def _known(cells: Iterable[str]) -> dict[str, str]:
    """The cells that say something, each with what it says."""
    return {cell: value for cell in dict.fromkeys(cells) if (value := cell.strip()).lower() not in MISSING}


def _filled(cells: Sequence[str], values: Mapping[str, float]) -> np.ndarray:
    return np.array([values.get(cell, math.nan) for cell in cells], dtype=np.float64)


def _number(cell: str) -> float | None:
    if "_" in cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _days(present: Sequence[str], refuse: Callable[[str, str], None]) -> dict[str, float]:
    """Each date as days since 1970, where all are dates of one form; nothing where few are dates."""
    readings = [
        {cell: days for cell in present if (days := read(cell)) is not None}
        for read in (_year_first, partial(_year_last, day=1), partial(_year_last, day=3), _named)
    ]
    if len(readings[1]) == len(readings[2]) == len(present) and readings[1] != readings[2]:
        refuse(present[0], ", a date that can be read in two ways: write it like 2024-03-31")
    best = max(readings, key=len)
    odd = next((cell for cell in present if cell not in best), None)
    if odd is not None and best and len(set().union(*readings)) >= NEARLY * len(present):
        refuse(odd, f" among dates like {next(iter(best))!r}: write all in one form")
    return best if odd is None else {}


def _year_first(cell: str) -> float | None:
    found = _YEAR_FIRST.fullmatch(cell)
    return _day(found[1], found[3], found[4], found.groups()[4:]) if found else None


def _year_last(cell: str, day: int) -> float | None:
    """`day`: whether it stands first (1) or second (3); before points it is always first."""
    found = _YEAR_LAST.fullmatch(cell)
    if not found or (found[2] == "." and day != 1):
        return None
    return _day(found[4], found[4 - day], found[day], found.groups()[4:])


def _named(cell: str) -> float | None:
    found = _NAMED.fullmatch(cell)
    month = (found[2] or found[3]).lower()[:3] if found else None
    if month not in MONTHS:
        return None
    return _day(found[5], MONTHS.index(month) + 1, found[1] or found[4], found.groups()[5:])


def _day(year: Any, month: Any, day: Any, clock: Sequence[str | None]) -> float | None:
    hour, minute, second, zone = clock
    try:
        date = datetime.date(int(year), int(month), int(day)).toordinal() - datetime.date(1970, 1, 1).toordinal()
    except ValueError:
        return None
    seconds = int(hour or 0) * 3600 + int(minute or 0) * 60 + int(second or 0)
    if seconds > 86400:
        return None
    if zone and zone != "Z":
        seconds -= int(zone[0] + "1") * (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60)
    return date + seconds / 86400


def _odd_time(column: Column) -> int:
    """The first value in the file that is least like a time."""
    bad = {
        code
        for code, level in enumerate(column.levels)
        if _number(level) is None
        and all(read(level) is None for read in (_year_first, partial(_year_last, day=1), _named))
    }
    return next((code for code in column.values.tolist() if code in bad), int(column.values[0]))


def _delimited(path: Path, text: str) -> Cells:
    head = text[:100_000]
    delimiter = max(DELIMITERS, key=lambda each: _width(head, each))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    names: list[str] | None = None
    rows, lines, begin = [], [], 1  # a row of empty cells counts as none
    try:
        for cells in reader:
            if names is None and any(cells):
                names = _header([cell.strip() for cell in cells], path)
            elif any(cells):
                if len(cells) != len(names):
                    raise UserError(f"{path}:{begin}: {len(cells)} cells where the header has {len(names)}")
                rows.append(cells)
                lines.append(begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{begin}: not valid CSV ({error}): check the quotes") from None
    if not rows:
        raise UserError(f"{path}: a header and no rows")
    return Cells(path, names, list(zip(*rows, strict=True)), lambda row: f"{path}:{lines[row]}")


def _width(head: str, delimiter: str) -> tuple[int, int]:
    """How many rows of the first ten are as wide as the header, where that is more than one cell, and how wide."""
    try:
        rows = [
            row
            for row, _ in zip(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), range(10), strict=False)
        ]
    except csv.Error:
        return 0, 0
    wide = len(next((row for row in rows if any(row)), []))
    return (sum(len(row) == wide for row in rows), wide) if wide > 1 else (0, 0)


def _header(names: list[str], path: Path) -> list[str]:
    names = [name or f"column {place}" for place, name in enumerate(names, 1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: {_listed(twice)} {'heads' if len(twice) == 1 else 'head'} more than one column: rename"
        )
    return names


def _objects(path: Path) -> Cells:
    records = read_objects(path)
    names: dict[str, None] = {}
    for at, record in records:
        if not isinstance(record, Mapping):
            raise UserError(f"{at}: expected an object, got {str(record)[:60]!r}")
        names |= dict.fromkeys(record)
    columns = [[_cell(record.get(name), name, at) for at, record in records] for name in names]
    places = [at for at, _ in records]
    return Cells(path, list(names), columns, lambda row: places[row])


def _cell(value: Any, name: str, at: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, (int, float)):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    raise UserError(f"{at}: {name!r} must be a string or a number, got {str(value)[:60]!r}")


def _parquet(path: Path, content: bytes) -> Cells:
    try:
        import pyarrow  # noqa: F401 (pandas asks for it)
    except ImportError:
        raise MissingExtra("pyarrow", "tables") from None
    import pandas as pd  # late: most files are not Parquet

    try:
        frame = pd.read_parquet(io.BytesIO(content), engine="pyarrow")
    except Exception as error:  # pyarrow has many of its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path}: not valid Parquet ({reason[0]})") from None
    if any(frame.index.names):
        frame = frame.reset_index()  # a column that pandas had made the index
    names = _header([str(name).strip() for name in frame.columns], path)
    if frame.empty:
        raise UserError(f"{path}: no rows")
    columns = [_series(name, frame.iloc[:, place], path) for place, name in enumerate(names)]
    return Cells(path, names, columns, lambda row: f"{path}: row {row + 1}")


def _series(name: str, series: Any, path: Path) -> Column | list[str]:
    """A column of a data frame: numbers and moments as they are, all else as text."""
    import pandas as pd

    kinds = pd.api.types
    if kinds.is_bool_dtype(series) or not kinds.is_numeric_dtype(series):
        if kinds.is_datetime64_any_dtype(series):
            moments = series.dt.tz_convert("UTC").dt.tz_localize(None) if series.dt.tz is not None else series
            days = moments.to_numpy(dtype="datetime64[us]")
            return Column(name, "date", np.where(np.isnat(days), np.nan, days.astype("int64") / 86_400e6))
        gaps = series.isna().tolist()
        return [
            "" if gap else _cell(str(value) if _plain(value) else value, name, f"{path}: row {row}")
            for row, (value, gap) in enumerate(zip(series.tolist(), gaps, strict=True), 1)
        ]
    if kinds.is_integer_dtype(series) and (series.abs() > EXACT).any():  # names rather than numbers
        return ["" if gap else str(value) for value, gap in zip(series.tolist(), series.isna().tolist(), strict=True)]
    values = series.to_numpy(dtype="float64", na_value=np.nan)
    if (bad := np.flatnonzero(np.abs(values) > LARGEST)).size:
        raise UserError(f"{path}: row {bad[0] + 1}: column {name!r} holds {values[bad[0]]}: write a finite number")
    return Column(name, "number", values)


def _plain(value: Any) -> bool:
    """Whether a value of a data frame is written as it reads: a date, a decimal, a time."""
    return isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
