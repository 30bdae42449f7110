"""NPO against its closed forms and limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.forget.npo import NPO, logistic_divergence, npo_loss, npo_total, npo_weight

finite = st.floats(-30, 30)


def gradient(loss_of, nll):
    nll = nll.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss_of(nll), nll)
    return grad


def test_loss_is_the_ratio_form_of_the_paper():
    nll, ref = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([2.0, 2.0, 2.0]).double()
    beta = 0.3
    ratio = torch.exp(-nll) / torch.exp(-ref)
    expected = (2 / beta) * torch.log1p(ratio**beta).mean()
    torch.testing.assert_close(npo_loss(nll, ref, beta), expected)


def test_gradient_is_the_weight_times_that_of_log_probability():
    nll, ref = torch.randn(6).double() * 5, torch.randn(6).double() * 5
    grad = gradient(lambda n: npo_loss(n, ref, 0.7), nll)
    torch.testing.assert_close(grad, -npo_weight(nll, ref, 0.7) / 6)  # log p = -nll, mean over 6 rows
    assert torch.autograd.gradcheck(lambda n: npo_loss(n, ref, 0.7), nll.requires_grad_())


def test_small_beta_is_gradient_ascent():
    nll, ref = torch.tensor([1.0, 7.0]).double(), torch.tensor([3.0, 2.0]).double()
    grad = gradient(lambda n: npo_loss(n, ref, 1e-6), nll)
    torch.testing.assert_close(grad, torch.full((2,), -0.5).double(), atol=1e-5, rtol=0)
    # the loss itself is then -mean(nll) up to constants: (2/beta) log 2 and the mean reference
    value = npo_loss(nll, ref, 1e-6) - (2 / 1e-6) * math.log(2)
    torch.testing.assert_close(value, (ref - nll).mean(), atol=1e-4, rtol=0)


@given(st.lists(finite, min_size=1, max_size=5), st.floats(0.01, 3))
def test_bounded_below_and_weight_in_range(values, beta):
    nll = torch.tensor(values, dtype=torch.float64)
    ref = torch.zeros_like(nll)
    assert npo_loss(nll, ref, beta) >= 0
    weight = npo_weight(nll, ref, beta)
    assert ((weight >= 0) & (weight <= 2)).all()
    torch.testing.assert_close(npo_weight(ref, ref, beta), torch.ones_like(ref))


def test_forgotten_rows_get_no_push():
    assert npo_weight(torch.tensor([1000.0]), torch.tensor([1.0])) < 1e-30
    assert torch.isfinite(npo_loss(torch.tensor([1e4]), torch.tensor([1.0])))


def test_total_adds_the_weighted_retain_term():
    nll = torch.tensor([2.0])
    assert npo_total(nll, nll) == npo_loss(nll, nll)
    torch.testing.assert_close(npo_total(nll, nll, torch.tensor(3.0), retain_weight=0.5), npo_loss(nll, nll) + 1.5)


@pytest.mark.parametrize("bad", [{"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")}])
def test_refuses_bad_beta(bad):
    with pytest.raises(ValueError, match="beta must be above 0"):
        npo_loss(torch.ones(2), torch.ones(2), **bad)
    with pytest.raises(ValueError, match="beta must be above 0"):
        NPO(**bad)


def test_refuses_shapes():
    with pytest.raises(ValueError, match=r"\[batch\] each"):
        npo_loss(torch.ones(2), torch.ones(3))


@pytest.mark.parametrize(("field", "value"), [("retain", "rt"), ("retain_weight", -1.0)])
def test_method_refuses_bad_fields(field, value):
    with pytest.raises(ValueError, match=field):
        NPO(**{field: value})


def r_squared(x, y):
    return torch.corrcoef(torch.stack([x, y]))[0, 1] ** 2


@pytest.mark.parametrize("seed", range(3))
def test_theory_ascent_is_linear_and_npo_logarithmic(seed):
    steps = torch.arange(1, 2001).float()
    ga = logistic_divergence(2000, 1.0, "ga", seed=seed)[1:]
    npo = logistic_divergence(2000, 1.0, "npo", seed=seed)[1:]
    assert r_squared(steps, ga) > 0.98
    late = slice(500, None)  # the logarithm is the asymptote
    assert r_squared(steps[late].log(), npo[late]) > 0.98
    assert r_squared(steps[late], npo[late]) < r_squared(steps[late].log(), npo[late])
    assert ga[-1] > 5 * npo[-1]


def test_divergence_of_one_row_follows_the_recursion():
    # n = 1: theta moves along y x, and the margin m obeys m' = m - lr w sigmoid(-m), from 2
    distance = logistic_divergence(50, 0.3, "npo", beta=0.5, n=1, d=2, seed=4)
    margin, travelled = 2.0, [0.0]
    ref = math.exp(-math.log1p(math.exp(-2.0)) * 0.5)
    for _ in range(50):
        p = math.exp(-math.log1p(math.exp(-margin)) * 0.5)
        step = 0.3 * (2 * p / (p + ref)) / (1 + math.exp(margin))
        margin -= step
        travelled.append(2.0 - margin)
    torch.testing.assert_close(distance, torch.tensor(travelled), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"loss": "gd"}, {"n": 100}])
def test_divergence_refuses(bad):
    with pytest.raises(ValueError, match=r"need|must"):
        logistic_divergence(**{"steps": 5, "lr": 0.1, **bad})


def test_the_authors_codes_value():
    """npo of TOFU/dataloader.py (1207bbe) on logits of sines."""
    nll = torch.tensor([21.120171484601904, 8.013343839146444, 15.319915687484084], dtype=torch.float64)
    ref = torch.tensor([13.802997276729492, 14.957970367247293, 7.834361981867199], dtype=torch.float64)
    assert npo_loss(nll, ref, beta=0.1).item() == pytest.approx(12.530647373353224, rel=1e-12)
