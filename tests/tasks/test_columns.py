from __future__ import annotations

import gzip
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.tasks.columns import read_cells, typed

TABLE = "a;b\n1;x\n2;y\n"


def write(tmp_path, content, name="mine.csv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        TABLE.replace(";", ","),
        TABLE.replace(";", "\t"),
        TABLE.replace(";", " | "),
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\r"),
        TABLE.encode("utf-8-sig"),
        gzip.compress(TABLE.encode(), mtime=0),
        "\n\n" + TABLE.replace("\n", "\n\n"),
        TABLE + ";\n;\n",
        'a,b\n"1","x"\n2,"y"',
        '{"a": 1, "b": "x"}\n{"b": "y", "a": 2.0}\n',
    ],
)
def test_a_file_is_read_in_whatever_form(tmp_path, content):
    cells = read_cells(write(tmp_path, content))
    assert cells.names == ("a", "b")
    assert cells.column("a").values.tolist() == [1, 2]
    assert cells.column("b").levels == ("x", "y")


def test_a_cell_may_hold_line_ends_and_rows_are_named_by_their_first_line(tmp_path):
    path = write(tmp_path, 'a,b\n"one\ntwo, three","inf"\nx,1\nx,2,3\n')
    with pytest.raises(UserError, match=r":5: 3 cells where the header has 2"):
        read_cells(path)
    cells = read_cells(write(tmp_path, 'a,b\n"one\ntwo, three",2\nx,inf\n'))
    assert cells.column("a").levels == ("one\ntwo, three", "x")
    with pytest.raises(UserError, match=r":4: column 'b' holds 'inf': write a finite number"):
        cells.column("b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        ("\ufeff", "the file is empty"),
        ("a,b\n", "a header and no rows"),
        ("a,b\n,\n", "a header and no rows"),
        ("a,a,b\n1,2,3\n", "'a' heads more than one column"),
        ("a,b\n1,2\n3\n", ":3: 1 cells where the header has 2"),
        ("a,b\n1,2\n3,4,5\n", ":3: 3 cells where the header has 2"),
        ('a,b\n1,2\n"3,4\n', r":3: not valid CSV"),
        ('a,b\n1,2\n"3"x,4\n', r":3: not valid CSV"),
        (b"a,b\n1,\xff\n", ":2: not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16: save it as UTF-8"),
        (b"a,b\n1,2\n3,\x00\n", ":3: a NUL byte"),
        (b"\xd0\xcf\x11\xe0rest", "the file is Excel"),
        (b"PK\x03\x04rest", "unpack it first"),
        (b"PAR1 and no more", "not valid Parquet"),
        ('{"a": 1}\n[2]\n', ":2: a JSON array|:2: expected an object"),
        ('{"a": 1}\n{"a": [2]}\n', r":2: 'a' must be a string or a number, got '\[2\]'"),
        ('{"a": 1}\n{"a": 2\n', ":2: not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_cells(path)
    assert str(caught.value).startswith(str(path))


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_cells(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="a folder: give a file"):
        read_cells(tmp_path)
    with pytest.raises(UserError, match="a spreadsheet: save it as CSV"):
        read_cells(write(tmp_path, "PK", "mine.xlsx"))


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2.5", " 3e4 ", ".5", "NA"], "number"),
        (["007", "012"], "text"),
        (["1_000", "2"], "text"),
        (["", "None", "?"], "text"),
        (["true", "false"], "text"),
        (["A1", "12", "13"], "text"),
        (["2024-03-31", "1492-10-12"], "date"),
        (["2024-03-31T12:30:00Z", "2024-03-31 12:30"], "date"),
        (["2024/3/1", ""], "date"),
        (["31.12.2020", "01.02.2020"], "date"),
        (["31/12/2020", "01/02/2020"], "date"),
        (["12/31/2020", "01/02/2020"], "date"),
        (["31 Dec 2020", "March 1, 2021"], "date"),
        (["2020-02-30", "x"], "text"),
    ],
)
def test_what_a_column_is(cells, kind):
    assert typed("x", cells, str).kind == kind


def test_dates_are_days_whichever_form_they_have():
    forms = [
        "1970-01-03 06:00",
        "1970/01/03T06:00:00.25",
        "03.01.1970 06:00",
        "3 January 1970 06:00",
        "Jan 3, 1970 06:00",
        "1970-01-03 08:00+02:00",
        "1970-01-03 00:30 -0530",
    ]
    assert [typed("x", [form], str).values.item() for form in forms] == [2.25] * len(forms)
    assert typed("x", ["25/01/1970", "03/02/1970"], str).values.tolist() == [24, 33]
    assert typed("x", ["01/25/1970", "02/03/1970"], str).values.tolist() == [24, 33]
    assert typed("x", ["0001-01-01", "9999-12-31"], str).values.tolist() == [-719162, 2932896]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1", "inf"], "1: column 'x' holds 'inf': write a finite number"),
        (["1", "2", "1e400"], "2: column 'x' holds '1e400'"),
        (["1", "-1e101"], "1: column 'x' holds '-1e101'"),
        (["2", "1,5"], "1: column 'x' holds '1,5': write numbers with a decimal point"),
        (["1.234,5", "7"], "0: column 'x' holds '1.234,5'"),
        ([*map(str, range(40)), "many"], "40: column 'x' holds 'many' among numbers"),
        (["03/04/2020", "05/06/2020"], "0: column 'x' holds '03/04/2020', a date that can be read in two ways"),
        (["2020-01-01", "2020-01-02", "03.01.2020"], "2: column 'x' holds '03.01.2020' among dates like '2020-01-01'"),
        ([f"2020-01-{day:02}" for day in range(1, 32)] + ["soon"], "31: column 'x' holds 'soon' among dates"),
        ([f"2021-02-{day:02}" for day in range(1, 30)], "28: column 'x' holds '2021-02-29'"),
    ],
)
def test_what_is_nearly_a_number_or_a_date(cells, message):
    with pytest.raises(UserError, match=f"^{message}"):
        typed("x", cells, str)


NUMBERS = [*map(str, range(100))]


@pytest.mark.parametrize(
    ("cells", "first", "notes"),
    [
        ([f"{cell}%" for cell in NUMBERS], [0, 1], ["column 'x' is of numbers: '0%' is read as 0"]),
        ([f"{cell} €" for cell in NUMBERS], [0, 1], ["column 'x' is of numbers: '0 €' is read as 0"]),
        (["-$1.5", *NUMBERS], [-1.5, 0], ["column 'x' is of numbers: '-$1.5' is read as -1.5"]),
        (["CHF 12", "13 CHF"], [12, 13], ["column 'x' is of numbers: 'CHF 12' is read as 12"]),
        (["1\u00a0200", "7"], [1200, 7], ["column 'x' is of numbers: '1\\xa0200' is read as 1200"]),
        (["1\u202f200\u202f300", "7"], [1200300, 7], ["column 'x' is of numbers: '1\\u202f200\\u202f300' is read as "]),
        (["1'200.5", "13’000"], [1200.5, 13000], ["""column 'x' is of numbers: "1'200.5" is read as 1200.5"""]),
        (["−3", "4"], [-3, 4], ["column 'x' is of numbers: '−3' is read as -3"]),
        (["7", "k.A.", *["K.A."] * 20], [7, np.nan], ["column 'x': 21 cells are taken as missing ('K.A.', 'k.A.')"]),
        (["7", "-"], [7, np.nan], ["column 'x': 1 cell is taken as missing ('-')"]),
        (["7%", "keine Angabe"], [7, np.nan], ["column 'x' is of numbers: '7%'", "column 'x': 1 cell is taken as"]),
        (["1970-01-03", "unknown"], [2, np.nan], ["column 'x': 1 cell is taken as missing ('unknown')"]),
    ],
)
def test_numbers_are_read_as_people_write_them_and_it_is_said(cells, first, notes):
    column = typed("x", cells, str)
    np.testing.assert_array_equal(column.values[:2], first)
    assert len(column.notes) == len(notes)
    assert all(found.startswith(note) for found, note in zip(column.notes, notes, strict=True))


@pytest.mark.parametrize(
    ("cells", "share", "odd"),
    [
        (["12", "13", "14", "many"], "75%", "'many'"),
        (["12%", "0.13", "0.14"], "100%", "'0.13'"),
        (["13 €", "13 $"], "100%", "'13 $'"),
        (["1 200", "1 300"], "100%", "'1 200'"),
        (["12345", "12346", "01067"], "67%", "'01067'"),
    ],
)
def test_a_column_that_stays_text_although_most_cells_are_numbers_is_noted(cells, share, odd):
    column = typed("x", cells, str)
    assert column.kind == "text"
    says = f"column 'x' is read as text although {share} of its cells look like numbers: see {odd}"
    assert column.notes == (says,)


@pytest.mark.parametrize(
    "cells", [["+", "-"], ["-", "unknown"], ["007", "012"], ["A1", "12%"], ["5'11", "6'2"], ["yes", "no", "-", "3"]]
)
def test_categories_that_look_a_little_like_numbers_stay_and_nothing_is_said(cells):
    column = typed("x", cells, str)
    assert (column.kind, column.notes, column.missing.any()) == ("text", (), False)


@pytest.mark.parametrize("cell", ["12,5 %", "1'200,5", "$1,200", "1,5"])
def test_a_decimal_comma_is_refused_whatever_stands_around_it(cell):
    with pytest.raises(UserError, match=r"column 'x' holds .* write numbers with a decimal point"):
        typed("x", [cell] * 5 + ["k.A."], str)


def test_a_missing_column_is_asked_for_by_near_names(tmp_path):
    cells = read_cells(write(tmp_path, "Label,size\n1,2\n"))
    with pytest.raises(UserError, match=r"no column 'label' for the target: did you mean 'Label'\?"):
        cells.check("label", "target")
    with pytest.raises(UserError, match="there are 'Label', 'size'"):
        cells.check("zzz", "target")


def test_times_are_numbers_or_dates_without_gaps(tmp_path):
    rows = "x,n,d,gap,words\n" + "".join(f"{n},{n},2020-01-{n:02},{n if n > 1 else ''},day {n}\n" for n in range(1, 9))
    cells = read_cells(write(tmp_path, rows))
    assert (np.diff(cells.times("n")) == np.diff(cells.times("d"))).all()
    with pytest.raises(UserError, match=r":2: the time 'gap' is missing in 1 of 8 rows"):
        cells.times("gap")
    with pytest.raises(UserError, match=r":2: the time 'words' is 'day 1': write numbers, or dates"):
        cells.times("words")


def test_numbers_as_text():
    assert typed("x", ["10", "2.5", "2", ""], str).as_text().levels == ("2", "2.5", "10")
    assert typed("x", ["10", "2.5", "2", ""], str).as_text().values.tolist() == [2, 1, 0, -1]


def test_long_numbers_are_different_names(tmp_path):
    users = ["12345678901234567890", "12345678901234567891", "007", "7", "1e3"]
    cells = read_cells(write(tmp_path, "u,x\n" + "".join(f"{user},1\n" for user in users)))
    assert set(cells.names_in("u", "user").levels) == set(users)


def test_parquet_says_what_csv_says(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 3], dtype="Int64"),
            "f": [0.5, float("nan"), 2],
            "t": ["x", None, "z"],
            "c": pd.Categorical(["u", "v", None]),
            "b": [True, False, True],
            "d": pd.to_datetime(["1970-01-02", None, "1492-10-12"], format="%Y-%m-%d").astype("datetime64[us]"),
            "z": pd.to_datetime(["1970-01-02 01:00+01:00"] * 3),
        }
    )
    frame.set_index("n").to_parquet(tmp_path / "mine.parquet")
    frame.to_csv(tmp_path / "mine.csv", index=False)
    one, other = read_cells(tmp_path / "mine.parquet"), read_cells(tmp_path / "mine.csv")
    for name in frame.columns:
        a, b = one.column(name), other.column(name)
        np.testing.assert_array_equal(a.values, b.values)
        assert (a.kind, tuple(level.lower() for level in a.levels)) == (b.kind, tuple(map(str.lower, b.levels)))
    pd.DataFrame({"u": [2**53 + 1, 2**53 + 2]}).to_parquet(tmp_path / "mine.parquet")
    assert read_cells(tmp_path / "mine.parquet").names_in("u", "user").levels == (
        "9007199254740993",
        "9007199254740994",
    )
    pd.DataFrame({"n": [1, float("inf")]}).to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"row 2: column 'n' holds inf"):
        read_cells(tmp_path / "mine.parquet").column("n")
    pd.DataFrame({"n": [[1], [2]]}).to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"row 1: 'n' must be a string or a number"):
        read_cells(tmp_path / "mine.parquet").column("n")


@given(st.lists(st.text(max_size=12) | st.floats().map(repr) | st.dates().map(str), min_size=1, max_size=30))
def test_any_cells_are_a_column_or_a_user_error(cells):
    try:
        column = typed("x", cells, str)
    except UserError:
        return
    assert len(column.values) == len(cells)
    text = column.as_text()
    assert (text.missing == column.missing).all()
    json.dumps(text.levels)


@given(st.binary(max_size=60) | st.text('ab,;\n\t" 12', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        cells = read_cells(path)
        columns = [cells.column(name) for name in cells.names]
    except UserError:
        return
    assert {len(column.values) for column in columns} == {len(cells)}


def test_parquet_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pyarrow is not installed: run pip install 'palimpsest\[tables\]'"):
        read_cells(write(tmp_path, b"PAR1", "mine.parquet"))
