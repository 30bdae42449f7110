"""Losses of embeddings against loops over pairs, triplets and coordinates."""

from itertools import product

import pytest
import torch

from palimpsest.losses import barlow_twins_loss, contrastive_loss, triplet_loss


def data(n=9, dim=5, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64), torch.arange(n) % classes


def test_triplet_loss_against_loops():
    e, y = data()
    values = []
    for a, p, n in product(range(9), repeat=3):
        if a != p and y[a] == y[p] and y[a] != y[n]:
            values.append((e[a] - e[p]).square().sum() - (e[a] - e[n]).square().sum() + 0.7)
    active = [v for v in values if v > 0]
    torch.testing.assert_close(triplet_loss(e, y, 0.7), sum(active) / len(active))


def test_contrastive_loss_against_loops():
    e, y = data()
    together, apart = [], []
    for i in range(9):
        for j in range(i):
            d = (e[i] - e[j]).norm()
            (together if y[i] == y[j] else apart).append(d**2 if y[i] == y[j] else max(3.0 - d, 0 * d) ** 2)
    expected = (sum(together) / len(together) + sum(apart) / len(apart)) / 2
    torch.testing.assert_close(contrastive_loss(e, y, 3.0), expected)


def test_barlow_twins_by_hand():
    (z1, _), (z2, _) = data(10, 3), data(10, 3, seed=1)
    correlation = torch.corrcoef(torch.cat([z1, z2], 1).T)[:3, 3:]
    expected = sum(
        (1 - correlation[a, b]) ** 2 if a == b else 0.1 * correlation[a, b] ** 2 for a in range(3) for b in range(3)
    )
    torch.testing.assert_close(barlow_twins_loss(z1, z2, 0.1, eps=1e-14), expected)


def test_barlow_twins_is_the_authors_batch_norm():
    (z1, _), (z2, _) = data(10, 3), data(10, 3, seed=1)
    normalise = torch.nn.BatchNorm1d(3, affine=False).double()  # with its eps of 1e-5
    correlation = normalise(z1 / 50).T @ normalise(z2 / 50) / 10
    weights = 5e-3 * (1 - torch.eye(3)) + torch.eye(3)
    expected = ((correlation - torch.eye(3)).square() * weights).sum()
    torch.testing.assert_close(barlow_twins_loss(z1 / 50, z2 / 50), expected)


PAIRWISE = [
    pytest.param(lambda e, y: triplet_loss(e, y, 0.5), id="triplet"),
    pytest.param(lambda e, y: contrastive_loss(e, y, 3.0), id="contrastive"),
]


@pytest.mark.parametrize("loss", PAIRWISE)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_refused(loss, value):
    e, y = data()
    e[3, 2] = value
    with pytest.raises(ValueError, match=rf"embeddings must be finite, got {value} at \[3, 2\]"):
        loss(e, y)


@pytest.mark.parametrize("loss", PAIRWISE)
def test_gradients_order_and_place(loss):
    e, y = data()
    assert torch.autograd.gradcheck(lambda e: loss(e, y), e.clone().requires_grad_())
    order = torch.randperm(9)
    for moved in (e[order] + 2, -e[order]):  # distances stay
        torch.testing.assert_close(loss(moved, y[order]), loss(e, y))
    torch.testing.assert_close(loss(e.bfloat16(), y).double(), loss(e, y), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("loss", PAIRWISE)
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 0, 0]])
def test_without_pairs_or_at_one_point(loss, labels):
    e = torch.ones(4, 3, requires_grad=True)
    value = loss(e, torch.tensor(labels))
    (grad,) = torch.autograd.grad(value, e)
    assert value.isfinite()
    assert grad.isfinite().all()


def test_barlow_twins_gradient_and_coordinates_that_do_not_vary():
    (z1, _), (z2, _) = data(6, 3), data(6, 3, seed=1)
    assert torch.autograd.gradcheck(barlow_twins_loss, (z1.requires_grad_(), z2.requires_grad_()))
    constant = torch.ones(4, 3, requires_grad=True)
    value = barlow_twins_loss(constant, constant)
    value.backward()
    assert value == 3
    assert constant.grad.isfinite().all()


def test_refuses():
    e, y = data()
    for loss in (triplet_loss, contrastive_loss):
        with pytest.raises(ValueError, match="margin must be above 0, got 0"):
            loss(e, y, margin=0)
        with pytest.raises(ValueError, match="one a row"):
            loss(e, y[:4])
    with pytest.raises(ValueError, match="off_diagonal"):
        barlow_twins_loss(e, e, -1.0)
