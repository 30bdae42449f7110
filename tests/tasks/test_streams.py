"""Streams of any data: what may be answered, tables, domains, letters and turned images."""

import pytest
import torch

from palimpsest.tasks.digits_images import rotate
from palimpsest.tasks.glyph_streams import glyph_classes
from palimpsest.tasks.mnist_streams import mnist_classes, mnist_rotated
from palimpsest.tasks.real_domains import real_domains
from palimpsest.tasks.splits import Splits
from palimpsest.tasks.streams import Stream, Task, domain_tasks, relabelled_tasks, split_classes
from palimpsest.tasks.tabular import tabular


def test_what_may_be_answered_grows_with_the_classes_or_is_the_tasks_own_where_it_is_told():
    tasks = tuple(mnist_classes(100, train=100))
    stream, told = Stream(tasks), Stream(tasks, told=True)
    assert stream.classes == told.classes == 10
    for seen in range(1, 6):
        assert stream.allowed(seen).tolist() == [[label < 2 * seen for label in range(10)]] * 5
        assert told.allowed(seen).tolist() == [[label // 2 == task for label in range(10)] for task in range(5)]
    same = Stream(tuple(domain_tasks(real_domains(100, train=50))))
    assert same.allowed(1).all()


def test_a_stream_needs_tasks_with_rows():
    task = mnist_classes(100, train=100)[0]
    with pytest.raises(ValueError, match="needs a task"):
        Stream(())
    with pytest.raises(ValueError, match="'empty' has no rows to train on"):
        Stream((Task("empty", task.train[:0], task.test, (0,)),))
    with pytest.raises(ValueError, match="'empty' has no rows to test on"):
        Stream((Task("empty", task.train, task.test[:0], (0,)),))
    with pytest.raises(ValueError, match=r"'few' has the label 1, and its classes are \(0,\)"):
        Stream((Task("few", task.train, task.test, (0,)),))


def test_rows_of_tables_are_split_by_class_too():
    data = tabular("wine", 0)
    tasks = split_classes(data, (1, 2))
    assert [task.train.y.unique().tolist() for task in tasks] == [[0], [1, 2]]
    assert sum(len(task.train) for task in tasks) == len(data.train)


def test_domains_come_in_the_order_asked_for_and_keep_their_validation_rows():
    domains = real_domains(100, train=50)
    tasks = domain_tasks(domains, ("mnist", "uci", "mnist"))
    assert [task.name for task in tasks] == ["mnist", "uci", "mnist"]
    assert torch.equal(tasks[2].validation.x, domains["mnist"].validation.x)
    with pytest.raises(ValueError, match="no domain 'paper': there are uci, mnist, printed"):
        domain_tasks(domains, ("paper",))


def test_labels_drawn_anew_keep_the_true_ones():
    rows = mnist_classes(100, (10,), train=200)[0].train
    first, second = relabelled_tasks(rows, 2, torch.Generator().manual_seed(0), classes=4)
    assert first.train.y.bincount().tolist() == [50] * 4
    assert torch.equal(first.train.clean_y, rows.y)
    assert not torch.equal(first.train.y, second.train.y)


def test_letters_of_a_task_have_faces_of_their_own_for_each_purpose():
    tasks = glyph_classes(100, 3, each=4)
    assert [task.classes for task in tasks] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    for task in tasks:
        assert task.train.y.bincount(minlength=12)[list(task.classes)].tolist() == [20] * 4
        assert task.test.y.bincount(minlength=12)[list(task.classes)].tolist() == [5] * 4
        parts = [set(part.index.tolist()) for part in (task.train, task.validation, task.test)]
        assert len(set.union(*parts)) == sum(map(len, parts)) == 4 * 11
    other = glyph_classes(101, 3, each=4)
    assert not torch.equal(other[0].test.x, tasks[0].test.x)
    with pytest.raises(ValueError, match="from 1 to 312 together, got 40 of 10"):
        glyph_classes(0, 40)


def test_turned_images_are_others_in_each_task_and_tested_on_the_same():
    plain, turned = mnist_rotated(100, (0, 90))
    assert torch.equal(rotate(turned.test.x, -90), plain.test.x)
    assert not set(plain.train.index.tolist()) & set(turned.train.index.tolist())
    assert len(mnist_rotated(100, range(0, 100, 10), per_task=None)[9].train) == 2500
    with pytest.raises(ValueError, match="from 1 to 2500, got 0"):
        mnist_rotated(0, per_task=0)


def test_splits_of_a_stream_can_be_any_that_have_labels():
    data = tabular("iris", 0)
    assert len(split_classes(Splits(data.train, data.validation, data.test), (1, 1, 1))) == 3
