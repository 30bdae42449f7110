"""MNIST's variants: the images of `mnist`, right test labels, disjoint tests, and exactly the labels that are asked."""

import pytest
import torch

from palimpsest.tasks.mnist import mnist
from palimpsest.tasks.mnist_labels import (
    mnist_candidates,
    mnist_few,
    mnist_longtail,
    mnist_multilabel,
    mnist_noisy,
)
from palimpsest.tasks.weak_labels import CONFUSIONS

VARIANTS = {
    "few": mnist_few,
    "symmetric": mnist_noisy,
    "asymmetric": lambda seed: mnist_noisy(seed, kind="asymmetric"),
    "long tail": mnist_longtail,
    "candidates": mnist_candidates,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_and_test_labels_are_those_of_mnist(variant):
    plain, made = mnist(103), VARIANTS[variant](103)
    assert torch.equal(made.test.x, plain.test.x)
    assert torch.equal(made.test.y, plain.test.y)
    truth = made.train.y if made.train.clean_y is None else made.train.clean_y
    place = {int(index): row for row, index in enumerate(plain.train.index)}
    rows = [place[int(index)] for index in made.train.index]
    assert torch.equal(truth, plain.train.y[rows])
    assert torch.equal(made.train.x, plain.train.x[rows])
    again, other = VARIANTS[variant](103).train, VARIANTS[variant](104).train
    assert torch.equal(again.y, made.train.y)
    assert not torch.equal(other.index, made.train.index)


def test_noise_is_as_much_as_asked_in_training_and_validation():
    for kind in ("symmetric", "pair"):
        task = mnist_noisy(100, 0.3, kind)
        assert (task.train.y != task.train.clean_y).sum() == 750
        assert (task.validation.y != task.validation.clean_y).sum() == 150
    made = mnist_noisy(100, 0.3, "asymmetric").train
    for label in range(10):
        wrong = (made.y != made.clean_y)[made.clean_y == label].float().mean()
        assert wrong == pytest.approx(0.3 if label in CONFUSIONS else 0, abs=0.01)
    with pytest.raises(ValueError, match="got 'odd'"):
        mnist_noisy(100, kind="odd")


def test_the_tail_has_100_to_1_in_any_order():
    counts = mnist_longtail(100, order=tuple(range(9, -1, -1))).train.y.bincount()
    assert counts[9] == 250
    assert counts[0] in (2, 3)
    assert counts.tolist() == sorted(counts.tolist())


def test_mosaics_of_twenty_seeds_are_tested_on_disjoint_images():
    tests = [mnist_multilabel(seed, train=1, validation=1, test=200).test.index.unique() for seed in (0, 1, 2)]
    used = torch.cat([each[each >= 0] for each in tests])
    assert used.unique().numel() == used.numel() > 250
    task = mnist_multilabel(5, train=200, validation=50, test=50)
    index = [set(part.index.unique().tolist()) - {-1} for part in (task.train, task.validation, task.test)]
    assert not index[0] & index[1] | index[0] & index[2] | index[1] & index[2]


def test_one_positive_leaves_the_images_and_the_test_as_they_are():
    full, one = (mnist_multilabel(7, train=100, one_positive=each) for each in (False, True))
    assert torch.equal(full.train.x, one.train.x)
    assert torch.equal(full.test.y, one.test.y)
    assert torch.equal(full.validation.y, one.validation.y)
    assert (one.train.y <= full.train.y).all()
    assert (one.train.y.sum(1) == 1).all()
    assert full.train.y.sum(1).max() > 2
