"""Non-negative contrastive learning: the activation, the losses against plain ones, the factorisation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.nonneg_cl import NonNegative, ncl_loss, nonneg, spectral_loss
from palimpsest.contrast.nonneg_cl_measures import population_loss, semi_nmf_check
from palimpsest.contrast.nonneg_supervised import nonneg_ce, nonneg_logits


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=8))
def test_forward_is_relu_and_zeros_are_exact(values):
    z = torch.tensor(values)
    torch.testing.assert_close(nonneg(z), F.relu(z))
    assert torch.equal(nonneg(z) == 0, F.relu(z) == 0)
    assert (nonneg(z) >= 0).all()


def test_backward_is_that_of_gelu():
    z = torch.linspace(-3, 3, 13).double().requires_grad_()
    (ours,) = torch.autograd.grad(nonneg(z).sum(), z)
    (theirs,) = torch.autograd.grad(F.gelu(z).sum(), z)
    torch.testing.assert_close(ours, theirs)
    assert (ours[:6] != 0).all()  # where relu has no gradient
    assert torch.equal(NonNegative()(z), nonneg(z))


def naive(z1, z2, t):
    f = F.normalize(torch.cat([z1, z2]).relu(), dim=1)
    losses = []
    for i in range(len(f)):
        partner = (i + len(z1)) % len(f)
        others = torch.stack([f[i] @ f[j] / t for j in range(len(f)) if j != i])
        losses.append(others.logsumexp(0) - f[i] @ f[partner] / t)
    return torch.stack(losses).mean()


def test_ncl_is_the_loss_of_the_activated_features():
    z1, z2 = rand(6, 8, seed=2), rand(6, 8, seed=3)  # every row is active somewhere
    torch.testing.assert_close(ncl_loss(z1, z2, 0.2), naive(z1, z2, 0.2))
    torch.testing.assert_close(ncl_loss(z1, z2, 0.2, activation=F.relu), naive(z1, z2, 0.2))
    torch.testing.assert_close(ncl_loss(z1, z2, 0.2, activation=lambda z: z), nt_xent(z1, z2, 0.2))


def test_ncl_gradcheck():
    """Of the activation by finite differences where both are the same, that is with gelu instead."""
    inputs = tuple(rand(4, 5, seed=s).requires_grad_() for s in range(2))
    assert torch.autograd.gradcheck(lambda a, b: ncl_loss(a, b, 0.5, activation=F.gelu), inputs)
    assert torch.autograd.gradcheck(lambda a, b: spectral_loss(a, b, activation=F.gelu), inputs)


def test_ncl_gives_its_gradient_through_the_surrogate():
    z1, z2 = rand(4, 5).requires_grad_(), rand(4, 5, seed=1)
    (ours,) = torch.autograd.grad(ncl_loss(z1, z2, 0.5), z1)
    features = z1.detach().relu().requires_grad_()
    (outer,) = torch.autograd.grad(nt_xent(features, z2.relu(), 0.5), features)
    leaf = z1.detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.gelu(leaf).sum(), leaf)
    torch.testing.assert_close(ours, outer * slope)


def test_dead_rows_have_a_loss_and_a_gradient_that_is_bounded():
    z1, z2 = rand(4, 5), rand(4, 5, seed=1)
    z1[1] = -z1[1].abs()
    z1.requires_grad_()
    loss = ncl_loss(z1, z2)
    loss.backward()
    assert loss.isfinite()
    assert 0 < z1.grad[1].norm() < 1e4


def test_order_of_dimensions_does_not_matter_but_a_rotation_does():
    z1, z2 = rand(6, 4), rand(6, 4, seed=1)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(ncl_loss(z1[:, order], z2[:, order]), ncl_loss(z1, z2))
    turn = torch.linalg.qr(rand(4, 4, seed=2))[0]
    torch.testing.assert_close(nt_xent(z1 @ turn, z2 @ turn), nt_xent(z1, z2))
    assert (ncl_loss(z1 @ turn, z2 @ turn) - ncl_loss(z1, z2)).abs() > 1e-3


def test_spectral_loss_is_a_loop():
    z1, z2 = rand(5, 3), rand(5, 3, seed=1)
    f1, f2 = z1.relu(), z2.relu()
    others = [(f1[i] @ f2[j]) ** 2 for i in range(5) for j in range(5) if i != j]
    expected = -2 * (f1 * f2).sum(1).mean() + sum(others) / len(others)
    torch.testing.assert_close(spectral_loss(z1, z2), expected)


def test_supervised_variant():
    z, weight, labels = rand(5, 3), rand(4, 3, seed=1), torch.tensor([0, 1, 2, 3, 0])
    logits = z.relu() @ weight.relu().T
    torch.testing.assert_close(nonneg_logits(z, weight), logits)
    torch.testing.assert_close(nonneg_ce(z, weight, labels), F.cross_entropy(logits, labels))


def test_supervised_variant_gives_its_gradient_through_the_surrogate():
    z, weight, labels = rand(5, 3).requires_grad_(), rand(4, 3, seed=1).requires_grad_(), torch.tensor([0, 1, 2, 3, 0])
    ours = torch.autograd.grad(nonneg_ce(z, weight, labels), (z, weight))
    features, heads = (leaf.detach().relu().requires_grad_() for leaf in (z, weight))
    outer = torch.autograd.grad(F.cross_entropy(features @ heads.T, labels), (features, heads))
    for mine, theirs, leaf in zip(ours, outer, (z, weight), strict=True):
        (slope,) = torch.autograd.grad(F.gelu(leaf).sum(), leaf)
        torch.testing.assert_close(mine, theirs * slope)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int64])
def test_labels_may_be_of_any_whole_type(kind):
    z, weight, labels = rand(4, 3), rand(4, 3, seed=1), torch.tensor([0, 3, 1, 1])
    assert nonneg_ce(z, weight, labels.to(kind)) == nonneg_ce(z, weight, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [8, 2048])
def test_losses_of_half_precision_are_those_of_the_same_values_in_float32(dtype, n):
    z1, z2 = (rand(n, 64, seed=seed).to(dtype).requires_grad_() for seed in range(2))
    labels = torch.arange(n) % 8
    losses = (
        ncl_loss,
        spectral_loss,
        lambda a, b: nonneg_ce(a, b[:8], labels),
        lambda a, b: population_loss(a[:8], torch.ones(8, 8)),
    )
    for loss in losses:
        found = loss(z1, z2)
        torch.testing.assert_close(found, loss(z1.detach().float(), z2.detach().float()))
        (grad,) = torch.autograd.grad(found, z1)
        assert grad.dtype == dtype
        assert grad.isfinite().all()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert loss(z1.float(), z2.float()) == loss(z1.detach().float(), z2.detach().float())
            torch.testing.assert_close(loss(z1.float(), z2.float()), found)


def test_the_population_loss_is_a_factorisation():
    a = rand(6, 6).abs()
    a = a + a.T
    a = a / a.sum()
    d = a.sum(1)
    target = a / (d[:, None] * d).sqrt()
    f = rand(6, 3, seed=1).abs()
    whole = f * d.sqrt()[:, None]
    expected = (target - whole @ whole.T).square().sum() - target.square().sum()
    torch.testing.assert_close(population_loss(f, a), expected)


def test_the_population_loss_is_the_mean_of_the_spectral_one():
    """Over pairs that occur as often as A says; negatives i = j of one pair are left out by the batch loss."""
    counts = torch.tensor([[4, 1, 0], [1, 2, 1], [0, 1, 6]])
    rows, columns = counts.nonzero(as_tuple=True)
    times = counts[rows, columns]
    rows, columns = (index.repeat_interleave(times).repeat(500) for index in (rows, columns))
    f = rand(3, 2).abs()
    batch = spectral_loss(f[rows], f[columns])
    torch.testing.assert_close(batch, population_loss(f, counts.double()), rtol=2e-3, atol=2e-3)


def test_non_negative_minimisers_find_the_blocks_as_nmf_does():
    blocks = torch.block_diag(torch.ones(4, 4), 2 * torch.ones(3, 3), torch.ones(5, 5))
    factors = semi_nmf_check(blocks, 3)
    assert factors.ncl < 1e-4
    assert factors.nmf < 1e-4
    assert torch.equal((factors.features > 0.05).sum(1), torch.ones(12, dtype=torch.long))
    assert len({int(row.argmax()) for row in factors.features}) == 3


def test_a_symmetric_factorisation_is_no_better_than_a_free_one_and_close():
    points = rand(15, 2)
    a = torch.exp(-torch.cdist(points, points).square())
    factors = semi_nmf_check(a, 4)
    assert (factors.features >= 0).all()
    assert factors.nmf - 1e-6 < factors.ncl < factors.nmf + 0.02
    loss = population_loss(factors.features, a)
    for seed in range(3):  # a step in a random direction does not help
        other = (factors.features + 0.05 * rand(15, 4, seed=seed)).relu()
        assert population_loss(other, a) > loss


def test_the_check_takes_what_has_a_gradient_and_any_number_type():
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))
    expected = semi_nmf_check(blocks, 2, steps=50)
    for matrix in (blocks.clone().requires_grad_(), blocks.half(), blocks.long()):
        torch.testing.assert_close(semi_nmf_check(matrix, 2, steps=50).features, expected.features)


def test_errors_at_the_door():
    features = rand(4, 3)
    with pytest.raises(ValueError, match=r"eps must be above 0, got 0"):
        ncl_loss(features, features, eps=0)
    with pytest.raises(ValueError, match="temperature must be above 0, got -1"):
        ncl_loss(features, features, -1)
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        spectral_loss(features[:1], features[:1])
    with pytest.raises(ValueError, match=r"\[n, n\], got \[4, 3\]"):
        population_loss(features, features)
    with pytest.raises(ValueError, match="a row for each of the 4 of cooccurrence, got 1"):
        population_loss(features[:1], torch.ones(4, 4))
    with pytest.raises(ValueError, match="features must be finite, got nan"):
        population_loss(features * math.nan, torch.ones(4, 4))
    with pytest.raises(TypeError, match="features must be float32"):
        population_loss(torch.ones(4, 3, dtype=torch.long), torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"cooccurrence must be finite, got nan at \[0, 0\]"):
        semi_nmf_check(torch.eye(3) * math.nan, 2)
    with pytest.raises(TypeError, match="cooccurrence must be a tensor of numbers, got <class 'list'>"):
        semi_nmf_check([[1.0]], 1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        semi_nmf_check(torch.eye(3), 2, steps=0)
    with pytest.raises(ValueError, match=r"symmetric and not negative, got a minimum of -1"):
        semi_nmf_check(-torch.eye(3), 2)
    with pytest.raises(ValueError, match="row 1 has 0"):
        semi_nmf_check(torch.diag(torch.tensor([1.0, 0.0])), 1)
    with pytest.raises(ValueError, match="k must be from 1 to the 3 rows, got 5"):
        semi_nmf_check(torch.eye(3), 5)
    with pytest.raises(ValueError, match="must be finite"):
        ncl_loss(features * math.inf, features)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.full((4,), -100), ValueError, "labels must be from 0 to 4, got -100"),
        (torch.tensor([0, 1, 2, 5]), ValueError, "labels must be from 0 to 4, got 5"),
        (torch.tensor([0, 1, 2]), ValueError, r"one a row, got \[3\] for 4 rows"),
        (torch.tensor([True, False, True, True]), TypeError, "whole numbers, got torch.bool"),
        (torch.ones(4), TypeError, "whole numbers, got torch.float32"),
        ([0, 1, 2, 3], TypeError, "whole numbers, got list"),
    ],
)
def test_errors_of_labels(labels, error, message):
    with pytest.raises(error, match=message):
        nonneg_ce(rand(4, 3), rand(5, 3), labels)


def test_a_supervised_batch_without_rows_is_an_error():
    with pytest.raises(ValueError, match=r"one a row, got \[0\] for 0 rows"):
        nonneg_ce(rand(0, 3), rand(5, 3), torch.zeros(0, dtype=torch.long))
