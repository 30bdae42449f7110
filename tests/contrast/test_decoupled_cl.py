"""Decoupled contrastive learning against loops, closed forms and the coupling that it removes."""

import math

import pytest
import torch
from tests.contrast.training import views
from torch.nn import functional as F

from palimpsest.contrast import nt_xent
from palimpsest.contrast.decoupled_cl import dcl_loss, dcl_queue_loss, dclw_loss, positive_weights
from palimpsest.contrast.decoupled_cl_measures import npc_multiplier

WRONG = (dcl_loss, dclw_loss, npc_multiplier, positive_weights)


def naive(z1, z2, tau, weights=None):
    """Every view by itself, its negatives collected one by one; [2 batch]."""
    both = [[F.normalize(row, dim=0) for row in z] for z in (z1, z2)]
    found = []
    for own, other in ((0, 1), (1, 0)):
        for i in range(len(z1)):
            anchor = both[own][i]
            negatives = [both[side][j] for j in range(len(z1)) if j != i for side in (0, 1)]
            assert len(negatives) == 2 * (len(z1) - 1)
            positive = (anchor @ both[other][i]) / tau * (1 if weights is None else weights[i])
            found.append(-positive + torch.stack([anchor @ z / tau for z in negatives]).exp().sum().log())
    return torch.stack(found)


@pytest.mark.parametrize("tau", [0.1, 0.7])
@pytest.mark.parametrize("n", [2, 5])
def test_value_and_gradient_are_those_of_a_loop(n, tau):
    z1, z2 = views(n)
    torch.testing.assert_close(dcl_loss(z1, z2, tau, reduction="none"), naive(z1, z2, tau))
    loss, plain = dcl_loss(z1, z2, tau), naive(z1, z2, tau).mean()
    torch.testing.assert_close(loss, plain)
    for mine, expected in zip(torch.autograd.grad(loss, (z1, z2)), torch.autograd.grad(plain, (z1, z2)), strict=True):
        torch.testing.assert_close(mine, expected)


def test_closed_forms():
    n, tau = 4, 0.3
    apart = torch.eye(n)
    assert dcl_loss(apart, apart, tau).item() == pytest.approx(-1 / tau + math.log(2 * (n - 1)), rel=1e-5)
    same = torch.ones(n, 2)
    assert dcl_loss(same, same, tau).item() == pytest.approx(math.log(2 * (n - 1)), rel=1e-5)
    npc = 1 / (1 + math.exp(1 / tau) / (2 * (n - 1)))
    assert npc_multiplier(apart, apart, tau).tolist() == pytest.approx([npc] * 2 * n, rel=1e-5)


def test_infonce_is_the_softplus_of_the_decoupled_loss():
    z1, z2 = views()
    decoupled, coupled = (loss(z1, z2, 0.2, reduction="none") for loss in (dcl_loss, nt_xent))
    torch.testing.assert_close(coupled, F.softplus(decoupled))
    torch.testing.assert_close(npc_multiplier(z1, z2, 0.2), decoupled.sigmoid().detach())


def test_infonces_gradient_is_the_decoupled_one_times_the_multiplier_for_every_view():
    z1, z2 = views()
    decoupled, coupled = (loss(z1, z2, 0.2, reduction="none") for loss in (dcl_loss, nt_xent))
    for i, factor in enumerate(npc_multiplier(z1, z2, 0.2)):
        ours = torch.autograd.grad(decoupled[i], (z1, z2), retain_graph=True)
        theirs = torch.autograd.grad(coupled[i], (z1, z2), retain_graph=True)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(other, factor * one)


def test_gradient_on_the_positive_has_factor_one_and_negatives_are_normalised():
    """On unit-norm embeddings, before the normalisation: -z+ / tau and the softmax over the negatives alone."""
    z1, z2 = (F.normalize(z.detach(), dim=1) for z in views())
    tau, anchor = 0.2, z1[0].clone().requires_grad_()
    negatives = torch.cat([z1[1:], z2[1:]])
    share = (negatives @ anchor.detach() / tau).softmax(0)
    expected = (share @ negatives - z2[0]) / tau
    tangent = expected - (expected @ z1[0]) * z1[0]
    loss = dcl_loss(torch.cat([anchor[None], z1[1:]]), z2, tau, reduction="none")[0]
    (grad,) = torch.autograd.grad(loss, anchor)
    torch.testing.assert_close(grad, tangent)


def test_multiplier_grows_with_the_batch_and_falls_as_the_task_gets_easy():
    z1, z2 = views(64, 8)
    averages = [npc_multiplier(z1[:n], z2[:n], 0.2).mean() for n in (2, 8, 64)]
    assert averages == sorted(averages)
    assert npc_multiplier(torch.eye(4), torch.eye(4), 0.05).max() < 1e-7
    assert npc_multiplier(torch.eye(4), torch.eye(4), 0.05).min() > 0
    assert npc_multiplier(torch.eye(4), -torch.eye(4), 0.05).min() > 1 - 1e-6
    assert not npc_multiplier(z1, z2).requires_grad


@pytest.mark.parametrize("sigma", [0.3, 0.5, 2.0])
def test_weighted_value_is_that_of_a_loop(sigma):
    z1, z2 = views()
    p = F.cosine_similarity(z1, z2).detach()
    weights = torch.tensor([2 - math.exp(x / sigma) / (sum(math.exp(y / sigma) for y in p) / len(p)) for x in p])
    torch.testing.assert_close(positive_weights(z1, z2, sigma), weights.double())
    mine, plain = dclw_loss(z1, z2, 0.2, sigma), naive(z1, z2, 0.2, weights.double()).mean()
    torch.testing.assert_close(mine, plain)
    for one, other in zip(torch.autograd.grad(mine, (z1, z2)), torch.autograd.grad(plain, (z1, z2)), strict=True):
        torch.testing.assert_close(one, other)


def test_weights_average_one_favour_far_pairs_and_get_no_gradient():
    z1, z2 = views(9)
    weights = positive_weights(z1, z2)
    torch.testing.assert_close(weights.mean(), torch.ones((), dtype=torch.float64))
    by_closeness = weights[F.cosine_similarity(z1, z2).argsort()]
    assert (by_closeness[:-1] >= by_closeness[1:]).all()
    assert weights.max() <= 2
    assert not weights.requires_grad


def test_with_a_large_sigma_the_weights_vanish():
    z1, z2 = views()
    torch.testing.assert_close(dclw_loss(z1, z2, 0.2, sigma=1e9), dcl_loss(z1, z2, 0.2))


def test_queue_form_is_that_of_a_loop():
    query, key = views()
    queue = torch.randn(7, 3, dtype=torch.float64)
    q, k, u = (F.normalize(z, dim=1) for z in (query, key, queue))
    plain = torch.stack([-q[i] @ k[i] / 0.2 + torch.logsumexp(u @ q[i] / 0.2, 0) for i in range(5)])
    torch.testing.assert_close(dcl_queue_loss(query, key, queue, 0.2, reduction="none"), plain)
    torch.testing.assert_close(dcl_queue_loss(query, key, queue, 0.2), plain.mean())
    torch.testing.assert_close(dcl_queue_loss(query[:1], key[:1], queue, 0.2), plain[0])
    (of_others,) = torch.autograd.grad(dcl_queue_loss(query, key, queue, 0.2, reduction="none")[0], key)
    assert of_others[1:].abs().max() == 0, "the other rows' keys are no negatives"


def test_gradcheck():
    z1, z2 = views(4)
    queue = torch.randn(3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: dcl_loss(a, b, 0.4), (z1, z2))
    assert torch.autograd.gradcheck(lambda a, b: dcl_queue_loss(a, b, queue, 0.4), (z1, z2))


def test_temperature_may_be_learned():
    z1, z2 = views()
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: dcl_loss(z1.detach(), z2.detach(), t), (tau,))
    assert torch.autograd.gradcheck(lambda t: dclw_loss(z1.detach(), z2.detach(), t), (tau,))


@pytest.mark.parametrize("function", WRONG)
def test_refuses(function):
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        function(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"equally many rows, got \[3, 2\]"):
        function(torch.ones(3, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="same width"):
        function(torch.ones(3, 3), torch.ones(3, 2))
    with pytest.raises(TypeError, match="int64"):
        function(torch.ones(3, 3).long(), torch.ones(3, 3))
    with pytest.raises(ValueError, match="key must be finite, got nan"):
        function(torch.ones(3, 3), torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        function(torch.ones(3, 3), torch.ones(3, 3), 0.0)


def test_refuses_a_bad_sigma_reduction_and_queue():
    z = torch.eye(3)
    with pytest.raises(ValueError, match=r"sigma must be above 0, got -1"):
        dclw_loss(z, z, 0.1, sigma=-1.0)
    with pytest.raises(ValueError, match="reduction"):
        dcl_loss(z, z, reduction="average")
    with pytest.raises(ValueError, match="queue is empty"):
        dcl_queue_loss(z, z, torch.ones(0, 3))
    with pytest.raises(ValueError, match="same width"):
        dcl_queue_loss(z, z, torch.ones(4, 2))


def test_what_the_queue_and_the_temperature_may_be():
    q = torch.eye(3)
    with pytest.raises(ValueError, match=r"queue must be \[rows, d\], got \[3, 2, 3\]"):
        dcl_queue_loss(q, q, torch.ones(3, 2, 3))
    with pytest.raises(TypeError, match="queue must be a tensor, got NoneType"):
        dcl_queue_loss(q, q, None)
    with pytest.raises(ValueError, match="temperature must have one element"):
        dclw_loss(q, q, torch.ones(6))
