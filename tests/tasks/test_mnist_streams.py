"""Streams of MNIST: every image once, disjoint tests a seed, permutations that can be taken back."""

import pytest
import torch

from palimpsest.tasks.digits_images import permute_pixels
from palimpsest.tasks.mnist import mnist
from palimpsest.tasks.mnist_streams import mnist_classes, mnist_permuted


def test_five_pairs_hold_every_image_of_the_seed():
    data, tasks = mnist(101), mnist_classes(101)
    for part in ("train", "validation", "test"):
        splits = [getattr(task, part) for task in tasks]
        assert torch.equal(
            torch.cat([each.index for each in splits]).sort().values, getattr(data, part).index.sort()[0]
        )
        assert [each.y.unique().tolist() for each in splits] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    orders = {
        tuple(label for task in mnist_classes(seed, random_order=True) for label in task.classes) for seed in (0, 1)
    }
    assert len(orders) == 2
    assert mnist_classes(0, random_order=True, local=True)[2].test.y.unique().tolist() == [0, 1]
    with pytest.raises(ValueError, match="sum to at most 10"):
        mnist_classes(0, (6, 6))


def test_permutations_differ_by_task_and_seed_and_can_be_taken_back():
    data, tasks = mnist(101), mnist_permuted(101, 3)
    for task in tasks:
        for part in ("train", "validation", "test"):
            x = permute_pixels(getattr(task, part).x, task.permutation.argsort())
            assert torch.equal(x, getattr(data, part).x)
    seen = [*tasks, *mnist_permuted(102, 3)[1:]]
    assert len({tuple(task.permutation.tolist()) for task in seen}) == 5
    few = mnist_permuted(101, 2, per_task=300, plain_first=False)
    assert len(few[0].train) == len(few[0].train.index.unique()) == 300
    assert not torch.equal(few[0].train.index, few[1].train.index)
