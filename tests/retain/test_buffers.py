"""Buffers: who is kept with which probability, against loops and counts, and what they weigh."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, Examples, class_balanced, herding, reservoir, ring, rows_within
from palimpsest.tasks.mnist import mnist


def rows(labels, first=0):
    labels = torch.as_tensor(labels)
    return Examples({"x": torch.arange(first, first + len(labels)), "labels": labels})


def test_every_row_that_passed_by_is_as_likely_to_be_in_the_reservoir():
    generator, counts = torch.Generator().manual_seed(0), Counter()
    for _ in range(1500):
        buffer = Buffer(capacity=5)
        for first, n in ((0, 3), (3, 9), (12, 1), (13, 7)):  # whatever the batches
            buffer = reservoir(buffer, rows([0] * n, first), generator)
        assert len(buffer) == 5
        assert buffer.seen == {0: 20}
        counts.update(buffer.columns["x"].tolist())
    assert chisquare([counts[i] for i in range(20)]).pvalue > 0.01


def test_the_reservoir_is_the_loop_of_the_paper():
    drawn = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = []
    for s, u in enumerate(drawn.tolist()):
        if s < 6:
            expected.append(s)
        elif (place := int(u * (s + 1))) < 6:
            expected[place] = s
    kept = reservoir(Buffer(capacity=6), rows([0] * 40), torch.Generator().manual_seed(1))
    assert kept.columns["x"].tolist() == expected


def test_classes_share_alike_and_within_a_class_every_row_is_as_likely():
    generator, counts = torch.Generator().manual_seed(0), Counter()
    for _ in range(1000):
        buffer = class_balanced(Buffer(capacity=12), rows([0] * 20 + [1] * 2), generator)
        assert buffer.labels.bincount().tolist() == [10, 2]
        buffer = class_balanced(buffer, rows([0] * 10 + [2] * 20, 22), generator)
        assert buffer.labels.bincount().tolist() == [5, 2, 5]
        counts.update(buffer.columns["x"].tolist())
    assert counts[20] == counts[21] == 1000
    assert chisquare([counts[i] for i in (*range(20), *range(22, 32))]).pvalue > 0.01
    assert chisquare([counts[i] for i in range(32, 52)]).pvalue > 0.01


def test_a_ring_keeps_the_last_of_every_task_and_refuses_more_than_it_holds():
    buffer = Buffer(capacity=4)
    for task in range(2):
        part = Examples({**rows([0] * 5, 5 * task).columns, "task": torch.full((5,), task)})
        buffer = ring(buffer, part, 2)
    assert buffer.columns["x"].tolist() == [3, 4, 8, 9]
    with pytest.raises(ValueError, match="3 groups of 2 rows exceed the capacity of 4"):
        ring(buffer, Examples({**rows([0]).columns, "task": torch.tensor([2])}), 2)


def test_herding_is_the_naive_loop_and_its_beginning_is_that_of_a_longer_list():
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    phi = F.normalize(features.double(), dim=1)
    taken = []
    for k in range(1, 8):
        gap = {
            i: (phi.mean(0) - (phi[i] + sum(phi[j] for j in taken)) / k).norm().item()
            for i in range(30)
            if i not in taken
        }
        taken.append(min(gap, key=gap.get))
    assert herding(features, 7).tolist() == taken
    assert herding(features, 3).tolist() == taken[:3]
    assert sorted(herding(features, 99).tolist()) == list(range(30))


def test_a_draw_is_a_function_of_buffer_and_generator_and_holds_no_row_twice():
    buffer = reservoir(Buffer(capacity=20), rows([0] * 50), torch.Generator().manual_seed(0))
    one, same = (buffer.draw(8, torch.Generator().manual_seed(3))["x"] for _ in range(2))
    assert torch.equal(one, same)
    assert len(one.unique()) == 8
    assert len(buffer.draw(99, torch.Generator())["x"].unique()) == 20


def test_bytes_are_those_of_every_column_and_old_buffers_stay_as_they_are():
    images = Examples.of(mnist(100, train=60).train, task=3)
    assert images.nbytes == 60 * (14 * 14 * 4 + 8 + 8)
    assert set(images.columns) == {"pixel_values", "labels", "task"}
    assert rows_within(images.nbytes - 1, images) == 59
    with pytest.raises(ValueError, match="a row weighs 800 bytes, more than the 700"):
        rows_within(700, images)
    before = reservoir(Buffer(capacity=10), images, torch.Generator().manual_seed(0))
    kept = before.columns["pixel_values"].clone()
    for change in (reservoir, class_balanced):
        change(before, images, torch.Generator().manual_seed(1))
    assert torch.equal(before.columns["pixel_values"], kept)
    assert before.nbytes == 10 * 800
