import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from palimpsest.metrics import probes
from palimpsest.metrics.probes import (
    alignment,
    cka,
    effective_rank,
    few_label_accuracy,
    knn_accuracy,
    linear_probe,
    tolerance,
    uniformity,
    zero_shot,
)


def blobs(n=60, d=5, classes=3, noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.eye(classes, d)[y] + noise * torch.randn(n, d, generator=generator), y


def test_knn_is_the_loop_over_rows() -> None:
    (train, train_y), (test, test_y) = blobs(noise=0.8), blobs(noise=0.8, seed=1)
    for temperature in (0.1, None):
        right = 0
        for row, label in zip(test, test_y, strict=True):
            cosine = F.cosine_similarity(row[None], train)
            near = cosine.argsort(descending=True)[:7]
            votes = [0.0] * 3
            for i in near.tolist():
                votes[train_y[i]] += 1.0 if temperature is None else math.exp(float(cosine[i]) / temperature)
            right += int(np.argmax(votes)) == int(label)
        found = knn_accuracy(train, train_y, test, test_y, k=7, temperature=temperature)
        assert found == pytest.approx(right / 60, abs=1 / 60 if temperature is None else 0)  # ties


def test_linear_probe_reads_what_is_linear_and_no_noise() -> None:
    (train, train_y), (test, test_y) = blobs(), blobs(seed=1)
    assert linear_probe(train, train_y, test, test_y) == 1
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(2))
    assert linear_probe(noise, train_y, noise.flip(0), test_y) < 0.6
    assert linear_probe(1e-3 * train + 5, train_y, 1e-3 * test + 5, test_y) == 1  # standardised


def test_alignment_uniformity_tolerance_have_their_closed_forms() -> None:
    x = torch.eye(2)
    assert alignment(x, x.flip(0)) == pytest.approx(2)
    assert alignment(x, -3 * x, alpha=1) == pytest.approx(2)
    assert uniformity(x) == pytest.approx(-4)  # one pair at squared distance 2
    z, y = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, 0])
    assert tolerance(z, y) == pytest.approx((2 * math.sqrt(0.5) + 0) / 3)


def test_effective_rank_counts_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(100, 3, generator=generator)).Q
    basis = torch.linalg.qr(basis - basis.mean(0)).Q
    assert effective_rank(basis @ torch.randn(3, 3, generator=generator).svd().U @ torch.eye(3, 8)) == pytest.approx(3)
    assert effective_rank(torch.ones(5, 4)) == 1
    line = torch.randn(50, 1, generator=generator) @ torch.ones(1, 6)
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)


def test_cka_knows_rotations_and_tells_strangers() -> None:
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(400, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    assert cka(x, 5 * x @ rotation + 3) == pytest.approx(1)
    assert cka(x, other) < 0.1
    kernel = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, other)]
    direct = (kernel[0] * kernel[1]).sum() / (kernel[0].norm() * kernel[1].norm())
    assert cka(x, other) == pytest.approx(float(direct))


def test_uniformity_and_tolerance_are_means_over_pairs(monkeypatch) -> None:
    monkeypatch.setattr(probes, "BLOCK", 4)  # three blocks
    generator = torch.Generator().manual_seed(0)
    z, labels = F.normalize(torch.randn(11, 3, generator=generator, dtype=torch.float64), dim=1), torch.arange(11) % 3
    pairs = [(i, j) for i in range(11) for j in range(11) if i != j]
    spread = [math.exp(-2 * (z[i] - z[j]).square().sum()) for i, j in pairs]
    assert uniformity(z) == pytest.approx(math.log(sum(spread) / len(spread)), abs=1e-6)
    near = [(z[i] @ z[j]).item() for i, j in pairs if labels[i] == labels[j]]
    assert tolerance(z, labels) == pytest.approx(sum(near) / len(near))
    assert uniformity(torch.eye(2), t=200) == pytest.approx(-400)


def test_few_labels_are_the_probes_of_drawn_rows() -> None:
    (train, y), (test, test_y) = blobs(noise=0.6), blobs(noise=0.6, seed=1)
    found = few_label_accuracy(train, y, test, test_y, shots=2, draws=3, neighbours=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    linear, nearest = [], []
    for _ in range(3):
        order = torch.randperm(60, generator=generator).tolist()
        drawn = [[i for i in order if y[i] == label][:2] for label in range(3)]
        rows = torch.tensor(drawn).flatten()
        linear.append(linear_probe(train[rows], y[rows], test, test_y))
        nearest.append(knn_accuracy(train[rows], y[rows], test, test_y, k=3))
    assert found == pytest.approx({"linear probe": sum(linear) / 3, "kNN accuracy": sum(nearest) / 3})
    with pytest.raises(ValueError, match=r"shots must be from 1 to 20.* got 21 and 20"):
        few_label_accuracy(train, y, test, test_y, shots=21)


NAN, Y = torch.tensor([[1.0, 0.0], [math.nan, 1.0]]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: knn_accuracy(*blobs(), *blobs(), k=61), r"k must be in \[1, 60\].*got 61"),
        (lambda: knn_accuracy(*blobs(), *blobs(), temperature=0), "temperature must be above 0 or None, got 0"),
        (lambda: knn_accuracy(*blobs(), blobs()[0][:, :1], blobs()[1]), "equally wide"),
        (lambda: knn_accuracy(*blobs(), blobs()[0][:0], blobs()[1][:0]), "test must be .* at least one row"),
        (lambda: knn_accuracy(blobs()[0], blobs()[1] - 1, *blobs()), "labels must not be negative, got -1"),
        (lambda: knn_accuracy(NAN, Y, NAN, Y, k=1), "train must be finite, got nan in row 1"),
        (lambda: linear_probe(NAN, Y, NAN, Y), "train must be finite, got nan in row 1"),
        (lambda: zero_shot(NAN, torch.eye(2), Y), "img must be finite, got nan in row 1"),
        (lambda: zero_shot(torch.eye(2), NAN, Y), "class_texts must be finite, got nan in row 1"),
        (lambda: zero_shot(torch.eye(2), torch.eye(2), Y.float()), "whole numbers"),
        (lambda: alignment(NAN, NAN), "z1 must be finite"),
        (lambda: alignment(NAN[:0], NAN[:0]), "at least one row"),
        (lambda: uniformity(NAN), "finite"),
        (lambda: tolerance(NAN, Y), "finite"),
        (lambda: effective_rank(NAN), "finite"),
        (lambda: cka(NAN, NAN), "x must be finite"),
        (lambda: cka(torch.ones(3), torch.ones(3)), r"x must be \[n, d\]"),
        (lambda: linear_probe(torch.ones(3, 2), torch.ones(2), *blobs()), r"each of 3 rows, got \[2\]"),
        (lambda: alignment(torch.ones(2, 2), torch.ones(3, 2)), "same shape"),
        (lambda: uniformity(torch.ones(1, 2)), "at least two rows, got 1"),
        (lambda: tolerance(torch.ones(2, 2), torch.arange(2)), "a class with two rows"),
        (lambda: effective_rank(torch.ones(3)), r"got \[3\]"),
        (lambda: cka(torch.ones(3, 2), torch.ones(3, 2)), "must vary"),
    ],
)
def test_refusals(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
