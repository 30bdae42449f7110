"""Splits of a log: every pair is in one part, seeds are tested on disjoint ones, and negatives were never taken."""

import pytest
import torch

from palimpsest.tasks.interactions import PARTS, Interactions, recommendation

USERS, ITEMS = tuple(f"u{n}" for n in range(30)), tuple(f"i{n}" for n in range(50))


def log(least=1):
    """Each user takes other items, from `least` to 25 of them; the time is the row's number."""
    counts = torch.linspace(least, 25, len(USERS)).long()
    user = torch.arange(len(USERS)).repeat_interleave(counts)
    draws = torch.Generator().manual_seed(0)
    item = torch.cat([torch.randperm(len(ITEMS), generator=draws)[:n] for n in counts.tolist()])
    return Interactions(user, item, torch.arange(len(user)).float())


def pairs(split):
    return set(zip(split.user.tolist(), split.item.tolist(), strict=True))


def test_every_pair_is_in_one_split_and_twenty_seeds_test_disjoint_ones():
    whole = pairs(log())
    tested = []
    for seed in range(100, 100 + PARTS):
        task = recommendation(log(), USERS, ITEMS, seed, negatives=5)
        parts = [pairs(split) for split in (task.train, task.validation, task.test)]
        assert set.union(*parts) == whole
        assert sum(map(len, (task.train, task.validation, task.test))) == len(whole)
        assert parts[1] == pairs(recommendation(log(), USERS, ITEMS, 0, negatives=5).validation)
        tested.append(parts[2])
    assert sum(map(len, tested)) == len(set.union(*tested))
    assert pairs(recommendation(log(), USERS, ITEMS, 100 + PARTS, negatives=5).test) == tested[0]


def test_nobody_is_new_to_the_model_and_few_of_a_user_are_tested_at_once():
    for seed in range(PARTS):
        task = recommendation(log(), USERS, ITEMS, seed, negatives=5)
        assert task.train.user.unique().tolist() == list(range(len(USERS)))
        assert task.test.user.bincount().max() <= 2  # 24 interactions but the first, dealt to 21 parts


def test_negatives_are_distinct_items_that_were_never_taken_and_are_the_same_for_all_models():
    taken = pairs(log())
    task, again = (recommendation(log(), USERS, ITEMS, 7, negatives=25) for _ in range(2))
    for split, other in ((task.validation, again.validation), (task.test, again.test)):
        assert torch.equal(split.negatives, other.negatives)
        for user, drawn in zip(split.user.tolist(), split.negatives.tolist(), strict=True):
            assert len(set(drawn)) == 25
            assert not {(user, item) for item in drawn} & taken
    assert task.train.negatives is None
    with pytest.raises(ValueError, match="ask for fewer negatives than 26"):
        recommendation(log(), USERS, ITEMS, 7, negatives=26)


def test_popularity_and_what_is_known_count_training_alone():
    task = recommendation(log(), USERS, ITEMS, 3, negatives=5)
    train = pairs(task.train)
    assert task.popularity.tolist() == [sum(item == each for _, each in train) for item in range(len(ITEMS))]
    users = torch.tensor([9, 0, 9])
    assert task.known(users).tolist() == [[(u, i) in train for i in range(len(ITEMS))] for u in users.tolist()]


def test_a_repeated_pair_counts_once_where_it_stood_first():
    rows = log()
    twice = Interactions(
        *(torch.cat([value, value]) for value in (rows.user, rows.item)), torch.arange(2.0 * len(rows))
    )
    task = recommendation(twice, USERS, ITEMS, 0, negatives=5)
    times = torch.cat([split.time for split in (task.train, task.validation, task.test)])
    assert times.sort().values.tolist() == list(range(len(rows)))


def test_a_log_without_held_out_rows_and_numbers_without_a_name():
    alone = Interactions(torch.arange(3), torch.arange(3))
    task = recommendation(alone, USERS[:3], ITEMS, 0)
    assert (len(task.train), task.test.negatives.shape) == (3, (0, 100))
    with pytest.raises(ValueError, match="users must be numbered from 0 to 1, got numbers from 0 to 2"):
        recommendation(alone, USERS[:2], ITEMS, 0)
    with pytest.raises(ValueError, match="items must be numbered"):
        recommendation(Interactions(torch.arange(3), torch.arange(3) - 1), USERS, ITEMS, 0)
