"""Attacks against what is known of linear models, and which of them a defence withstands."""

import pytest
import torch
from torch import nn

from palimpsest.metrics.robustness import negative_margin, per_row_cross_entropy, pgd, scale_free, strong_attack


def linear(seed=0, classes=2):
    torch.manual_seed(seed)
    return nn.Linear(6, classes, bias=False)


def rows(n=40):
    draws = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(n, 6, generator=draws), torch.randint(2, (n,), generator=draws)


def test_of_two_linear_classes_the_attack_reaches_the_worst_point():
    """The margin falls by eps times the 1-norm of the difference of the classes' weights."""
    model, (x, labels) = linear(), rows()
    eps = 0.1
    moved = pgd(model, x, labels, eps, steps=10, generator=torch.Generator().manual_seed(0))
    sign = 1 - 2 * labels.float()
    apart = (model.weight[0] - model.weight[1]).detach()
    worst = -sign * (x @ apart) + eps * apart.abs().sum()
    torch.testing.assert_close(negative_margin(model(moved), labels).detach(), worst)
    stands = strong_attack(model, x, labels, eps, steps=10, restarts=1)
    assert stands.bool().tolist() == (worst < 0).tolist()


def test_changes_stay_within_their_bounds_and_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    x, labels = rows()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved = pgd(model, x, labels, 0.4, steps=5)
    assert (moved - x).abs().max() <= 0.4 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(pgd(model, x, labels, 0.0, steps=2), x)


def test_the_step_at_which_a_row_is_first_wrong():
    model, (x, labels) = linear(), rows()
    _, at_once = pgd(model, x, labels, 0.0, steps=4, first_wrong=True)
    wrong = model(x).argmax(1) != labels
    assert at_once.tolist() == [0 if w else 4 for w in wrong]
    _, later = pgd(model, x, labels, 0.3, steps=8, first_wrong=True, start=False)
    assert (later[~wrong] > 0).all()
    assert (later[~wrong] < 8).any()


def test_losses_of_attacks():
    logits, labels = torch.tensor([[5.0, 3.0, 1.0, 0.0], [0.0, 1.0, 4.0, 2.0]]), torch.tensor([0, 1])
    assert negative_margin(logits, labels).tolist() == [-2.0, 3.0]
    assert scale_free(logits, labels).tolist() == pytest.approx([-2 / 4, 3 / 3])
    torch.testing.assert_close(scale_free(7 * logits, labels), scale_free(logits, labels))
    assert scale_free(logits, labels, torch.tensor([2, 2])).tolist() == pytest.approx([-4 / 4.5, 3 / 3.5])
    torch.testing.assert_close(per_row_cross_entropy(logits, labels), -logits.log_softmax(1)[[0, 1], [0, 1]])
    with pytest.raises(ValueError, match="eps must not be negative"):
        pgd(linear(), *rows(), -0.1)


def test_the_strong_attack_is_not_fooled_by_gradients_that_vanish():
    """Logits so large that cross-entropy's gradient is exactly 0: only the margin still shows the way."""

    class Loud(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 1e6 * self.inner(x)

    model, (x, labels) = Loud(linear()), rows()
    right = model(x).argmax(1) == labels
    x, labels = x[right], labels[right]
    fooled = model(pgd(model, x, labels, 0.3, steps=10, start=False)).argmax(1) == labels
    assert fooled.float().mean() > strong_attack(model, x, labels, 0.3, steps=10, restarts=1).mean()
