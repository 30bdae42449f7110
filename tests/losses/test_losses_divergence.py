import math

import pytest
import torch

from palimpsest.losses.divergence import kl_divergence


def logits(seed, *shape, **settings):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **settings)


def test_both_directions_of_two_coins():
    p, q = 0.2, 0.7

    def coin(x):
        return torch.tensor([[[math.log(x), math.log(1 - x)]]])

    forward = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    reverse = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert kl_divergence(coin(p), coin(q)).item() == pytest.approx(forward, rel=1e-5)
    assert kl_divergence(coin(q), coin(p)).item() == pytest.approx(reverse, rel=1e-5)
    assert forward != pytest.approx(reverse)


def test_matches_pytorch_and_ignores_shifts():
    p, q = logits(0, 3, 4, 5), logits(1, 3, 4, 5)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    ).mean()
    torch.testing.assert_close(kl_divergence(p, q), expected)
    torch.testing.assert_close(kl_divergence(p + 7, q - 3 * torch.ones(3, 4, 1)), expected, atol=1e-5, rtol=1e-5)
    assert kl_divergence(p, p + 2).item() == pytest.approx(0, abs=1e-6)


def test_rows_count_equally_whatever_their_length():
    p, q = logits(0, 3, 4, 5), logits(1, 3, 4, 5)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    by_row = kl_divergence(p[:1], q[:1]), kl_divergence(p[1:2, 1:2], q[1:2, 1:2])
    torch.testing.assert_close(kl_divergence(p, q, mask), (by_row[0] + by_row[1]) / 3)


def test_masked_positions_have_no_gradient():
    p, q = logits(0, 2, 3, 4, requires_grad=True), logits(1, 2, 3, 4, requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    kl_divergence(p, q, mask).backward()
    for tensor in (p, q):
        assert tensor.grad[~mask].eq(0).all()
        assert tensor.grad[mask].ne(0).all()


def test_gradients():
    p, q = (logits(i, 2, 3, 4, dtype=torch.float64, requires_grad=True) for i in (0, 1))
    mask = torch.tensor([[True, False, True], [True, False, False]])
    assert torch.autograd.gradcheck(lambda p, q: kl_divergence(p, q, mask), (p, q))
    # With respect to q's logits the gradient at a position is softmax(q) - softmax(p).
    (gradient,) = torch.autograd.grad(kl_divergence(p[:1, :1], q[:1, :1]), q)
    torch.testing.assert_close(gradient[0, 0], (q.softmax(-1) - p.softmax(-1))[0, 0])


def test_low_precision_is_computed_in_float32():
    p, q = logits(0, 2, 3, 4).bfloat16(), logits(1, 2, 3, 4).bfloat16()
    assert kl_divergence(p, q).dtype == torch.float32
    for a, b in ((p, q), (p.float(), q), (p, q.float())):
        torch.testing.assert_close(kl_divergence(a, b), kl_divergence(p.float(), q.float()))
    assert kl_divergence(p.double(), q.double()).dtype == torch.float64


def test_extreme_logits_stay_finite():
    p = torch.tensor([[[1e4, 0.0]]])
    assert kl_divergence(p, -p).item() == pytest.approx(1e4)


def test_errors():
    with pytest.raises(ValueError, match="batch, positions, classes"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 2, 4\)"):
        kl_divergence(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="mask must be"):
        kl_divergence(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.ones(1, 3, dtype=torch.bool))


def test_classes_that_are_ruled_out_and_positions_that_do_not_count():
    p, q = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    p[..., 0] = q[0, ..., 0] = -torch.inf
    mask = torch.tensor([[True, True, False], [True, False, False]])
    expected = kl_divergence(p[..., 1:], q[..., 1:], mask)  # where q has the class too it is larger
    p[~mask] = torch.nan
    q[1, 2] = torch.nan
    p.requires_grad_(), q.requires_grad_()
    first = kl_divergence(p[:1], q[:1], mask[:1])
    torch.testing.assert_close(first, kl_divergence(p[:1, ..., 1:], q[:1, ..., 1:], mask[:1]))
    whole = kl_divergence(p, q, mask)
    assert whole > expected
    whole.backward()
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()
    assert not p.grad[~mask].any()
    assert kl_divergence(torch.zeros(1, 1, 2), torch.tensor([[[0.0, -torch.inf]]])) == torch.inf


def test_a_class_of_which_p_underflows_does_not_count_where_q_rules_it_out():
    p = torch.tensor([[[0.0, -200.0]]], requires_grad=True)  # e^-200 is 0 in float32
    q = torch.tensor([[[0.0, -torch.inf]]], requires_grad=True)
    value = kl_divergence(p, q)
    value.backward()
    assert value == 0
    assert p.grad.tolist() == q.grad.tolist() == [[[0.0, 0.0]]]
