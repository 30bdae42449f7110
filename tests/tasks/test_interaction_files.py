from __future__ import annotations

import json

import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.tasks.interaction_files import read_interactions
from palimpsest.tasks.interactions import Recommendation

USERS, ITEMS = 30, 40
LOG = [(f"u{u}", f"i{(u * 7 + 3 * k * k) % ITEMS}", u * 100 + k) for u in range(USERS) for k in range(1 + u % 12)]
PAIRS = {(user, item) for user, item, _ in LOG}


def write(tmp_path, rows=LOG, header="user,item,time", name="log.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))
    return path


def names(log, part):
    return [
        (log.users[user], log.items[item]) for user, item in zip(part.user.tolist(), part.item.tolist(), strict=True)
    ]


def test_every_interaction_is_in_one_part(tmp_path):
    log = read_interactions(write(tmp_path))
    task = log.splits(0)
    assert isinstance(task, Recommendation)
    parts = [names(log, part) for part in (task.train, task.validation, task.test)]
    assert sum(map(len, parts)) == len(PAIRS) == len(log)
    assert set().union(*parts) == PAIRS
    held = {user for user in log.users if sum(user == other for other, _ in PAIRS) >= 3}
    for part in parts:
        assert held <= {user for user, _ in part}
    assert {user for user, _ in parts[1]} == {user for user, _ in parts[2]} == held
    assert task.popularity.sum() == len(task.train)
    assert any("took fewer than 3 items: theirs are only trained on" in note for note in log.notes)


def test_the_test_part_is_the_same_for_every_seed_and_order(tmp_path):
    log, other = read_interactions(write(tmp_path)), read_interactions(write(tmp_path, LOG[::-1]))
    one, two, three = log.splits(0), log.splits(1), other.splits(0)
    for name in ("user", "item", "negatives"):
        assert torch.equal(getattr(one.test, name), getattr(two.test, name))
        assert torch.equal(getattr(one.test, name), getattr(three.test, name))
    assert sorted(names(log, one.validation)) != sorted(names(log, two.validation))
    assert log.digest == other.digest


def test_negatives_are_items_that_the_user_never_took(tmp_path):
    log = read_interactions(write(tmp_path))
    for part in (log.splits(2).validation, log.splits(2).test):
        assert part.negatives.shape[1] == log.negatives == len(log.items) // 2
        for user, items in zip(part.user.tolist(), part.negatives.tolist(), strict=True):
            assert len(set(items)) == len(items)
            assert not {(log.users[user], log.items[item]) for item in items} & PAIRS


def test_of_times_the_latest_are_tested(tmp_path):
    log = read_interactions(write(tmp_path), time="time")
    task = log.splits(0)
    for user in range(len(log.users)):
        late, early = task.test.time[task.test.user == user], task.train.time[task.train.user == user]
        if len(late):
            assert late.min() > early.max()
    dates = [(user, item, f"2024-01-{1 + n % 28:02}") for n, (user, item, _) in enumerate(LOG)]
    seconds = read_interactions(write(tmp_path, dates), time="time").log.time
    assert (seconds % 86_400 == 0).all()
    assert int(seconds.min()) == 1704067200


def test_names_of_columns_json_lines_and_numbers(tmp_path):
    rows = [{"who": n % 20, "what": n * n % 97, "more": [1]} for n in range(200)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(row | {"more": "x"}) for row in rows))
    log = read_interactions(path, user="who", item="what")
    assert set(log.users) == {str(n) for n in range(20)}


def test_a_pair_counts_once(tmp_path):
    log = read_interactions(write(tmp_path, [*LOG, *LOG[:9]]))
    again = len(LOG) + 9 - len(PAIRS)
    assert log.notes[0] == f"{again} of {len(LOG) + 9} interactions repeat a pair of user and item: it counts once"


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (LOG, {"user": "users"}, r"no column 'users' for the user: did you mean 'user'\?"),
        (LOG, {"item": "product"}, "no column 'product' for the item"),
        (LOG, {"time": "when"}, "no column 'when' for the time"),
        (LOG, {"time": "user"}, "different columns"),
        ([("u", "", 1), *LOG], {}, ":2: the item 'item' is missing in 1 of"),
        ([("", "i", 1), *LOG], {}, ":2: the user 'user' is missing in 1 of"),
        ([("u", "i", "soon"), *LOG[:5]], {"time": "time"}, ":2: the time 'time' is 'soon'"),
        ([("u", "i", ""), *LOG], {"time": "time"}, ":2: the time 'time' is missing"),
        ([(f"u{n}", "i", n) for n in range(20)], {}, "all interactions are with one item, 'i'"),
        ([(f"u{n}", f"i{n}", n) for n in range(20)], {}, "no user has 3 items"),
        ([(f"u{n // 4}", f"i{n % 4}", n) for n in range(20)], {}, "no user has 3 items and left 2"),
        ([], {}, "a header and no rows"),
    ],
)
def test_a_log_that_cannot_be_divided(tmp_path, rows, arguments, message):
    path = write(tmp_path, rows)
    with pytest.raises(UserError, match=message) as caught:
        read_interactions(path, **arguments)
    assert "\n" not in str(caught.value)
