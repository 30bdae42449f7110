"""What is noted of a column, and that nothing is noted of tables that are as they should be."""

import importlib
import pkgutil
import unicodedata

import numpy as np
import pandas as pd
import pytest

from palimpsest.tasks.column_notes import identifier, missing_marks, spellings
from palimpsest.tasks.columns import Column, read_cells, typed
from palimpsest.tasks.table_files import read_table

N = 120
RNG = np.random.default_rng(0)
AGE = RNG.integers(18, 90, size=N).astype(float)


def numbers(values):
    return Column("x", "number", np.asarray(values, dtype=np.float64))


@pytest.mark.parametrize(
    ("values", "noted"),
    [
        (np.arange(1000, 1000 + N), True),
        (1000 + np.arange(N) * 3, True),
        (1000 + np.where(np.arange(N) == 50, 400, np.arange(N)), True),  # one out of order
        (RNG.permutation(np.arange(1000, 1000 + N)), True),
        (np.arange(1000, 1020), False),  # few rows
        (1800 + np.arange(N), False),  # years
        (1000 + np.arange(N) ** 2, False),  # a measurement that grows
        (1000 + np.arange(N) / 2, False),
        (1000 + np.arange(N) // 2, False),
        (np.where(np.arange(N) == 5, np.nan, 1000 + np.arange(N)), False),
        (AGE, False),
    ],
)
def test_an_identifier_is_noted(values, noted):
    assert bool(identifier(numbers(values))) == noted


@pytest.mark.parametrize(
    ("mark", "times", "noted"),
    [
        (-999, 3, True),
        (999, 5, True),
        (-9, 4, True),
        (-99999, 3, True),
        (7300, 9, False),
        (1000, 9, False),
        (-1, 9, False),
        (-999, 2, False),
        (0, 9, False),
        (91, 9, False),
    ],
)
def test_a_mark_of_missing_values_is_noted(mark, times, noted):
    values = np.where(np.arange(N) < times, mark, AGE)
    assert [f"is {mark:g} ({times} times) a mark" in note for note in missing_marks(numbers(values))] == [True] * noted


def test_categories_of_several_spellings_are_noted():
    nfc, nfd = (unicodedata.normalize(form, "Köln") for form in ("NFC", "NFD"))
    assert spellings(typed("x", ["Bonn", "Berlin"], str)) == []
    for cells, differ in (
        (["Berlin", "BERLIN", "Bonn"], "'BERLIN' and 'Berlin' differ in case alone:"),
        ([nfc, nfd, "Bonn"], "is written in 2 ways that differ in Unicode normalisation alone:"),
        (["New York", "New  York"], "'New  York' and 'New York' differ in form alone:"),
        (["a", "A", "b", "B", "c", "C"], "'A' and 'a' differ in case alone (and 2 more like them):"),
    ):
        (note,) = spellings(typed("x", cells, str))
        assert differ in note
    assert spellings(numbers(AGE)) == []


def test_what_is_noted_reaches_the_user_of_a_table(tmp_path):
    frame = pd.DataFrame(
        {
            "Kunden-Nr": np.arange(1000, 1000 + N),
            "age": np.where(np.arange(N) < 5, -999, AGE),
            "city": np.array(["Berlin", "BERLIN", "Bonn"])[np.arange(N) % 3],
            "share": [f"{n % 50}%" for n in range(N)],
            "size": ["k.A." if n % 6 == 0 else n % 37 for n in range(N)],
            "ward": np.array(["Nord", "nord", "Süd", "Ost", "West"])[np.arange(N) % 5],
            "sick": np.array(["yes", "Yes", "no"])[np.arange(N) // 2 % 3],
        }
    )
    frame.to_csv(tmp_path / "mine.csv", index=False)
    table = read_table(tmp_path / "mine.csv", "sick", group="ward")
    assert table.notes[:7] == (
        "column 'sick': 'Yes' and 'yes' differ in case alone: they are different classes",
        "column 'ward': 'Nord' and 'nord' differ in case alone: they are different groups",
        "column 'Kunden-Nr' looks like an identifier (whole numbers, all different): leave it out if it is one",
        "column 'age': is -999 (5 times) a mark of missing values? If so, leave those cells empty",
        "column 'city': 'BERLIN' and 'Berlin' differ in case alone: they are different categories",
        "column 'share' is of numbers: '0%' is read as 0",
        "column 'size': 20 cells are taken as missing ('k.A.')",
    )
    assert {"share", "size", "size missing"} <= set(table.features(0))


def frames():
    """Tables that are as their makers left them."""
    from sklearn import datasets

    for name in ("iris", "wine", "breast_cancer", "diabetes"):
        yield name, getattr(datasets, f"load_{name}")(as_frame=True).frame
    import statsmodels.datasets as shipped

    for _, name, folder in pkgutil.iter_modules(shipped.__path__):
        module = importlib.import_module(f"statsmodels.datasets.{name}") if folder else None
        if hasattr(module, "load_pandas"):
            yield name, module.load_pandas().data


def test_nothing_is_noted_of_tables_that_are_as_they_should_be(tmp_path):
    seen = {}
    for name, frame in frames():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        cells = read_cells(tmp_path / f"{name}.csv")
        columns = [cells.column(column) for column in cells.names]
        found = [
            note for column in columns for check in (identifier, missing_marks, spellings) for note in check(column)
        ]
        seen[name] = [*found, *cells.notes]
    assert len(seen) > 20
    assert {name: notes for name, notes in seen.items() if notes} == {}
