"""The real domains: disjoint tests a seed, images that are what they are, and a gap between domains."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from palimpsest.tasks.digits import digit_of, images_at
from palimpsest.tasks.digits_domains import leave_one_out
from palimpsest.tasks.mnist import mnist
from palimpsest.tasks.real_domains import DIRECTIONS, DOMAINS, FACES, TRAIN, _glyphs, digest, real_domains


@pytest.fixture(scope="module")
def tasks():
    return [real_domains(seed, train=TRAIN if seed < 2 else 1) for seed in range(20)]


def test_twenty_seeds_are_tested_on_images_that_nobody_else_sees(tasks):
    for name, per_seed in (("uci", 50), ("mnist", 100)):
        tested = torch.cat([task[name].test.index for task in tasks])
        assert tested.unique().numel() == 20 * per_seed
        for task in tasks[:2]:
            others = torch.cat([task[name].train.index, task[name].validation.index])
            assert not torch.isin(others, tested).any()
            assert others.unique().numel() == len(others)
    printed = torch.cat([part.x for task in tasks for part in vars(task["printed"]).values()]).flatten(1)
    assert len(printed.unique(dim=0)) == len(printed)


def test_images_are_those_of_their_sources():
    task = real_domains(3)
    uci = task["uci"].train
    assert torch.equal(uci.x, images_at(uci.index))
    assert torch.equal(uci.y, digit_of(uci.index))
    scanned, whole = task["mnist"].test, mnist(3, size=28).test
    assert torch.equal(scanned.index, whole.index)
    torch.testing.assert_close(scanned.x[:, 0, 2, 5], whole.x[:, 0, 8:11, 17:20].mean((1, 2)))
    assert whole.x[:, :, 2:26, 2:26].sum() > 0.995 * whole.x.sum()
    printed = task["printed"].train
    assert torch.equal(printed.index % 10, printed.y)
    assert (printed.index // 10).unique().numel() == len(FACES)
    ink = torch.from_numpy(_glyphs()[printed.index]).mean((1, 2, 3))
    ratio = printed.x.mean((1, 2, 3)) / ink
    assert ratio.min() > 0.85**2 - 0.05
    assert ratio.max() < 1.15**2 + 0.05


def test_every_face_has_ten_digits_of_its_own():
    glyphs = torch.from_numpy(_glyphs()).flatten(1)
    assert len(glyphs.unique(dim=0)) == len(glyphs) == 10 * len(FACES)
    border = torch.from_numpy(_glyphs())[:, 0].clone()
    border[:, 2:-2, 2:-2] = 0
    assert not border.any(), "no digit is cut off"


def test_splits_are_balanced_named_and_nested():
    small, large = real_domains(7, train=100), real_domains(7, train=400)
    for number, name in enumerate(DOMAINS):
        assert torch.equal(small[name].train.x, large[name].train.x[:100])
        assert torch.equal(small[name].test.x, large[name].test.x)
        for part in vars(large[name]).values():
            assert part.domain.unique().tolist() == [number]
            assert part.x.shape[1:] == (1, 8, 8)
            assert 0 <= part.x.min() <= part.x.max() <= 1
            counts = part.y.bincount(minlength=10)
            assert counts.max() - counts.min() <= 5
    held = leave_one_out(small, "printed")
    assert held.train.domain.unique().tolist() == [0, 1]
    assert held.test.domain.unique().tolist() == [2]


def test_a_rule_of_the_source_says_something_of_the_target_and_less_than_one_of_its_own():
    tasks = real_domains(0, train=300)
    rules = {
        name: LogisticRegression(max_iter=200).fit(task.train.x.flatten(1), task.train.y)
        for name, task in tasks.items()
    }
    assert len(DIRECTIONS) == 6
    for source, target in DIRECTIONS:
        x, y = tasks[target].validation.x.flatten(1), tasks[target].validation.y
        assert 0.15 < rules[source].score(x, y) < rules[target].score(x, y) - 0.2


def test_the_digest_is_that_of_the_images_they_are_made_from(monkeypatch):
    assert digest() == digest.__wrapped__()
    glyphs = _glyphs()
    monkeypatch.setattr("palimpsest.tasks.real_domains._glyphs", lambda: glyphs[::-1])
    assert digest() != digest.__wrapped__()


@pytest.mark.parametrize("train", [0, TRAIN + 1])
def test_a_training_set_that_cannot_be_had_is_refused(train):
    with pytest.raises(ValueError, match=f"from 1 to 597, got {train}"):
        real_domains(0, train=train)
