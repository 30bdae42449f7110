"""The Z-loss: what it does not change with, its closed forms, and a layer of many classes against the dense one."""

import pytest
import torch

from palimpsest.classify.z_loss import standard_score, taylor_cross_entropy, topk_error, z_loss
from palimpsest.classify.z_loss_output import SphericalOutput


def rows(batch=16, classes=12, dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, generator=draws, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(classes, (batch,), generator=draws)


def test_shift_and_scale_change_nothing():
    logits, labels = rows()
    torch.testing.assert_close(z_loss(7.5 * logits - 40, labels), z_loss(logits, labels))


def test_it_is_the_published_expression():
    """pascal20100/factored_output_layer, example/timing_example.py: softplus((mu - o_y) / (sigma + eps)) of s and q
    (a = 1, b = 0), written anew. Value and gradient to 1e-12."""
    logits, labels = rows()
    mean = logits.sum(1) / 12
    deviation = (logits.square().sum(1) / 12 - mean**2).sqrt()
    theirs = ((mean - logits[torch.arange(16), labels]) / (deviation + 1e-12)).exp().log1p().mean()
    ours = z_loss(logits, labels, a=1.0, b=0.0)
    assert abs(ours.item() - theirs.item()) < 1e-12
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_no_score_is_above_the_root_of_the_other_classes():
    one_hot = torch.eye(12, dtype=torch.float64)
    variance, mean = torch.var_mean(one_hot, 1, correction=0)
    torch.testing.assert_close(
        standard_score(one_hot.diagonal(), mean, variance), torch.full((12,), 11.0).double().sqrt()
    )
    logits, labels = rows(batch=500)
    variance, mean = torch.var_mean(logits, 1, correction=0)
    assert standard_score(logits.gather(1, labels[:, None])[:, 0], mean, variance).abs().max() < 11**0.5


def test_as_a_grows_the_loss_becomes_a_hinge():
    logits, labels = rows()
    variance, mean = torch.var_mean(logits, 1, correction=0)
    z = standard_score(logits.gather(1, labels[:, None])[:, 0], mean, variance)
    torch.testing.assert_close(z_loss(logits, labels, a=1e4, b=1.0), (1 - z).clamp(min=0).mean(), rtol=1e-3, atol=1e-4)


def test_gradients_of_both_spherical_losses_and_equal_outputs():
    logits, labels = rows(batch=3)
    assert torch.autograd.gradcheck(lambda o: z_loss(o, labels, a=0.5), logits)
    assert torch.autograd.gradcheck(lambda o: taylor_cross_entropy(o, labels), logits)
    flat = torch.zeros(2, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(z_loss(flat, torch.tensor([0, 1])), flat)
    assert gradient.isfinite().all()
    half, labels = rows(dtype=torch.float16)
    assert z_loss(half, labels).dtype == torch.float32


def test_the_errors_at_k_are_those_of_a_sorted_list():
    logits, labels = rows(batch=40)
    found = topk_error(logits, labels, ks=[1, 3, 12])
    for k, error in found.items():
        inside = [
            int(label) in row.argsort(descending=True)[:k].tolist() for row, label in zip(logits, labels, strict=True)
        ]
        assert error == pytest.approx(1 - sum(inside) / 40)
    assert topk_error(torch.zeros(1, 3), torch.tensor([0]), ks=[1, 3]) == {1: 1.0, 3: 0.0}  # ties do not count as found
    with pytest.raises(ValueError, match="ks must be from 1 to 12"):
        topk_error(logits, labels, ks=[13])


@pytest.mark.parametrize("batch", [1, 5])
def test_the_layer_is_the_dense_one_over_200_steps(batch):
    """Losses, gradients of what lies below, weights, and what is kept of them; labels that repeat in a batch too."""
    draws = torch.Generator().manual_seed(0)
    layer = SphericalOutput(6, 9, a=0.7, std=0.5, generator=draws).double()
    layer.refactor()
    dense = layer.weight().clone().requires_grad_()
    for _ in range(200):
        h = torch.randn(batch, 6, generator=draws, dtype=torch.float64, requires_grad=True)
        labels = torch.randint(9, (batch,), generator=draws)
        loss = z_loss(h @ dense.T, labels, a=0.7)
        gradient, below = torch.autograd.grad(loss, (dense, h))
        own, own_below = layer.step(h, labels, lr=0.1)
        torch.testing.assert_close(own, loss.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(own_below, below, rtol=0, atol=1e-10)
        dense = (dense - 0.1 * gradient).detach().requires_grad_()
    torch.testing.assert_close(layer.weight(), dense.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.Q, dense.detach().T @ dense.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(layer.inverse @ layer.U, torch.eye(6).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(layer(h.detach()), h.detach() @ dense.detach().T)


def test_a_badly_conditioned_factor_is_started_anew_and_the_weights_stay():
    layer = SphericalOutput(3, 6, std=1.0, limit=2.0, generator=torch.Generator().manual_seed(0)).double()
    layer.refactor()
    layer.U.copy_(torch.diag(torch.tensor([1.0, 1e-3, 10.0])))
    layer.inverse.copy_(layer.U.inverse())
    layer.Q.copy_(layer.weight().T @ layer.weight())
    layer.wbar.copy_(layer.weight().sum(0))
    before = layer.weight().clone()
    layer.step(torch.zeros(1, 3), torch.tensor([2]), lr=0.1)  # which changes no weight
    torch.testing.assert_close(layer.weight(), before)
    torch.testing.assert_close(layer.U, torch.eye(3).double())


def test_a_layer_can_be_saved_and_says_what_does_not_fit():
    layer, other = SphericalOutput(3, 6), SphericalOutput(3, 6)
    layer.step(torch.ones(2, 3), torch.tensor([1, 1]), lr=1.0)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.weight(), layer.weight())
    with pytest.raises(ValueError, match=r"need h \[batch, 3\]"):
        layer.step(torch.ones(2, 4), torch.tensor([1, 1]), lr=1.0)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 6\)"):
        layer.step(torch.ones(1, 3), torch.tensor([6]), lr=1.0)
    with pytest.raises(ValueError, match="two classes"):
        SphericalOutput(3, 1)
    with pytest.raises(ValueError, match="a must be above 0"):
        z_loss(torch.zeros(1, 2), torch.tensor([0]), a=0.0)
