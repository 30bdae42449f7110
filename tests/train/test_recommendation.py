"""Ranking learns what a user took; EASE is least squares without an item's own column."""

from types import SimpleNamespace

import pytest
import torch

from palimpsest.losses.ranking import bpr
from palimpsest.models.recommenders import MatrixFactorisation
from palimpsest.train.method import apply
from palimpsest.train.recommendation import EASE, Ranking


def test_the_weights_are_those_of_a_regression_for_each_item():
    taken = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    weights = EASE(2.0).edit(None, SimpleNamespace(taken=taken)).weights.detach().double()
    x = taken.double()
    for item in range(6):
        others = [other for other in range(6) if other != item]
        gram = x[:, others].T @ x[:, others] + 2.0 * torch.eye(5)
        expected = torch.linalg.solve(gram, x[:, others].T @ x[:, item])
        assert torch.allclose(weights[others, item], expected, atol=1e-4)
        assert weights[item, item] == 0


def test_what_was_taken_is_ranked_first():
    batch = {"user": torch.tensor([0, 1]), "item": torch.tensor([2, 0]), "negatives": torch.tensor([[0, 1], [1, 2]])}
    model = MatrixFactorisation(2, 3, width=4)
    apply(model, Ranking(), None, batches=[batch], steps=40, lr=0.1, progress=False)
    assert model(torch.tensor([0, 1])).argmax(1).tolist() == [2, 0]


def test_the_penalty_is_of_the_vectors_in_use():
    batch = {"user": torch.tensor([0]), "item": torch.tensor([2]), "negatives": torch.tensor([[0, 1]])}
    model = MatrixFactorisation(2, 3, width=4)
    terms = Ranking(bpr, penalty=0.5).loss(None, model, batch)
    user, items = model.users.weight[0], model.items.weight
    size = user.square().sum() + items[2].square().sum() + items[:2].square().sum() / 2
    assert float(terms["size"].detach()) == pytest.approx(0.5 * float(size.detach()), rel=1e-5)
    assert "size" not in Ranking().loss(None, model, batch)
