"""Boosted class maps and the rejection of large losses: closed forms, a naive loop, the authors' numbers, schedules."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.benches.label_set_worlds import one_positive
from palimpsest.classify.boostlu import CamClassifier, LargeLoss, boost_lu, large_loss

AUTHORS = {
    "LL-R": (0.6213397512177732, 0.10320546376807159),
    "LL-Ct": (0.6374252431059982, 0.10353717213447167),
    "LL-Cp": (0.6374252431059982, 0.10353717213447167),
}


def rows(seed=0, shape=(6, 5)):
    draws = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(*shape, generator=draws, dtype=torch.float64)
    return logits.requires_grad_(), (torch.rand(*shape, generator=draws) < 0.2).double()


def test_only_what_is_positive_is_multiplied():
    cam = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    boosted = boost_lu(cam, 4.0)
    assert boosted.tolist() == [-2.0, 0.0, 12.0]
    assert torch.autograd.grad(boosted.sum(), cam)[0].tolist() == [1.0, 1.0, 4.0]
    assert boost_lu(cam, 1.0).equal(cam)


def test_a_network_without_boost_is_the_linear_layer_on_mean_features():
    backbone = nn.Conv2d(1, 8, 3)
    network, x = CamClassifier(backbone, 8, 5, alpha=1.0), torch.rand(2, 1, 9, 9)
    linear = F.linear(backbone(x).mean((2, 3)), network.classify.weight[:, :, 0, 0], network.classify.bias)
    torch.testing.assert_close(network(x), linear)
    network.alpha = 5.0
    torch.testing.assert_close(network(x), torch.maximum(network.cam(x), 5 * network.cam(x)).mean((2, 3)))
    assert (network(x) >= linear).all()


@pytest.mark.parametrize("scheme", ["LL-R", "LL-Ct", "LL-Cp"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.35])
def test_it_is_the_naive_loop(scheme, share):
    logits, targets = rows()
    each = [
        (math.log1p(math.exp(z if y == 0 else -z)), z, y)
        for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    ]
    largest = sorted((value for value, _, y in each if y == 0), reverse=True)[: math.ceil(share * 30)]
    other = {"LL-R": lambda z: 0.0}.get(scheme, lambda z: math.log1p(math.exp(-z)))
    total = sum(other(z) if y == 0 and value in largest else value for value, z, y in each)
    loss, hidden = large_loss(logits, targets, share, scheme)
    assert loss.item() == pytest.approx(total / 30)
    assert int(hidden.sum()) == len(largest)
    assert not (hidden & (targets == 1)).any()
    assert torch.autograd.gradcheck(lambda z: large_loss(z, targets, share, scheme)[0], logits)


def test_the_authors_numbers():
    """youngwk/BridgeGapExplanationPAMC at 4a1986c: losses of 4 x 5 logits (i - 9) / 3, 1 observed where i % 6 == 0, a
    clean rate of 0.8, float64, and the norms of their gradients."""
    logits = ((torch.arange(20, dtype=torch.float64) - 9) / 3).view(4, 5).requires_grad_()
    targets = (torch.arange(20) % 6 == 0).double().view(4, 5)
    for scheme, (value, norm) in AUTHORS.items():
        loss, _ = large_loss(logits, targets, 0.2, scheme)
        assert loss.item() == pytest.approx(value, abs=1e-6)
        assert torch.autograd.grad(loss, logits)[0].norm().item() == pytest.approx(norm, abs=1e-6)


def test_what_ties_with_the_last_is_suspected_too_and_no_more_than_was_unobserved():
    _, hidden = large_loss(torch.tensor([[2.0, 2.0, 1.0, 0.0]]), torch.zeros(1, 4), 0.25)
    assert hidden.tolist() == [[True, True, False, False]]
    _, hidden = large_loss(torch.zeros(2, 2), torch.tensor([[1, 1], [1, 0]]), 1.0)
    assert hidden.tolist() == [[False, False], [False, True]]


def test_the_share_grows_from_span_to_span_and_what_is_marked_stays():
    world = one_positive(100, smoke=True)
    batch, observed = world.data.rows.batch(slice(0, 20)), world.data.rows.y == 1
    model = world.model("network")
    for scheme in ("LL-R", "LL-Cp"):
        method, shares = LargeLoss(scheme, growth=0.05, span=2), []
        state = method.init(model, world.data)
        for step in range(6):
            before = state["labels"].clone()
            loss = method.loss(state, model, batch)["loss"].item()
            share = {"LL-R": 0.05 * (step // 2), "LL-Cp": 0.05 * min(step // 2, 1)}[scheme]
            expected, _ = large_loss(model(batch["pixel_values"]).logits, before[:20], share, scheme)
            assert loss == pytest.approx(expected.item(), rel=1e-3)
            shares.append(int((state["labels"] == 1).sum()))
        assert (state["labels"][observed] == 1).all()
        assert shares == sorted(shares)
        assert (shares[-1] > shares[0]) == (scheme == "LL-Cp")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="alpha must be at least 1"):
        boost_lu(torch.zeros(1), 0.5)
    with pytest.raises(ValueError, match="share must be in"):
        large_loss(torch.zeros(1, 2), torch.zeros(1, 2), 1.5)
    with pytest.raises(ValueError, match="the scheme LL-R, LL-Ct or LL-Cp"):
        large_loss(torch.zeros(1, 2), torch.zeros(1, 2), 0.1, "LL")
