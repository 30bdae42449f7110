"""Debiased contrastive learning against loops over its formula, NT-Xent and labels."""

import math

import pytest
import torch
from tests.contrast.training import losses_while_training
from torch.nn import functional as F

from palimpsest.contrast.debiased_cl import debiased_loss, hard_debiased_loss
from palimpsest.contrast.debiased_cl_measures import bias_gap, log_negative_term, oracle_loss
from palimpsest.contrast.info_nce import nt_xent


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(7, 5, generator=generator).double()
    return tuple(base + 0.4 * torch.randn(7, 5, generator=generator).double() for _ in range(4))


def naive(z1, z2, tau_plus, t, more=(), beta=0.0):
    """Eq. 7 and 8, anchor by anchor and pair by pair."""
    batch, n = len(z1), 2 * len(z1) - 2
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    more = [F.normalize(view, dim=1) for view in more]
    losses = []
    for i in range(2 * batch):
        partner = (i + batch) % (2 * batch)
        positive = torch.exp(z[i] @ z[partner] / t)
        positives = [positive] + [torch.exp(z[i] @ view[i % batch] / t) for view in more]
        scores = [z[i] @ z[j] / t for j in range(2 * batch) if j not in (i, partner)]
        weights = [torch.exp(beta * s) for s in scores]
        mean = sum(w * torch.exp(s) for w, s in zip(weights, scores, strict=True)) / sum(weights)
        g = (mean - tau_plus * sum(positives) / len(positives)) / (1 - tau_plus)
        g = torch.maximum(g, torch.tensor(math.exp(-1 / t), dtype=g.dtype))
        losses.append(-torch.log(positive / (positive + n * g)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("tau_plus", [0.0, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("t", [0.2, 0.5, 2.0])
def test_it_is_the_formula(views, tau_plus, t):
    torch.testing.assert_close(debiased_loss(*views[:2], tau_plus, t), naive(*views[:2], tau_plus, t))


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_more_positives_and_hard_negatives(views, beta):
    z1, z2, *more = views
    found = hard_debiased_loss(z1, z2, beta, 0.1, 0.5, more=torch.stack(more))
    torch.testing.assert_close(found, naive(z1, z2, 0.1, 0.5, more, beta))


def test_gradients_are_those_of_the_formula(views):
    for beta in (0.0, 1.0):
        z1, z2 = (view.clone().requires_grad_() for view in views[:2])
        ours = torch.autograd.grad(hard_debiased_loss(z1, z2, beta, 0.1, 0.5), (z1, z2))
        theirs = torch.autograd.grad(naive(z1, z2, 0.1, 0.5, beta=beta), (z1, z2))
        torch.testing.assert_close(ours, theirs)


def test_without_a_prior_it_is_nt_xent(views):
    for t in (0.05, 0.5):
        torch.testing.assert_close(debiased_loss(*views[:2], 0.0, t), nt_xent(*views[:2], t))


def test_strips_give_the_same(views):
    torch.testing.assert_close(debiased_loss(*views[:2], rows=3), debiased_loss(*views[:2]))


def test_gradcheck(views):
    z1, z2 = (view[:4].clone().requires_grad_() for view in views[:2])
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: debiased_loss(*inputs[:2], 0.1, inputs[2]), (z1, z2, t))
    assert torch.autograd.gradcheck(lambda *inputs: hard_debiased_loss(*inputs[:2], 1.0, 0.1, inputs[2]), (z1, z2, t))
    labels = torch.tensor([0, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda *inputs: oracle_loss(*inputs[:2], labels, inputs[2]), (z1, z2, t))


def test_the_floor_is_the_least_possible_sum_and_stops_the_gradient_of_negatives():
    z1 = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    floor = math.log(2) - 1 / 0.5
    found = log_negative_term(z1, z1, 0.5, 0.5)
    torch.testing.assert_close(found, torch.full_like(found, floor))
    (gradient,) = torch.autograd.grad(found.sum(), z1)
    assert gradient.abs().max() == 0


def test_the_correction_lowers_the_loss_and_can_not_be_stronger_than_the_floor(views):
    losses = torch.stack([debiased_loss(*views[:2], prior) for prior in (0.0, 0.05, 0.1, 0.2, 0.999)])
    assert (losses[:-1] > losses[1:]).all()
    z = F.normalize(torch.cat(views[:2]), dim=1)
    positive = (z[:7] * z[7:]).sum(1) / 0.5
    least = F.softplus(math.log(12) - 2 - positive).mean()
    torch.testing.assert_close(losses[-1], least)


def test_low_temperatures_do_not_overflow(views):
    z1, z2 = (view.float().requires_grad_() for view in views[:2])
    loss = hard_debiased_loss(z1, z2, 2.0, 0.1, 0.002)
    loss.backward()
    assert loss.isfinite()
    assert z1.grad.isfinite().all()


def test_a_prior_that_leaves_next_to_nothing_has_a_gradient(views):
    z = views[0][:1].float().repeat(5, 1).requires_grad_()  # all alike: the share taken off is tau_plus
    for prior in (0.5, 1 - 1e-6, 1 - 1e-7):
        (gradient,) = torch.autograd.grad(debiased_loss(z, z, prior), z)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("rescaled", [False, True])
def test_the_oracle_is_a_loop_over_true_negatives(views, rescaled):
    z1, z2 = views[:2]
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 0])
    z, y = F.normalize(torch.cat([z1, z2]), dim=1), torch.cat([labels, labels])
    losses = []
    for i in range(14):
        positive = torch.exp(z[i] @ z[(i + 7) % 14] / 0.5)
        true = torch.stack([torch.exp(z[i] @ z[j] / 0.5) for j in range(14) if y[j] != y[i]])
        losses.append(-torch.log(positive / (positive + (12 * true.mean() if rescaled else true.sum()))))
    found = oracle_loss(z1, z2, labels, 0.5, rescaled=rescaled)
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_the_oracle_with_a_class_a_sample_is_nt_xent(views):
    torch.testing.assert_close(oracle_loss(*views[:2], torch.arange(7)), nt_xent(*views[:2], 0.5))


def test_an_anchor_without_true_negatives_has_no_loss():
    z = torch.randn(4, 3).requires_grad_()
    loss = oracle_loss(z, z, torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert z.grad.abs().max() == 0


def test_the_gap_closes_where_views_are_spread_as_their_class():
    """Positives drawn anew from the class, as the derivation assumes, and classes drawn with the prior."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(5, 8, generator=generator), dim=1)
    labels = torch.arange(1000) % 5
    z1, z2 = (centres[labels] + 0.3 * torch.randn(1000, 8, generator=generator) for _ in range(2))
    gap = bias_gap(z1, z2, labels, tau_plus=0.2)
    assert gap.biased > 0.1 * gap.true
    assert gap.debiased.abs() < 0.1 * gap.biased


def test_views_nearer_than_their_class_are_corrected_too_far():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 5
    z = F.one_hot(labels).float() + 0.4 * torch.randn(200, 5, generator=generator)
    gap = bias_gap(z, z, labels, tau_plus=0.2)
    assert gap.biased > 0
    assert gap.debiased < 0


def test_the_gap_is_a_loop(views):
    z1, z2 = views[:2]
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 0])
    z, y = F.normalize(torch.cat([z1, z2]), dim=1), torch.cat([labels, labels])
    e = torch.exp(z @ z.T / 0.5)
    biased, debiased, true = [], [], []
    for i in range(14):
        partner = (i + 7) % 14
        everyone = torch.stack([e[i, j] for j in range(14) if j not in (i, partner)]).mean()
        biased.append(everyone)
        debiased.append(((everyone - 0.1 * e[i, partner]) / 0.9).clamp(min=math.exp(-2)))
        true.append(torch.stack([e[i, j] for j in range(14) if y[j] != y[i]]).mean())
    biased, debiased, true = (torch.stack(values).mean() for values in (biased, debiased, true))
    torch.testing.assert_close(tuple(bias_gap(z1, z2, labels)), (biased - true, debiased - true, true))


def test_in_a_plain_training_loop_the_oracle_lowers_its_loss():
    history = losses_while_training(lambda *z: oracle_loss(*z, torch.arange(32) % 4))
    assert sum(history[-5:]) < 0.9 * sum(history[:5])


@pytest.mark.parametrize("loss", [debiased_loss, log_negative_term])
def test_one_temperature_for_all(views, loss):
    z1, z2 = views[:2]
    torch.testing.assert_close(loss(z1, z2, temperature=torch.full((1, 1), 0.4)), loss(z1, z2, temperature=0.4))
    with pytest.raises(ValueError, match=r"temperature must have one element, got \[7\]"):
        loss(z1, z2, temperature=torch.ones(7))


def test_a_gap_that_float64_cannot_hold(views):
    with pytest.raises(ValueError, match="temperature must be above 1/700"):
        bias_gap(*views[:2], torch.arange(7) % 2, temperature=0.001)


def test_errors_at_the_door(views):
    z1, z2 = views[:2]
    with pytest.raises(ValueError, match=r"tau_plus must be from 0 to below 1, got 1\.0"):
        debiased_loss(z1, z2, 1.0)
    with pytest.raises(ValueError, match="tau_plus must be from 0 to below 1, got nan"):
        debiased_loss(z1, z2, math.nan)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        debiased_loss(z1, z2, 0.1, 0)
    with pytest.raises(ValueError, match="beta must be at least 0 and finite, got -1"):
        hard_debiased_loss(z1, z2, -1)
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        oracle_loss(z1[:1], z2[:1], torch.tensor([0]))
    with pytest.raises(ValueError, match=r"more must be \[views, 7, 5\], got \[7, 5\]"):
        debiased_loss(z1, z2, more=z1)
    with pytest.raises(ValueError, match=r"labels must be one a row, got \[6\] for 7 rows"):
        oracle_loss(z1, z2, torch.zeros(6, dtype=torch.long))
    with pytest.raises(TypeError, match=r"labels must be a tensor of whole numbers, got torch\.float32"):
        bias_gap(z1, z2, torch.zeros(7))
    with pytest.raises(ValueError, match="two classes, got only 3"):
        bias_gap(z1, z2, torch.full((7,), 3))


def test_value_is_that_of_the_published_code():
    z1 = torch.sin(torch.linspace(0, 7, 24, dtype=torch.float64) ** 2).reshape(6, 4)
    z2 = z1 + 0.3 * torch.sin(2 * torch.linspace(0, 7, 24, dtype=torch.float64) ** 2).reshape(6, 4)
    assert debiased_loss(z1, z2, 0.1, 0.5).item() == pytest.approx(0.496739347043061, abs=1e-6)
