from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.tasks.held_out import check_classes, duplicates, duplicates_note, key, parts


def keys(n: int, start: int = 0) -> list[str]:
    return [key(str(row)) for row in range(start, start + n)]


@pytest.mark.parametrize("y", [np.arange(200) % 3, np.arange(200) % 7 / 7, np.arange(600).reshape(200, 3) % 5 // 3])
def test_the_test_part_is_the_same_for_every_seed_and_in_every_order_of_the_rows(y):
    of_rows = keys(200)
    order = np.random.default_rng(0).permutation(200)
    shuffled = parts([of_rows[row] for row in order], 5, labels=y[order])
    here, other = parts(of_rows, 5, labels=y), parts(of_rows, 6, labels=y)
    assert here.test.tolist() == other.test.tolist()
    assert here.validation.tolist() != other.validation.tolist()
    for part, again in zip(here, shuffled, strict=True):
        assert sorted(order[again]) == part.tolist()


def test_every_class_is_in_every_part_by_about_its_share():
    y = np.repeat([0, 1, 2, 3], [300, 90, 10, 3])
    for part, share in zip(parts(keys(len(y)), 0, labels=y, classes="abcd"), (0.6, 0.2, 0.2), strict=True):
        assert np.abs(np.bincount(y[part], minlength=4)[:3] - share * np.array([300, 90, 10])).max() <= 1
        assert (y[part] == 3).sum() == 1


def test_numbers_are_stratified_by_tenths():
    y = np.random.default_rng(0).normal(size=500)
    tenth = np.argsort(np.argsort(y)) // 50
    for part in parts(keys(500), 0, labels=y):
        assert np.ptp(np.bincount(tenth[part], minlength=10)) <= 1


def test_equal_rows_stay_in_one_part():
    of_rows = keys(60) + keys(30)
    of_parts = [{of_rows[row] for row in part} for part in parts(of_rows, 1)]
    assert sum(map(len, of_parts)) == 60
    assert duplicates(of_rows) == 30
    assert duplicates_note(of_rows) == ["30 of 90 rows equal an earlier one: equal rows stay in one part"]


def test_rows_of_few_values_are_different_things_that_look_alike():
    of_rows = keys(4) * 50
    assert [len(part) for part in parts(of_rows, 0)] == [120, 40, 40]
    assert "look alike" in duplicates_note(of_rows)[0]


@given(st.integers(3, 40), st.integers(0, 99), st.data())
def test_groups_and_equal_rows_are_never_divided(n_groups, seed, data):
    n = data.draw(st.integers(max(10, n_groups), 120))
    groups = [*range(n_groups), *data.draw(st.lists(st.integers(0, n_groups - 1), min_size=n - n_groups, max_size=n))]
    of_rows = keys(len(groups))
    twice = data.draw(st.lists(st.integers(0, len(groups) - 1), max_size=2))
    of_rows = [of_rows[0] if row in twice else each for row, each in enumerate(of_rows)]
    try:
        found = parts(of_rows, seed, groups=groups)
    except UserError:
        assert len({*groups}) <= 4  # what is equal may join three groups or four to fewer
        return
    assert sorted(np.concatenate(found)) == list(range(len(groups)))
    for values in (groups, of_rows):
        in_parts = [{values[row] for row in part} for part in found]
        assert sum(map(len, in_parts)) == len({*values})


def test_a_class_of_one_group_is_trained_on():
    groups = np.repeat(np.arange(10), 10)
    y = np.where(groups == 4, 1, 0)
    for seed in range(10):
        found = parts(keys(100), seed, labels=y, classes=("no", "yes"), groups=groups.tolist())
        assert set(y[found.train]) == {0, 1}


def test_of_labels_the_rarest_is_spread():
    y = np.stack([np.ones(100, dtype=int), np.arange(100) % 2, np.arange(100) < 10], 1)
    y[:3, 0] = 0
    assert [int(y[part][:, 2].sum()) for part in parts(keys(100), 0, labels=y, classes="abc")] == [6, 2, 2]


def test_the_latest_rows_are_tested_on_and_rows_of_one_time_stay_together():
    times = np.repeat(np.arange(25.0), 4)[::-1].copy()
    found = parts(keys(100), 0, times=times)
    assert times[found.test].min() == 20
    assert max(times[found.train].max(), times[found.validation].max()) == 19
    assert parts(keys(100), 1, times=times).validation.tolist() != found.validation.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 5}, "5 rows are too few"),
        ({"groups": ["a"] * 20}, "all rows are of 1 group: three are the least"),
        ({"groups": ["a", "b"] * 10}, "all rows are of 2 groups"),
        ({"groups": list(range(20)), "times": np.arange(20.0)}, "not by both"),
        ({"times": np.zeros(20)}, "all rows are of one time"),
        ({"labels": np.arange(20) // 18, "classes": "ab"}, r"1 of 2 classes has fewer than 3 rows \('b': 2\)"),
        (
            {"labels": np.arange(20) // 10, "classes": "ab", "times": np.arange(20.0) // 10},
            "'b' has no row to train on",
        ),
        ({"labels": np.zeros(20, dtype=int), "classes": "a"}, "one class, 'a'"),
    ],
)
def test_what_cannot_be_divided(settings, message):
    settings = dict(settings)
    with pytest.raises(UserError, match=message):
        parts(keys(settings.pop("n", 20)), 0, **settings)


def test_shares_and_lengths():
    with pytest.raises(ValueError, match="sum to below 1"):
        parts(keys(20), 0, test=0.5, validation=0.5)
    with pytest.raises(ValueError, match="groups must have a value for each of the 20 rows, got 3"):
        parts(keys(20), 0, groups=[1, 2, 3])


def test_classes_are_as_many_as_half_of_the_rows_at_most():
    with pytest.raises(UserError, match="11 classes in 20 rows"):
        check_classes(np.arange(20) % 11, [str(each) for each in range(11)])
    with pytest.raises(UserError, match=r"the label 'b' is yes in 1 rows"):
        check_classes(np.stack([np.arange(20) % 2, np.arange(20) == 3], 1).astype(int), "ab")
