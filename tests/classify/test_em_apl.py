"""Entropy maximization and pseudo-labels: a naive loop, closed forms, the authors' numbers, and what is chosen when."""

import math

import pytest
import torch

from palimpsest.benches.label_set_worlds import one_positive
from palimpsest.classify.em_apl import EMAPL, em_apl_loss, update_pseudo
from palimpsest.errors import UserError
from palimpsest.train import apply

AUTHORS = (0.4184330223687657, 0.08040693100592493)


def rows(seed=0):
    draws = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(6, 5, generator=draws, dtype=torch.float64)
    kinds = torch.randint(3, (6, 5), generator=draws)
    pseudo = -torch.rand(6, 5, generator=draws, dtype=torch.float64)
    return logits.requires_grad_(), torch.where(kinds == 0, 1.0, torch.where(kinds == 1, 0.0, pseudo))


def naive(logits, labels, alpha, beta):
    total = 0.0
    for z, label in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        yes, no = -math.log(p + 1e-5), -math.log(1 - p + 1e-5)
        if label == 1:
            total += yes
        elif label == 0:
            total -= alpha * (p * yes + (1 - p) * no)
        else:
            total += beta * (-label * yes + (1 + label) * no)
    return total / logits.numel()


def test_it_is_the_naive_mean():
    logits, labels = rows()
    assert em_apl_loss(logits, labels, 0.3, 0.7).item() == pytest.approx(naive(logits, labels, 0.3, 0.7), rel=1e-12)
    assert torch.autograd.gradcheck(lambda z: em_apl_loss(z, labels, 0.3, 0.7), logits)


def test_the_authors_numbers():
    """Correr-Zhou/SPML-AckTheUnknown at ae1ccaf: their loss of 4 x 5 logits (i - 9) / 3, labels 1, 0 and -i / 40 in
    turn, float64, and the norm of its gradient."""
    logits = ((torch.arange(20, dtype=torch.float64) - 9) / 3).view(4, 5).requires_grad_()
    i = torch.arange(20, dtype=torch.float64)
    labels = torch.where(i % 3 == 0, 1.0, torch.where(i % 3 == 1, 0.0, -i / 40)).view(4, 5)
    loss = em_apl_loss(logits, labels, alpha=0.1, beta=0.2)
    assert loss.item() == pytest.approx(AUTHORS[0], abs=1e-6)
    assert torch.autograd.grad(loss, logits)[0].norm().item() == pytest.approx(AUTHORS[1], abs=1e-6)


def test_what_is_unknown_is_drawn_to_the_middle_and_hardly_where_it_is_sure():
    z = torch.tensor([[-9.0, -1.0, 0.0, 1.0, 9.0]], dtype=torch.float64, requires_grad=True)
    (pull,) = torch.autograd.grad(em_apl_loss(z, torch.zeros(1, 5), alpha=1.0), z)
    assert pull[0, 2].abs() < 1e-6
    assert pull[0, 1] < 0 < pull[0, 3]
    assert pull[0, [0, 4]].abs().max() < 0.01 * pull[0, 1].abs()


def test_the_least_likely_unknown_labels_become_negatives_and_stay():
    p = torch.tensor([[0.9, 0.5], [0.1, 0.4], [0.3, 0.0], [0.2, 0.2], [0.4, 0.1]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    unknown = (labels == 0).sum(0)
    once = update_pseudo(p, labels, unknown, ratio=1.0, epochs=3, warmup=1)  # two of four in each of two turns
    assert once[:, 0].tolist() == pytest.approx([1.0, -0.1, 0.0, -0.2, 0.0])
    assert (once[:, 1] < 0).tolist() == [False, False, True, False, True]  # a probability of 0 as well
    twice = update_pseudo(1 - p, once, unknown, ratio=1.0, epochs=3, warmup=1)
    torch.testing.assert_close(twice[once != 0], once[once != 0])
    assert (twice != 0).all()
    assert (twice == 1).equal(labels == 1)


def test_training_renews_its_labels_in_turn_and_no_positive_is_touched():
    world = one_positive(100, smoke=True)
    method = EMAPL(span=3, epochs=4, warmup=2, ratio=0.8)
    state, model = method.init(world.model("network"), world.data), world.model("network")
    batch, unknown, known = world.data.rows.batch(slice(0, 16)), [], world.data.rows.y == 1
    for _ in range(14):
        method.loss(state, model, batch)["loss"].backward()
        unknown.append(int((state["labels"] == 0).sum()))
    first = int((~known).sum())
    assert unknown[:6] == [first] * 6
    assert unknown[6] > unknown[9] == unknown[13]
    assert unknown[13] == pytest.approx(0.2 * first, rel=0.1)
    assert (state["labels"] == 1).equal(known)
    history = apply(world.model("network"), method, world.data, steps=14, lr=3e-3).history
    assert all(math.isfinite(step["loss"]) for step in history.steps)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"labels must be in \[-1, 1\]"):
        em_apl_loss(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
    with pytest.raises(ValueError, match="alpha and beta must not be negative"):
        em_apl_loss(torch.zeros(1, 2), torch.zeros(1, 2), alpha=-1)
    with pytest.raises(ValueError, match="epochs above the warm-up"):
        update_pseudo(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(2), epochs=3, warmup=3)
    with pytest.raises(UserError, match="warmup must be below epochs"):
        EMAPL(epochs=5, warmup=5)
