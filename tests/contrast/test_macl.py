"""Model-aware contrastive learning against loops, limits and decoupled contrastive learning."""

import math

import pytest
import torch
from tests.contrast.training import views
from torch.nn import functional as F

from palimpsest.contrast import nt_xent
from palimpsest.contrast.decoupled_cl import dcl_loss
from palimpsest.contrast.decoupled_cl_measures import npc_multiplier
from palimpsest.contrast.macl import adaptive_tau, alignment, macl_loss, uniformity_tolerance


def naive(z1, z2, tau0, alpha, a0, floor=0.0, reweight=True):
    """Every view by itself, with its softmax over the positive and the negatives; [2 batch]."""
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    n = len(z1)
    aligned = sum(float(z[i].detach() @ z[i + n].detach()) for i in range(n)) / n
    tau = tau0 * (1 + alpha * (aligned - a0))
    found = []
    for i in range(2 * n):
        scores = torch.stack([z[i] @ z[j] / tau for j in range(2 * n) if j != i])
        others = [j for j in range(2 * n) if j != i]
        probability = scores.softmax(0)
        positive = others.index((i + n) % (2 * n))
        negatives = sum(float(p.detach()) for j, p in enumerate(probability) if j != positive)
        found.append(-probability[positive].log() / (max(negatives, floor) if reweight else 1))
    return torch.stack(found)


@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize("a0", [0.0, 0.4])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_value_and_gradient_are_those_of_a_loop(alpha, a0, reweight):
    z1, z2 = views()
    plain = naive(z1, z2, 0.3, alpha, a0, 0.01, reweight)
    mine = macl_loss(z1, z2, 0.3, alpha, a0, reweight=reweight, reduction="none")
    torch.testing.assert_close(mine, plain)
    loss = macl_loss(z1, z2, 0.3, alpha, a0, reweight=reweight)
    torch.testing.assert_close(loss, plain.mean())
    torch.testing.assert_close(macl_loss(z1, z2, 0.3, alpha, a0, reweight=reweight, reduction="sum"), plain.sum())
    for one, other in zip(
        torch.autograd.grad(loss, (z1, z2)), torch.autograd.grad(plain.mean(), (z1, z2)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_closed_form():
    n, tau0, alpha = 4, 0.3, 0.5
    tau = tau0 * (1 + alpha)
    p = math.exp(1 / tau) / (math.exp(1 / tau) + 2 * (n - 1))
    assert macl_loss(torch.eye(n), torch.eye(n), tau0, alpha).item() == pytest.approx(-math.log(p) / (1 - p), rel=1e-5)


def test_without_alpha_and_reweighting_it_is_nt_xent():
    z1, z2 = views()
    assert torch.equal(macl_loss(z1, z2, 0.2, alpha=0.0, reweight=False), nt_xent(z1, z2, 0.2))


def test_with_a_floor_of_one_it_is_nt_xent_at_the_adaptive_temperature():
    z1, z2 = views()
    tau = adaptive_tau(alignment(z1, z2), 0.2)
    torch.testing.assert_close(macl_loss(z1, z2, 0.2, floor=1.0), nt_xent(z1, z2, tau))


def test_gradient_is_that_of_decoupled_contrastive_learning_at_the_same_temperature():
    z1, z2 = views()
    tau = adaptive_tau(alignment(z1, z2), 0.2)
    assert npc_multiplier(z1, z2, tau).min() > 0.01, "no view is at the floor"
    ours = torch.autograd.grad(macl_loss(z1, z2, 0.2), (z1, z2))
    theirs = torch.autograd.grad(dcl_loss(z1, z2, tau), (z1, z2))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_below_the_floor_the_gradient_fades_with_w():
    z1, z2 = views(noise=0.05)
    tau = adaptive_tau(alignment(z1, z2), 0.1)
    scaling = npc_multiplier(z1, z2, tau)
    row = int(scaling.argmin())
    assert scaling[row] < 0.01
    (ours,) = torch.autograd.grad(macl_loss(z1, z2, 0.1, reduction="none")[row], z2)
    (theirs,) = torch.autograd.grad(dcl_loss(z1, z2, tau, reduction="none")[row], z2)
    torch.testing.assert_close(ours, theirs * scaling[row] / 0.01)


def test_solved_samples_stay_finite():
    z = torch.eye(3, requires_grad=True)
    loss = macl_loss(z, z, 0.005)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_temperature_follows_the_alignment():
    assert adaptive_tau(0.0, 0.1, 0.5, 0.0) == pytest.approx(0.1)
    assert adaptive_tau(1.0, 0.1, 0.5, 0.0) == pytest.approx(0.15)
    assert adaptive_tau(0.8, 0.1, 0.5, 0.8) == pytest.approx(0.1)
    assert adaptive_tau(0.3, 0.1, 1.0, 0.8) == pytest.approx(0.05)
    rising = [adaptive_tau(torch.tensor(a)).item() for a in (-1.0, -0.2, 0.5, 1.0)]
    assert rising == sorted(rising)


def test_alignment_is_the_mean_cosine_without_gradient():
    z1, z2 = views()
    cosines = [
        float(F.normalize(a, dim=0) @ F.normalize(b, dim=0)) for a, b in zip(z1.detach(), z2.detach(), strict=True)
    ]
    found = alignment(z1, z2)
    assert found.item() == pytest.approx(sum(cosines) / len(cosines))
    assert not found.requires_grad
    assert alignment(z1, -3 * z1).item() == pytest.approx(-1)


def test_gradcheck():
    """At constant A and V: with A a constant (alpha 0) and V of the same value everywhere (floor 1)."""
    z1, z2 = views(4)
    assert torch.autograd.gradcheck(lambda a, b: macl_loss(a, b, 0.4, alpha=0.0, floor=1.0), (z1, z2))
    assert torch.autograd.gradcheck(lambda a, b: macl_loss(a, b, 0.4, alpha=0.0, reweight=False), (z1, z2))


def test_uniformity_and_tolerance_against_loops():
    features, labels = torch.randn(12, 4), torch.arange(12) % 3
    f = F.normalize(features, dim=1)
    spread, close = [], []
    for i in range(12):
        for j in range(12):
            if i != j:
                spread.append(math.exp(-2 * float((f[i] - f[j]).square().sum())))
                close += [float(f[i] @ f[j])] if labels[i] == labels[j] else []
    assert uniformity_tolerance(features, labels) == pytest.approx(
        (math.log(sum(spread) / len(spread)), sum(close) / len(close)), rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"tau0": 0.0}, "tau0 must be above 0, got 0.0"),
        ({"alpha": -0.1}, "alpha must be finite and not negative, got -0.1"),
        ({"alpha": float("inf")}, "alpha must be finite and not negative, got inf"),
        ({"a0": 4.0}, r"alignment 1, alpha 0.5 and a0 4.0 must be above 0, got -"),
        ({"floor": 0.0}, "floor must be above 0 and at most 1, got 0.0"),
        ({"floor": 1.5}, "floor must be above 0 and at most 1, got 1.5"),
        ({"reduction": "average"}, "reduction must be .* got 'average'"),
    ],
)
def test_refuses_parameters(bad, message):
    with pytest.raises(ValueError, match=message):
        macl_loss(torch.eye(3), torch.eye(3), **bad)


def test_the_alignment_of_no_pair_is_refused():
    with pytest.raises(ValueError, match="at least 1 pair, got 0"):
        alignment(torch.ones(0, 3), torch.ones(0, 3))


def test_features_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="embeddings must be finite, got nan"):
        uniformity_tolerance(torch.full((4, 2), torch.nan), torch.zeros(4, dtype=torch.long))


def test_value_is_that_of_the_published_code():
    z1 = torch.sin(torch.linspace(0, 7, 24, dtype=torch.float64) ** 2).reshape(6, 4)
    z2 = z1 + 0.3 * torch.sin(2 * torch.linspace(0, 7, 24, dtype=torch.float64) ** 2).reshape(6, 4)
    assert macl_loss(z1, z2, 0.5, 0.8, 0.0).item() == pytest.approx(1.90331576960643, abs=1e-6)
