"""Hardness-weighted InfoNCE against a loop, its limits and its neighbours; overlap and gradient shares by hand."""

import math

import pytest
import torch
from tests.contrast.training import pairs
from torch.nn import functional as F

from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.llave import hardness_nce
from palimpsest.contrast.llave_measures import gather, gradient_share, negatives, overlap


def naive(q, k, scale, alpha, reward=None):
    """Both directions, pair by pair; the weights are numbers."""
    total = 0
    for a, b, turned in ((q, k, False), (k, q, True)):
        for i in range(len(a)):
            below = 0
            for j in range(len(b)):
                hard = float((a[i] @ b[j]).detach() if reward is None else reward[j, i] if turned else reward[i, j])
                weight = 1.0 if i == j else torch.tensor(alpha * hard).exp()
                below = below + weight * torch.exp(scale * (a[i] @ b[j]))
            total = total - torch.log(torch.exp(scale * (a[i] @ b[i])) / below)
    return total / (2 * len(q))


@pytest.mark.parametrize("alpha", [-2.0, 0.0, 0.5, 9.0, 30.0])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_value_and_gradient_are_those_of_a_loop(alpha, scale):
    q, k = pairs()
    mine, plain = hardness_nce(q, k, scale, alpha), naive(q, k, scale, alpha)
    torch.testing.assert_close(mine, plain)
    for one, other in zip(torch.autograd.grad(mine, (q, k)), torch.autograd.grad(plain, (q, k)), strict=True):
        torch.testing.assert_close(one, other)


def test_without_alpha_it_is_infonce():
    q, k = pairs()
    torch.testing.assert_close(hardness_nce(q, k, 50.0, alpha=0.0), info_nce(q, k, 1 / 50, symmetric=True))


def test_negatives_score_as_at_the_higher_scale_and_the_positive_as_at_its_own():
    q, k = pairs()
    cosines = (q @ k.T).detach()
    scores = 59 * cosines - 9 * cosines.diagonal().diag()
    own = torch.arange(6)
    expected = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(hardness_nce(q, k, 50.0, 9.0).detach(), expected)


def test_another_encoders_reward_as_cosines_or_as_embeddings():
    q, k = pairs()
    first, second = pairs(seed=1)
    cosines = (first @ second.T).detach()
    mine = hardness_nce(q, k, 5.0, 4.0, reward=cosines)
    torch.testing.assert_close(mine, naive(q, k, 5.0, 4.0, cosines))
    torch.testing.assert_close(hardness_nce(q, k, 5.0, 4.0, reward=(first, second), rows=2), mine)
    hardness_nce(q, k, 5.0, 4.0, reward=(first, second)).backward()
    assert first.grad is None
    assert q.grad.abs().sum() > 0


def test_its_own_reward_equals_the_same_numbers_from_outside():
    q, k = pairs()
    torch.testing.assert_close(hardness_nce(q, k, 7.0, 3.0), hardness_nce(q, k, 7.0, 3.0, reward=q @ k.T))


def test_gradcheck_with_a_fixed_reward_and_a_learnable_scale():
    q, k = pairs(4)
    reward = (q @ k.T).detach()
    scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)

    def loss(q, k, scale):
        return hardness_nce(F.normalize(q, dim=1), F.normalize(k, dim=1), scale, 3.0, reward)

    assert torch.autograd.gradcheck(loss, (q, k, scale))


def test_strips_do_not_show():
    q, k = pairs(9)
    torch.testing.assert_close(hardness_nce(q, k, rows=2), hardness_nce(q, k))


def test_identical_pairs_stay_finite():
    z = torch.eye(4)[[0, 0, 0, 0]]
    assert hardness_nce(z, z, 100.0, 80.0).isfinite()


def test_gradient_share_by_hand():
    q, k = pairs(21)
    cosines = negatives(q, k).detach()
    for share, a in zip(gradient_share(q, k, 5.0, 9.0), (5.0, 14.0), strict=True):
        weights = (a * cosines).exp().sort(1, descending=True).values
        assert share == pytest.approx((weights[:, :2].sum(1) / weights.sum(1)).mean().item())
    assert gradient_share(q, k, 5.0, 9.0, hardest=1.0) == (pytest.approx(1.0), pytest.approx(1.0))


def test_gradient_share_is_that_of_the_losss_gradient():
    q, k = pairs(11)
    scores = (5 * q @ k.T).detach().requires_grad_()
    F.cross_entropy(scores, torch.arange(11)).backward()
    slopes = scores.grad.masked_fill(torch.eye(11, dtype=torch.bool), 0)
    expected = (slopes.max(1).values / slopes.sum(1)).mean().item()
    assert gradient_share(q, k, 5.0)[0] == pytest.approx(expected)


def test_gathered_shards_are_the_joint_batch_with_gradient():
    q, k = pairs(8)
    parts = [part.detach().clone().requires_grad_() for part in k.split(2)]
    loss = hardness_nce(q, gather(parts))
    torch.testing.assert_close(loss, hardness_nce(q, k))
    grads = torch.cat(torch.autograd.grad(loss, parts))
    torch.testing.assert_close(grads, torch.autograd.grad(hardness_nce(q, k), k)[0])


def test_overlap():
    values = torch.linspace(-1, 1, 200)
    assert overlap(values, values) == pytest.approx(1.0)
    assert overlap(torch.tensor([0.9, 0.95]), torch.tensor([-0.2, 0.1])) == 0.0
    assert overlap(torch.tensor([0.5, 0.9]), torch.tensor([0.5, 0.1, 0.1])) == pytest.approx(1 / 3)
    assert overlap(torch.tensor([1.0 + 1e-6]), torch.tensor([1.0])) == 1.0
    assert overlap(torch.tensor([0.1, 0.9]), torch.tensor([0.4, 0.4]), bins=1) == 1.0


def test_refusals():
    z = torch.eye(3)
    with pytest.raises(ValueError, match="norm 1"):
        hardness_nce(2 * z, z)
    with pytest.raises(ValueError, match="scale must be above 0"):
        hardness_nce(z, z, scale=0.0)
    with pytest.raises(ValueError, match="alpha must be"):
        hardness_nce(z, z, alpha=100.0)
    with pytest.raises(ValueError, match=r"reward must be \[3, 3\]"):
        hardness_nce(z, z, reward=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="embeddings of 3 pairs"):
        hardness_nce(z, z, reward=(z[:2], z[:2]))
    with pytest.raises(ValueError, match="one process"):
        hardness_nce(z, z, reward=z, group=object())
    with pytest.raises(ValueError, match="no negatives"):
        gradient_share(z[:1], z[:1])
    with pytest.raises(ValueError, match="hardest"):
        gradient_share(z, z, hardest=0.0)
    with pytest.raises(ValueError, match="empty"):
        gather([])
    with pytest.raises(ValueError, match="at least one similarity"):
        overlap(torch.zeros(0), torch.zeros(2))
    with pytest.raises(ValueError, match="finite"):
        overlap(torch.tensor([float("nan")]), torch.zeros(2))
    with pytest.raises(ValueError, match="bins"):
        overlap(torch.zeros(2), torch.zeros(2), bins=0)
    for reward in (100 * torch.eye(4), -2 * torch.ones(4, 4)):
        with pytest.raises(ValueError, match="reward must be cosines, from -1 to 1, got one of size"):
            hardness_nce(torch.eye(4), torch.eye(4), reward=reward)
    with pytest.raises(ValueError, match="got 3 tensors"):
        hardness_nce(torch.eye(4), torch.eye(4), reward=(torch.eye(4),) * 3)
    with pytest.raises(ValueError, match="scale must have one element"):
        hardness_nce(torch.eye(4), torch.eye(4), torch.ones(4))
    with pytest.raises(ValueError, match="alpha must be from"):
        gradient_share(torch.eye(4), torch.eye(4), alpha=math.nan)
    with pytest.raises(ValueError, match="limits finite and rising"):
        overlap(torch.ones(2), torch.ones(2), limits=(-math.inf, math.inf))


def test_value_is_that_of_the_published_code():
    z1 = torch.sin(torch.linspace(0, 7, 24, dtype=torch.float64) ** 2).reshape(6, 4)
    z2 = z1 + 0.3 * torch.sin(2 * torch.linspace(0, 7, 24, dtype=torch.float64) ** 2).reshape(6, 4)
    q, k = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    assert hardness_nce(q, k, 14.0, 9.0).item() == pytest.approx(0.346799566364084, abs=1e-6)
