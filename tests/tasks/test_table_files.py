from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.tasks.splits import Splits
from palimpsest.tasks.streams import Stream, domain_tasks
from palimpsest.tasks.table_files import read_table
from palimpsest.tasks.tabular import Table

RNG = np.random.default_rng(0)
N = 120
SIZE = RNG.normal(5, 2, N).round(4)
COLOUR = np.array(["red", "green", "blue"])[RNG.integers(3, size=N)]
RIPE = np.where(SIZE + RNG.normal(0, 1, N) > 5, "yes", "no")


def write(tmp_path, columns: dict, name="mine.csv", delimiter=","):
    path = tmp_path / name
    rows = [delimiter.join(columns), *(delimiter.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n")
    return path


def fruit(tmp_path, **more):
    return write(tmp_path, {"size": SIZE, "colour": COLOUR, "ripe": RIPE, **more})


def test_numbers_and_categories_become_what_a_network_reads(tmp_path):
    table = read_table(fruit(tmp_path), "ripe")
    task = table.splits(3)
    assert isinstance(task, Splits)
    assert isinstance(task.train, Table)
    assert table.features(3) == ("size", "colour=blue", "colour=green", "colour=red")
    assert (table.kind, table.classes, table.notes, len(table)) == ("classes", ("no", "yes"), (), N)
    assert task.train.x.dtype == torch.float32
    for part in (task.train, task.validation, task.test):
        rows = part.index.numpy() - 1  # the first after the header is 1
        assert (np.array(table.classes)[part.y.numpy()] == RIPE[rows]).all()
        assert (part.x[:, 1:].numpy() == (COLOUR[rows][:, None] == ["blue", "green", "red"])).all()
        assert set(part.batch([0])) == {"x", "labels", "index"}
    seen = SIZE[task.train.index.numpy() - 1]
    torch.testing.assert_close(
        task.test.x[:, 0].double(),
        torch.from_numpy((SIZE[task.test.index.numpy() - 1] - seen.mean()) / seen.std()),
        atol=1e-6,
        rtol=0,
    )


def test_nothing_of_the_test_rows_is_in_what_training_is_given(tmp_path):
    path = fruit(tmp_path, extra=RNG.normal(size=N))
    before = read_table(path, "ripe")
    task = before.splits(0)
    changed = SIZE.copy()
    table = read_table(path, "ripe")
    test = task.test.index.numpy() - 1
    changed[test] *= 1000
    # The same division with other test rows: only these become others.
    columns = [column if column.name != "size" else type(column)("size", "number", changed) for column in table.columns]
    object.__setattr__(table, "columns", tuple(columns))
    other = table.splits(0)
    assert torch.equal(task.train.x, other.train.x)
    assert torch.equal(task.validation.x, other.validation.x)
    assert not torch.equal(task.test.x, other.test.x)


def test_missing_values_are_the_mean_and_told(tmp_path):
    sparse = [value if row % 5 else "" for row, value in enumerate(SIZE)]
    table = read_table(
        fruit(tmp_path, sparse=sparse, word=[w if r % 4 else "NA" for r, w in enumerate(COLOUR)]), "ripe"
    )
    task, names = table.splits(0), table.features(0)
    gap, value = names.index("sparse missing"), names.index("sparse")
    assert (task.train.x[:, gap].bool() == torch.from_numpy((task.train.index.numpy() - 1) % 5 == 0)).all()
    assert task.train.x[task.train.x[:, gap].bool(), value].abs().max() < 1e-6
    assert "word missing" in names


def test_rare_categories_and_unknown_ones_are_taken_together(tmp_path):
    word = ["often"] * 80 + ["too"] * 30 + [f"once {n}" for n in range(10)]
    names = read_table(fruit(tmp_path, word=word), "ripe").features(0)
    assert [name for name in names if name.startswith("word")] == ["word=often", "word=too", "word=(other)"]


def test_few_whole_numbers_are_categories_and_two_are_a_number(tmp_path):
    names = read_table(fruit(tmp_path, stars=np.arange(N) % 4, flag=np.arange(N) % 2), "ripe").features(0)
    assert names[4:] == ("stars=0", "stars=1", "stars=2", "stars=3", "flag")


def test_dates_are_days_and_cycles_where_they_span_any(tmp_path):
    days = np.datetime64("1600-01-01") + np.arange(N) * 9
    table = read_table(fruit(tmp_path, day=days, once=np.datetime64("2020-01-01") + np.arange(N) % 3), "ripe")
    names = table.features(0)
    assert [name for name in names if name.startswith("day")] == [
        "day",
        "day sin of weekday",
        "day cos of weekday",
        "day sin of year",
        "day cos of year",
    ]
    assert [name for name in names if name.startswith("once")] == ["once"]
    train = table.splits(0).train
    assert torch.isfinite(train.x).all()
    turn = train.x[:, names.index("day sin of weekday")] ** 2 + train.x[:, names.index("day cos of weekday")] ** 2
    torch.testing.assert_close(turn, torch.ones(len(train)))


def test_what_tells_nothing_is_left_out_and_said(tmp_path):
    table = read_table(
        fruit(
            tmp_path,
            id=np.arange(N) * 7,
            count=np.arange(N),
            name=[f"fruit {n}" for n in range(N)],
            prose=[f"said {n // 2}" for n in range(N)],
            same=[1] * N,
            empty=[""] * N,
        ),
        "ripe",
    )
    assert table.features(0) == ("size", "colour=blue", "colour=green", "colour=red")
    assert table.notes == (
        "column 'id' is left out: it numbers the rows",
        "column 'count' is left out: it numbers the rows",
        "column 'name' is left out: its texts all differ, as those of an id do",
        "column 'prose' is left out: none of its texts occurs 3 times",
        "column 'same' is left out: it is the same in every row",
        "column 'empty' is left out: it has no value in any row",
    )


def test_a_number_is_predicted_standardised_in_training(tmp_path):
    table = read_table(write(tmp_path, {"colour": COLOUR, "x": RNG.normal(size=N), "size": SIZE}), "size")
    train = table.splits(0).train
    assert (table.kind, table.classes) == ("number", ())
    assert train.y.dtype == torch.float32
    assert abs(train.y.mean()) < 1e-6
    assert abs(train.y.std(correction=0) - 1) < 1e-6


@pytest.mark.parametrize(
    ("kind", "found", "classes"),
    [(None, "classes", ("3", "4", "10")), ("classes",) * 2 + (("3", "4", "10"),), ("number", "number", ())],
)
def test_whole_numbers_are_classes_unless_told(tmp_path, kind, found, classes):
    table = read_table(fruit(tmp_path, grade=np.array([3, 4, 10])[RNG.integers(3, size=N)]), "grade", kind=kind)
    assert (table.kind, table.classes) == (found, classes)


def test_several_targets_are_labels(tmp_path):
    table = read_table(fruit(tmp_path, sweet=np.arange(N) % 3 // 2), ["ripe", "sweet"])
    task = table.splits(0)
    assert (table.kind, table.classes) == ("labels", ("ripe", "sweet"))
    assert task.train.y.dtype == torch.int64
    rows = task.train.index.numpy() - 1
    assert (task.train.y.numpy() == np.stack([RIPE[rows] == "yes", rows % 3 == 2], 1)).all()


def test_rows_without_a_target_are_left_out_and_said(tmp_path):
    table = read_table(fruit(tmp_path, ripe=["" if row < 7 else value for row, value in enumerate(RIPE)]), "ripe")
    assert table.notes == ("7 of 120 rows are left out: 'ripe' is missing (empty, NA, None or the like)",)
    assert min(int(part.index.min()) for part in vars(table.splits(0)).values()) == 8


def test_equal_rows_are_counted_and_never_divided(tmp_path):
    twice = np.r_[np.arange(N), np.arange(30)]
    path = write(
        tmp_path,
        {"n": [f"r{n}" for n in range(N + 30)], "size": SIZE[twice], "colour": COLOUR[twice], "ripe": RIPE[twice]},
    )
    table = read_table(path, "ripe")
    assert "30 of 150 rows equal an earlier one: equal rows stay in one part" in table.notes
    task = table.splits(1)
    of_parts = [
        {int(twice[row - 1]) for row in part.index.tolist()} for part in (task.train, task.validation, task.test)
    ]
    assert sum(map(len, of_parts)) == N


def test_a_column_that_gives_the_target_away_is_named(tmp_path):
    tells = np.where(RIPE == "yes", "sold", "kept")
    later = np.where(RIPE == "yes", 9, 1) + RNG.random(N)
    table = read_table(fruit(tmp_path, tells=tells, later=later, noise=RNG.normal(size=N)), "ripe")
    assert [note.split(":")[0] for note in table.notes] == [
        f"column {name!r} alone tells 'ripe'" for name in ("tells", "later")
    ]
    table = read_table(write(tmp_path, {"size": SIZE, "inches": SIZE / 2.54, "x": RNG.normal(size=N)}), "size")
    assert [note.split(":")[0] for note in table.notes] == ["column 'inches' alone tells 'size'"]


def test_a_rare_class_is_not_told_by_a_column_that_knows_nothing(tmp_path):
    rare = np.where(np.arange(N) % 40 == 0, "rare", "usual")
    table = read_table(write(tmp_path, {"size": SIZE, "colour": COLOUR, "y": rare}), "y")
    assert table.notes == ()


def test_groups_stay_together_and_are_no_feature(tmp_path):
    patient = np.arange(N) % 17
    table = read_table(fruit(tmp_path, patient=patient), "ripe", group="patient")
    task = table.splits(0)
    assert "patient" not in "".join(table.features(0))
    of_parts = [
        {int(patient[row - 1]) for row in part.index.tolist()} for part in (task.train, task.validation, task.test)
    ]
    assert sum(map(len, of_parts)) == 17


def test_the_latest_rows_are_tested_on(tmp_path):
    day = np.datetime64("1999-12-01") + RNG.permutation(N)
    table = read_table(fruit(tmp_path, day=day), "ripe", time="day")
    task = table.splits(0)
    days = [day[part.index.numpy() - 1] for part in (task.train, task.validation, task.test)]
    assert max(days[0].max(), days[1].max()) < days[2].min()
    assert "day" not in "".join(table.features(0))


def test_the_order_of_a_file_changes_neither_the_test_rows_nor_others(tmp_path):
    order = RNG.permutation(N)
    one = read_table(fruit(tmp_path), "ripe").splits(4)
    other = read_table(write(tmp_path, {"size": SIZE[order], "colour": COLOUR[order], "ripe": RIPE[order]}), "ripe")
    for a, b in zip(vars(one).values(), vars(other.splits(4)).values(), strict=True):
        assert sorted(a.index.tolist()) == sorted(order[b.index.numpy() - 1] + 1)


def test_the_digest_is_that_of_the_content(tmp_path):
    columns = {"size": SIZE, "colour": COLOUR, "ripe": RIPE}
    one = read_table(write(tmp_path, columns), "ripe")
    assert read_table(write(tmp_path, columns, "other.txt", ";"), "ripe").digest == one.digest
    assert read_table(fruit(tmp_path, size=SIZE + 1e-9), "ripe").digest != one.digest
    assert str(tmp_path) not in repr(one) + repr(vars(one))


def test_tiny_numbers_are_numbers(tmp_path):
    tiny, other = np.where(np.arange(N) % 3, 1e-300, 2e-300), RNG.normal(size=N)
    train = read_table(write(tmp_path, {"tiny": tiny * (1 + np.arange(N) / N), "x": other}), "tiny").splits(0).train
    assert abs(train.y.std(correction=0) - 1) < 1e-6
    train = read_table(write(tmp_path, {"x": other, "tiny": tiny}), "x").splits(0).train
    assert abs(train.x.std(correction=0) - 1) < 1e-6


def test_a_value_far_away_is_finite_for_a_network(tmp_path):
    far = np.full(N, 1e-20)
    far[::2] = 2e-20
    far[5] = 1e99
    far[:5] *= 1e-270
    for part in vars(read_table(fruit(tmp_path, far=far), "ripe").splits(0)).values():
        assert torch.isfinite(part.x).all()


def test_ten_thousand_columns_take_seconds(tmp_path):
    path, n = tmp_path / "wide.csv", 20
    wide = RNG.normal(size=(n, 10_000)).round(3)
    lines = [",".join(map(str, row)) + f",{'ab'[place % 2]}" for place, row in enumerate(wide.tolist())]
    path.write_text("\n".join([",".join(f"c{n}" for n in range(10_000)) + ",y", *lines]))
    begin = time.process_time()
    task = read_table(path, "y").splits(0)
    assert task.train.x.shape == (n * 6 // 10, 10_000)
    assert time.process_time() - begin < 20


@pytest.mark.parametrize(
    ("more", "arguments", "message"),
    [
        ({}, {"targets": "Ripe"}, r"no column 'Ripe' for the target: did you mean 'ripe'\?"),
        ({}, {"targets": []}, "give one target or several different ones, got none"),
        ({}, {"targets": ["ripe", "ripe"]}, "several different ones"),
        ({}, {"group": "patient"}, "no column 'patient' for the group: there are 'size', 'colour', 'ripe'"),
        ({}, {"time": "when"}, "no column 'when' for the time"),
        ({}, {"group": "ripe"}, "'ripe' cannot be two of target, group, time and task"),
        ({}, {"time": "colour"}, ":2: the time 'colour' is '.*': write numbers, or dates"),
        ({}, {"group": "size", "time": "size"}, "cannot be two of"),
        ({"ripe": [""] * N}, {}, "the target 'ripe' has no value in any row"),
        ({"ripe": ["yes"] * N}, {}, "the target 'ripe' is 'yes' in every row"),
        ({"ripe": [2.5] * N}, {}, "the target 'ripe' is '2.5' in every row"),
        ({"ripe": np.datetime64("2020-01-01") + np.arange(N)}, {}, "the target 'ripe' is of dates"),
        ({"ripe": [f"r{n}" for n in range(N)]}, {}, "120 classes in 120 rows"),
        (
            {"ripe": ["rare", *["yes", "no"] * (N // 2 - 1), "yes"]},
            {},
            r"1 of 3 classes has fewer than 3 rows \('rare': 1\)",
        ),
        ({}, {"kind": "number"}, "'ripe' holds 'no', which is no number"),
        ({}, {"kind": "ranks"}, "kind is 'classes' or 'number'"),
        ({}, {"targets": "size", "kind": "classes"}, "classes in 120 rows"),
        (
            {},
            {"targets": ["ripe", "colour"]},
            ":[23456]: the label 'colour' is '.*': of several targets each is 0 or 1",
        ),
        ({"sweet": [1, *[0] * (N - 1)]}, {"targets": ["ripe", "sweet"]}, "the label 'sweet' is yes in 1 rows"),
        ({"g": ["", *"ab" * (N // 2 - 1), "x"]}, {"group": "g"}, ":2: the group 'g' is missing in 1 of 120 rows"),
        ({"g": [1] * N}, {"group": "g"}, "all rows are of 1 group"),
        ({"g": np.arange(N) % 2}, {"group": "g"}, "all rows are of 2 groups"),
        ({"t": [1] * N}, {"time": "t"}, "all rows are of one time"),
        ({"g": np.arange(N), "t": np.arange(N)}, {"group": "g", "time": "t"}, "not by both"),
        ({"size": ["-inf", *SIZE[1:]]}, {}, ":2: column 'size' holds '-inf': write a finite number"),
        ({"size": [*SIZE[1:], "big"]}, {}, ":121: column 'size' holds 'big' among numbers"),
        ({"size": ['"1,5"'] * N}, {}, ":2: column 'size' holds '1,5': write numbers with a decimal point"),
        ({"size": [1] * N, "colour": ["red"] * N}, {}, "no column to learn from"),
        (
            {"size": [1] * N, "colour": ["red"] * 100 + ["blue"] * 20, "t": np.arange(N)},
            {"time": "t"},
            "every column is constant in the rows to train on",
        ),
    ],
)
def test_a_table_that_cannot_be_learned_from(tmp_path, more, arguments, message):
    path = fruit(tmp_path, **more)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path, **{"targets": "ripe", **arguments})
    assert "\n" not in str(caught.value)


def test_five_rows_are_too_few(tmp_path):
    path = write(tmp_path, {"size": SIZE[:5], "y": "ababa"})
    with pytest.raises(UserError, match=r"mine\.csv: 5 rows are too few"):
        read_table(path, "y")


def test_a_column_of_tasks_makes_a_stream_in_the_order_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["size,site,kind"]
    for site, kinds in (("north", "ab"), ("south", "cd"), ("east", "ab")):
        lines += [f"{rng.normal() + ord(kind):.4f},{site},{kind}" for kind in kinds for _ in range(30)]
    file = tmp_path / "sites.csv"
    file.write_text("\n".join(lines))
    table = read_table(file, "kind", task="site")
    assert table.tasks == ("north", "south", "east")
    assert table.features(0) == ("size",)
    stream = Stream(tuple(domain_tasks(table.by_task(0))))
    assert [task.classes for task in stream.tasks] == [(0, 1), (2, 3), (0, 1)]
    for number, task in enumerate(stream.tasks):
        for part in (task.train, task.validation, task.test):
            assert set((part.index.numpy() - 1) // 60) == {number}
    rows = [part.index for task in stream.tasks for part in (task.train, task.validation, task.test)]
    assert torch.cat(rows).sort().values.tolist() == list(range(1, 181))
    with pytest.raises(UserError, match="needs a column of tasks and a target of classes"):
        read_table(file, "kind").by_task(0)
    with pytest.raises(UserError, match="tasks are of a target of classes, and 'size' is number"):
        read_table(file, "size", task="site")
    with pytest.raises(UserError, match="'kind' cannot be two of target, group, time and task"):
        read_table(file, "kind", task="kind")
    file.write_text("\n".join([*lines, "1.0,,a"]))
    with pytest.raises(UserError, match="site"):
        read_table(file, "kind", task="site")
