from __future__ import annotations

import numpy as np
import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.tasks.series_files import read_series

RNG = np.random.default_rng(0)
N, LENGTH = 40, 12
X = RNG.normal(3, 2, (N, LENGTH)).round(3)
Y = np.where(np.arange(N) % 4 == 0, "rare", "usual")


def write(tmp_path, rows, header, name="series.csv"):
    path = tmp_path / name
    path.write_text("\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]))
    return path


def wide(tmp_path, x=X, y=Y, **more):
    header = [*(f"t{t}" for t in range(x.shape[1])), "kind", *more]
    return write(tmp_path, [[*row, *rest] for row, *rest in zip(x.tolist(), y, *more.values(), strict=True)], header)


def long(tmp_path, rows=None, header=("id", "time", "a", "b", "kind")):
    if rows is None:
        rows = [(f"s{n}", t, X[n, t], -X[n, t], Y[n]) for t in range(LENGTH) for n in range(N)]
    return write(tmp_path, rows, header)


LONG = {"id": "id", "time": "time", "value": ("a", "b")}


def test_a_row_is_a_series(tmp_path):
    series = read_series(wide(tmp_path), "kind")
    task = series.splits(0)
    assert (series.classes, series.channels, series.length, series.notes) == (("rare", "usual"), ("value",), LENGTH, ())
    assert tuple(task.train.x.shape) == (24, 1, 1, LENGTH)
    seen = X[task.train.index.numpy()]
    for part in vars(task).values():
        rows = part.index.numpy()
        torch.testing.assert_close(
            part.x[:, 0, 0].double(), torch.from_numpy((X[rows] - seen.mean()) / seen.std()), atol=1e-5, rtol=0
        )
        assert (np.array(series.classes)[part.y.numpy()] == Y[rows]).all()
    assert torch.equal(task.test.index, series.splits(3).test.index)
    assert str(tmp_path) not in repr(series) + repr(vars(series))


def test_the_long_form_says_the_same_in_channels(tmp_path):
    series = read_series(long(tmp_path), "kind", **LONG)
    assert (series.channels, series.length) == (("a", "b"), LENGTH)
    np.testing.assert_array_equal(series.x, np.stack([X, -X], 1))
    assert (np.array(series.classes)[series.y] == Y).all()
    assert tuple(series.splits(0).train.x.shape) == (24, 2, 1, LENGTH)


def test_series_of_several_lengths_are_brought_to_one(tmp_path):
    rows = [(n, t * 0.5, t * 2 + n, 0, Y[n]) for n in range(N) for t in range(LENGTH if n else 23)]
    series = read_series(long(tmp_path, rows), "kind", **{**LONG, "value": "a"})
    assert series.notes == ("1 of 40 series is brought to 12 values, of 12 to 23",)
    np.testing.assert_allclose(series.x[0, 0], np.linspace(0, 44, 12))
    np.testing.assert_array_equal(series.x[1, 0], np.arange(12) * 2 + 1)
    assert read_series(long(tmp_path, rows), "kind", **{**LONG, "value": "a"}, length=20).length == 20


def test_values_that_are_missing_lie_on_a_line(tmp_path):
    x = X.astype(object)
    x[3, [0, 5, 6]] = ""
    series = read_series(wide(tmp_path, x), "kind")
    assert series.notes == ("3 of 480 values are missing: filled by lines between their neighbours",)
    a, b = X[3, 4], X[3, 7]
    np.testing.assert_allclose(series.x[3, 0, [0, 5, 6]], [X[3, 1], a + (b - a) / 3, a + 2 * (b - a) / 3])


def test_groups_and_equal_series_stay_together(tmp_path):
    patient = np.arange(N) // 4
    x = X.copy()
    x[1] = x[2] = x[3]  # of one patient
    series = read_series(wide(tmp_path, x, patient=patient), "kind", group="patient")
    of_parts = [set(patient[part.index.numpy()]) for part in vars(series.splits(0)).values()]
    assert sum(map(len, of_parts)) == 10
    assert series.notes == ("2 of 40 series equal an earlier one: equal series stay in one part",)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"target": "kinds"}, r"no column 'kinds' for the target: did you mean 'kind'\?"),
        ({}, {"group": "who"}, "no column 'who' for the group"),
        ({}, {"time": "t0"}, "belong to the long form: give id"),
        ({}, {"id": "t0"}, "the long form needs id, time and value"),
        ({}, {"group": "kind"}, "different columns"),
        ({"y": ["usual"] * N}, {}, "one class, 'usual'"),
        ({"y": ["rare", *["usual"] * (N - 1)]}, {}, r"\('rare': 1\)"),
        ({"y": ["", *Y[1:]]}, {}, ":2: the target 'kind' is missing in 1 of 40 rows"),
        ({"x": X[:, :2]}, {}, "2 columns of values: a series has at least 4"),
        ({"x": np.where(np.arange(LENGTH) == 3, "word", X)}, {}, ":2: column 't3' of the series holds 'word'"),
        ({"x": np.where(np.arange(N)[:, None] == 2, "", X)}, {}, ":4: the series has no value"),
        ({"x": np.where(np.arange(N)[:, None] == 2, "inf", X)}, {}, ":4: column 't0' holds 'inf'"),
        ({"x": X[:5], "y": Y[:5]}, {}, "5 rows are too few"),
    ],
)
def test_a_wide_table_that_holds_no_series(tmp_path, change, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        read_series(wide(tmp_path, **change), **{"target": "kind", **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "arguments", "message"),
    [
        ([("s0", 99, 1, 1, "usual")], {}, ":482: 'kind' changes within one series"),
        ([("s0", 3, 1, 1, "rare")], {}, ":482: the series has the time 3 twice"),
        ([("s99", t, 1, 1, "rare") for t in range(3)], {}, ":482: a series of 3 values: 4 are the least"),
        ([("", 3, 1, 1, "rare")], {}, ":482: the id 'id' is missing"),
        ([("s0", "", 1, 1, "rare")], {}, ":482: the time 'time' is missing"),
        ([("s0", "soon", 1, 1, "rare")], {}, "'soon'"),
        ([("s99", t, "", 1, "rare") for t in range(5)], {}, ":482: the series has no value"),
        ([], {"value": "c"}, "no column 'c' for the value"),
        ([], {"value": ("a", "a")}, "different columns"),
        ([], {"length": 2}, "length must be at least 4, got 2"),
    ],
)
def test_a_long_table_that_holds_no_series(tmp_path, more, arguments, message):
    rows = [(f"s{n}", t, X[n, t], -X[n, t], Y[n]) for t in range(LENGTH) for n in range(N)]
    with pytest.raises(UserError, match=message):
        read_series(long(tmp_path, rows + more), "kind", **{**LONG, **arguments})
