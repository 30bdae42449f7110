"""Scores of users and items: some items' are those of all, and what a user took adds up."""

import torch

from palimpsest.models.recommenders import ItemWeights, MatrixFactorisation


def test_some_scores_are_those_among_all():
    model = MatrixFactorisation(6, 9, width=4, seed=1)
    model.bias.data = torch.arange(9.0)
    users, items = torch.tensor([0, 5, 5]), torch.tensor([[0, 8], [3, 3], [2, 1]])
    assert torch.allclose(model.of(users, items), model(users).gather(1, items), atol=1e-5)


def test_vectors_are_the_seeds():
    one, same, other = (MatrixFactorisation(3, 4, seed=seed).users.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.requires_grad


def test_what_a_user_took_adds_up():
    model = ItemWeights(torch.tensor([[1.0, 0.0, 1.0]]), torch.arange(9.0).view(3, 3), torch.tensor([0.0, 0.0, 0.5]))
    assert model(torch.tensor([0])).tolist() == [[6.0, 8.0, 10.5]]
