"""SimNPO against its closed forms and limits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.forget.npo import npo_loss
from palimpsest.forget.simnpo import SimNPO, simnpo_loss, simnpo_weight


def test_of_one_token_without_margin_it_is_npo_with_a_reference_that_is_certain():
    logp = torch.tensor([-0.5, -3.0])
    torch.testing.assert_close(
        simnpo_loss(logp, torch.tensor([1, 1]), beta=0.8), npo_loss(-logp, torch.zeros(2), beta=0.8)
    )


@given(st.lists(st.tuples(st.floats(-50, 0), st.integers(1, 30)), min_size=1, max_size=6), st.floats(-2, 2))
def test_gradient_is_the_weight(rows, gamma):
    logp = torch.tensor([p for p, _ in rows], dtype=torch.float64, requires_grad=True)
    length = torch.tensor([n for _, n in rows])
    (grad,) = torch.autograd.grad(simnpo_loss(logp, length, 1.7, gamma), logp)
    torch.testing.assert_close(grad, simnpo_weight(logp.detach(), length, 1.7, gamma) / len(rows))


def test_gradcheck():
    logp = -torch.rand(4).double() * 9
    assert torch.autograd.gradcheck(
        lambda p: simnpo_loss(p, torch.tensor([1, 2, 5, 9]), 2.5, 0.3), logp.requires_grad_()
    )


def test_weight_falls_with_length_and_with_what_is_already_forgotten():
    per_token = -0.5
    lengths = torch.tensor([1, 5, 20])
    by_length = simnpo_weight(per_token * lengths, lengths)
    assert (by_length[:-1] > by_length[1:]).all()
    by_strength = simnpo_weight(torch.tensor([-1.0, -10.0, -40.0]), torch.tensor([5, 5, 5]))
    assert (by_strength[:-1] > by_strength[1:]).all()
    assert by_strength[-1] < 1e-6


def test_margin_pushes_further_down():
    logp, length = torch.tensor([-20.0]), torch.tensor([4])
    assert simnpo_weight(logp, length, gamma=1.0) > simnpo_weight(logp, length, gamma=0.0)


def test_empty_answers_are_dropped():
    logp, length = torch.tensor([-3.0, 0.0]), torch.tensor([3, 0])
    torch.testing.assert_close(simnpo_loss(logp, length), simnpo_loss(logp[:1], length[:1]))
    assert simnpo_weight(logp, length)[1] == 0
    alone = torch.zeros(1, requires_grad=True)
    loss = simnpo_loss(alone, torch.tensor([0]))
    assert loss == 0
    loss.backward()
    assert alone.grad == 0


@pytest.mark.parametrize("bad", [{"beta": 0.0}, {"forget_weight": 0.0}, {"retain": "rt"}, {"retain_weight": -0.1}])
def test_method_refuses_bad_fields(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SimNPO(**bad)


def test_refuses_shapes():
    with pytest.raises(ValueError, match=r"\[batch\] each"):
        simnpo_loss(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="beta"):
        simnpo_loss(torch.ones(2), torch.ones(2), beta=0)


def test_the_authors_codes_value():
    """simnpo of TOFU/dataloader.py (f1a355d) on logits of sines, at beta 2.5 and its gamma of 0.3: 0.75 here."""
    logp = -torch.tensor([21.120171484601904, 8.013343839146444, 15.319915687484084], dtype=torch.float64)
    loss = simnpo_loss(logp, torch.tensor([4, 3, 4]), beta=2.5, gamma=0.75)
    assert loss.item() == pytest.approx(0.0007498014714463605, rel=1e-12)
