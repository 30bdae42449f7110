import dataclasses

import pytest
import torch

from palimpsest.tasks.digits import digit_of, digits
from palimpsest.tasks.digits_images import add_noise, permute_pixels, rotate
from palimpsest.tasks.digits_streams import (
    class_stream,
    domain_stream,
    permuted_stream,
    random_label_stream,
    rotation_stream,
)
from palimpsest.tasks.streams import permuted_tasks, split_classes


@pytest.mark.parametrize("sizes", [(2,) * 5, (4, 2, 2, 2), (1,) * 10, (3, 1, 4), (10,)])
def test_every_class_arrives_once_with_all_its_images(sizes):
    tasks = class_stream(0, sizes)
    whole = digits(0, validation=0)
    assert [len(task.classes) for task in tasks] == list(sizes)
    assert [label for task in tasks for label in task.classes] == list(range(sum(sizes)))
    for part in ("train", "test"):
        for task in tasks:
            split = getattr(task, part)
            assert sorted(split.y.unique().tolist()) == sorted(task.classes)
        index = torch.cat([getattr(task, part).index for task in tasks]).sort().values
        assert torch.equal(index, getattr(whole, part).of(range(sum(sizes))).index.sort().values)


def test_order_and_local_labels():
    order = (7, 2, 9, 0, 4, 1, 3, 5, 6, 8)
    tasks = class_stream(1, (2, 3, 5), order=order, local=True)
    assert [task.classes for task in tasks] == [(7, 2), (9, 0, 4), (1, 3, 5, 6, 8)]
    for task in tasks:
        assert task.train.y.unique().tolist() == list(range(len(task.classes)))
        assert torch.equal(torch.tensor(task.classes)[task.test.y], digit_of(task.test.index))
    drawn = [label for task in class_stream(1, order="random") for label in task.classes]
    assert sorted(drawn) == list(range(10)) != drawn


def test_images_of_a_task_can_be_changed_for_that_task_only():
    tasks = class_stream(0, train=200)
    noisy = tasks[1].mapped(lambda x: add_noise(x, 0.3, torch.Generator().manual_seed(0)))
    assert torch.equal(noisy.train.y, tasks[1].train.y)
    assert not torch.equal(noisy.train.x, tasks[1].train.x)
    assert not torch.equal(noisy.test.x, tasks[1].test.x)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_unpermuting_gives_the_original(share):
    tasks = permuted_stream(0, 4, share=share)
    plain = digits(0, validation=0)
    assert torch.equal(tasks[0].train.x, plain.train.x)
    for task in tasks[1:]:
        assert not torch.equal(task.train.x, plain.train.x)
        for part in ("train", "test"):
            back = permute_pixels(getattr(task, part).x, task.permutation.argsort())
            assert torch.equal(back, getattr(plain, part).x)
            assert torch.equal(getattr(task, part).y, getattr(plain, part).y)
        assert (task.permutation != torch.arange(64)).sum() <= round(64 * share)
    assert not torch.equal(tasks[1].permutation, tasks[2].permutation)


def test_permuted_tasks_draw_their_own_images():
    tasks = permuted_stream(0, 3, per_task=640, plain_first=False)
    test = set(tasks[0].test.index.tolist())
    for task in tasks:
        assert len(task.train.index.unique()) == 640
        assert not test & set(task.train.index.tolist())
    assert set(tasks[0].train.index.tolist()) != set(tasks[1].train.index.tolist())
    assert not torch.equal(tasks[0].permutation, torch.arange(64))
    # A longer stream begins like a shorter one.
    assert torch.equal(permuted_stream(0, 2, per_task=640, plain_first=False)[1].train.x, tasks[1].train.x)


def test_rotations_show_the_same_test_images_turned():
    tasks = rotation_stream(0, (0, 90, 80))
    assert torch.equal(rotate(tasks[1].test.x, -90), tasks[0].test.x)
    assert torch.allclose(rotate(tasks[0].train.x, 80), tasks[2].train.x)
    assert all(task.classes == tuple(range(10)) for task in tasks)
    assert len(rotation_stream(0, range(0, 180, 18))) == 10


def test_domains_come_back_with_the_same_data_and_may_have_images_of_their_own():
    first, _, again = domain_stream(0, ("plain", "textured", "plain"), per_task=60)
    assert torch.equal(first.train.x, again.train.x)
    apart = domain_stream(0, ("plain", "inverted", "rotated"), shared=False)
    assert [len(task.train) for task in apart] == [449] * 3
    assert len(torch.cat([task.train.index for task in apart]).unique()) == 3 * 449


def test_random_labels_are_balanced_redrawn_and_say_nothing():
    tasks = random_label_stream(0, tasks=40, n=250)
    agreement = []
    for task in tasks:
        assert task.train.y.bincount().tolist() == [25] * 10
        assert torch.equal(task.train.x, tasks[0].train.x)
        assert torch.equal(task.train.clean_y, digit_of(task.train.index))
        agreement.append((task.train.y == task.train.clean_y).float().mean())
    assert torch.stack(agreement).mean() == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_stream(0, (5, 6)), r"sum to at most 10, got \(5, 6\)"),
        (lambda: class_stream(0, (2, 0)), r"got \(2, 0\)"),
        (lambda: class_stream(0, order="sorted"), "got 'sorted'"),
        (lambda: class_stream(0, order=(0, 1, 2)), r"10 distinct classes or more, got \(0, 1, 2\)"),
        (lambda: permuted_stream(0, 0), "tasks must be at least 1, got 0"),
        (lambda: permuted_stream(0, 2, per_task=2000), "from 1 to 1347, got 2000"),
        (lambda: domain_stream(0, ()), r"got \(\)"),
        (lambda: random_label_stream(0, 0), "got 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_streams_of_any_data_keep_its_validation_rows_and_refuse_rows_without_a_label():
    data = digits(0, train=300, validation=100)
    for task in split_classes(data, (3, 3), order=(9, 0, 4, 1, 3, 5), local=True):
        assert sorted(task.validation.y.unique().tolist()) == [0, 1, 2]
        assert torch.equal(torch.tensor(task.classes)[task.validation.y], digit_of(task.validation.index))
    for task in permuted_tasks(data, 2, torch.Generator().manual_seed(0)):
        assert torch.equal(permute_pixels(task.validation.x, task.permutation.argsort()), data.validation.x)
    with pytest.raises(ValueError, match="per_task needs a generator"):
        permuted_tasks(data, 2, torch.Generator(), per_task=10)
    unlabelled = dataclasses.replace(data, train=dataclasses.replace(data.train, y=data.train.y - 1))
    with pytest.raises(ValueError, match="needs a label from 0, got -1"):
        split_classes(unlabelled)


def test_a_training_set_too_small_to_hold_every_class_still_gives_every_task():
    assert [task.classes for task in class_stream(0, train=3)] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
