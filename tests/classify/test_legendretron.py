"""LegendreTron: its blocks are gradients of convex functions, its limit is logistic regression, and extremes are
finite."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.classify.legendretron import Block, LegendreLink, LegendreTron
from palimpsest.classify.legendretron_measures import FreeLink, flip_labels, induced_loss


@pytest.fixture
def block():
    torch.manual_seed(0)
    block = Block(3).double()
    block(2 * torch.randn(64, 3, dtype=torch.float64))  # which sets the scales
    return block.eval()


def test_the_jacobian_is_symmetric_and_at_least_the_quadratic_part(block):
    for x in torch.randn(10, 1, 3, dtype=torch.float64) * 3:
        jacobian = torch.autograd.functional.jacobian(block, x)[0, :, 0]
        torch.testing.assert_close(jacobian, jacobian.T)
        assert torch.linalg.eigvalsh(jacobian).min() >= F.softplus(block.w0) - 1e-9


def test_the_potential_is_convex_between_any_two_points(block):
    a, b = torch.randn(2, 200, 3, dtype=torch.float64) * 4
    middle = block.convex((a + b) / 2)
    assert (middle <= (block.convex(a) + block.convex(b)) / 2 + 1e-9).all()
    assert (middle < (block.convex(a) + block.convex(b)) / 2 - 1e-6).any()


def test_a_block_is_the_gradient_of_its_potential(block):
    x, step = torch.randn(4, 3, dtype=torch.float64), 1e-6
    with torch.no_grad():
        difference = [
            (block.potential(x + step * e) - block.potential(x - step * e)) / (2 * step) for e in torch.eye(3)
        ]
        torch.testing.assert_close(block(x), torch.stack(difference, 1), rtol=1e-5, atol=1e-7)


def test_without_its_convex_part_it_is_logistic_regression():
    link = LegendreLink(4).eval()
    for each in link.blocks:
        each.w1.data.fill_(-1e4)
        each.w0.data.fill_(torch.tensor(1.0).expm1().log())  # softplus gives 1
    scores = torch.randn(6, 3)
    torch.testing.assert_close(link(scores), torch.cat([scores, torch.zeros(6, 1)], 1).log_softmax(1))


def test_it_is_the_same_without_gradients_and_finite_at_extremes():
    torch.manual_seed(0)
    link = LegendreLink(3)
    link(torch.randn(32, 2))
    link.eval()
    x = torch.randn(5, 2)
    with torch.no_grad():
        quiet = link(x)
    torch.testing.assert_close(quiet, link(x))
    assert not quiet.requires_grad
    extreme = link(torch.tensor([[-1e4, -1e4], [1e4, 0.0]]))
    assert extreme.isfinite().all()


def test_gradients_reach_the_inner_model_and_the_link_and_are_right():
    torch.manual_seed(0)
    model = LegendreTron(nn.Linear(4, 2), LegendreLink(3)).double()
    x, labels = torch.randn(16, 4, dtype=torch.float64), torch.arange(16) % 3
    model(x)
    model.eval()
    F.cross_entropy(model(x), labels).backward()
    for p in (model.inner.weight, model.link.blocks[0].convex.first.weight, model.link.blocks[1].w0):
        assert p.grad.abs().sum() > 0
        place, step = (0,) * p.ndim, 1e-6
        values = []
        for sign in (1, -1):
            p.data[place] += sign * step
            values.append(float(F.cross_entropy(model(x), labels)))
            p.data[place] -= sign * step
        assert float(p.grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8)


def test_the_scales_are_set_once_and_kept_on_disk():
    torch.manual_seed(0)
    link, other = LegendreLink(3), LegendreLink(3)
    link(torch.randn(32, 2))
    scales = {k: v.clone() for k, v in link.state_dict().items()}
    link(10 * torch.randn(32, 2))
    assert all(torch.equal(v, scales[k]) for k, v in link.state_dict().items())
    other.load_state_dict(scales)
    x = 10 * torch.randn(8, 2)
    torch.testing.assert_close(other(x), link(x))  # in training mode: it does not start anew


def test_it_learns_a_link_that_logistic_regression_lacks():
    """The odds of the classes are a cubic of the only feature: a linear model with a learned link finds them."""
    draws = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(600, 1, generator=draws, dtype=torch.float64) - 2
    labels = (torch.rand(600, generator=draws) > (x[:, 0] ** 3 + 0.2 * x[:, 0]).sigmoid()).long()
    losses = {}
    for name in ("legendre", "logistic"):
        torch.manual_seed(0)
        link = LegendreLink(2).double()
        model = LegendreTron(nn.Linear(1, 1).double(), link)
        if name == "logistic":
            for block in link.blocks:
                block.w1.data.fill_(-1e4)
                block.w0.data.fill_(torch.tensor(1.0).expm1().log())
        learned = model.parameters() if name == "legendre" else model.inner.parameters()
        optimizer = torch.optim.Adam(learned, lr=0.03)
        for _ in range(150):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
    assert losses["legendre"] < losses["logistic"] - 0.005


def test_what_the_learned_loss_is_compared_by():
    torch.manual_seed(0)
    link = LegendreLink(3).eval()
    shares = torch.distributions.Dirichlet(torch.ones(3)).sample((20,))
    assert induced_loss(link, shares).shape == (20, 3)
    assert (induced_loss(link, shares) > 0).all()
    with pytest.raises(ValueError, match="sum to 1"):
        induced_loss(link, torch.ones(1, 3))
    assert FreeLink(3)(torch.randn(4, 2)).exp().sum(1).allclose(torch.ones(4))
    labels = torch.randint(5, (4000,), generator=torch.Generator().manual_seed(0))
    flipped = flip_labels(labels, 5, 0.4, torch.Generator().manual_seed(1))
    assert (flipped != labels).float().mean().item() == pytest.approx(0.4, abs=0.03)
    assert ((flipped - labels) % 5).bincount(minlength=5)[1:].float().div(4000).tolist() == pytest.approx(
        [0.1] * 4, abs=0.02
    )
    with pytest.raises(ValueError, match="eta must be"):
        flip_labels(labels, 5, 1.5)
    with pytest.raises(ValueError, match="even width"):
        LegendreLink(3, width=3)
