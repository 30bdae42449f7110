"""MNIST: disjoint test parts, stratified splits, and nothing that trains is tested."""

import pytest
import torch

from palimpsest.tasks.mnist import CLASSES, PART, PARTS, TRAIN, _table, digest, mnist


def test_twenty_seeds_are_tested_on_twenty_disjoint_parts():
    tests = [mnist(seed).test.index for seed in range(100, 100 + PARTS)]
    assert torch.cat(tests).unique().numel() == PARTS * PART
    assert torch.equal(mnist(100 + PARTS).test.index, tests[0])


def test_no_image_is_in_two_splits_of_any_seeds():
    tested = torch.cat([mnist(seed).test.index for seed in range(PARTS)])
    validation = mnist(0).validation.index
    for seed in (0, 7, 100):
        train = mnist(seed).train.index
        assert train.unique().numel() == TRAIN
        assert torch.cat([train, validation, tested]).unique().numel() == 5000


def test_splits_are_stratified_and_smaller_training_sets_are_contained_in_larger_ones():
    small, large = mnist(3, train=100).train, mnist(3, train=400).train
    assert torch.isin(small.index, large.index).all()
    for split in (small, large, mnist(3).validation, mnist(3).test):
        counts = split.y.bincount(minlength=CLASSES)
        assert counts.min() >= len(split) // CLASSES - 2
        assert counts.max() <= len(split) // CLASSES + 2


def test_images_are_what_they_are_at_any_size():
    task = mnist(0, train=10, size=28)
    assert task.train.x.shape == (10, 1, 28, 28)
    assert 0 <= task.train.x.min() < task.train.x.max() <= 1
    small = mnist(0, train=10).train.x
    torch.testing.assert_close(small.mean((1, 2, 3)), task.train.x.mean((1, 2, 3)), rtol=0.05, atol=0.01)


def test_the_digest_is_that_of_the_images_and_their_labels(monkeypatch):
    x, y = _table()
    assert digest() == digest.__wrapped__()
    monkeypatch.setattr("palimpsest.tasks.mnist._table", lambda: (x, y.roll(1)))
    assert digest() != digest.__wrapped__()


@pytest.mark.parametrize("train", [0, TRAIN + 1])
def test_a_training_set_that_cannot_be_had_is_refused(train):
    with pytest.raises(ValueError, match="train must be from 1 to 2500"):
        mnist(0, train=train)
