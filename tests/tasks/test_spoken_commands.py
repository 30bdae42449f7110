"""Spoken commands: intents share words, commands differ by speaker, and no two seeds or splits share one."""

import pytest
import torch

from palimpsest.tasks.fresh import check_disjoint, row_keys
from palimpsest.tasks.spoken_commands import INTENTS, intents, said, spoken_commands


def test_the_31_intents_are_distinct_and_share_every_word():
    rows = intents()
    assert len(rows.unique(dim=0)) == INTENTS == 31
    assert all(column.bincount().min() >= 2 for column in rows.T)


def test_no_split_and_no_seed_shares_a_command_and_the_same_seed_gives_the_same():
    sizes = {"per_intent": 2, "validation": 1, "test": 1}
    one, same, other = (spoken_commands(seed, **sizes) for seed in (0, 0, 1))
    parts = {name: row_keys(getattr(one, name).x) for name in ("train", "validation", "test")}
    check_disjoint(**parts, other=row_keys(other.train.x))
    assert torch.equal(one.train.x, same.train.x)
    assert one.test.y.bincount().tolist() == [1] * INTENTS


def test_a_command_ends_in_silence_and_is_longer_for_slow_speakers():
    x = said(intents()[torch.zeros(200, dtype=torch.long)], torch.Generator().manual_seed(0))
    frames = (x.sum(1) > 0).sum(1)
    assert x.shape == (200, 40, 100)
    assert 46 <= frames.min() < 60 < 80 < frames.max() <= 91
    assert x.min() >= 0
    ends = [row.sum(0).nonzero().max() for row in x]
    assert all(not row[:, end + 1 :].any() for row, end in zip(x, ends, strict=True))


def test_commands_of_one_intent_are_told_apart_from_others_by_a_line():
    data = spoken_commands(0, per_intent=30, validation=1, test=10)
    means = torch.stack([data.train.x[data.train.y == k].mean((0, 1, 3)) for k in range(INTENTS)])
    right = torch.cdist(data.test.x.mean((1, 3)), means).argmin(1) == data.test.y
    assert right.float().mean() > 3 / INTENTS


@pytest.mark.parametrize(
    ("sizes", "message"), [({"test": 0}, "test must have at least 1 command"), ({"noise": -1.0}, "noise must be")]
)
def test_sizes_are_checked(sizes, message):
    with pytest.raises(ValueError, match=message):
        spoken_commands(0, **sizes)
