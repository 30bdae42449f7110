"""Encouraging loss against closed forms, its gradient, the authors' expression, and what it is measured by."""

import pytest
import torch
from torch.nn import functional as F

from palimpsest.classify.encouraging_loss import (
    ablated_loss,
    bonus,
    encouraging_loss,
    energy_score,
    margin_stats,
    spread_within,
)
from palimpsest.losses.classification import generalized_cross_entropy


def rows(batch=64, classes=7, scale=3.0):
    draws = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(batch, classes, generator=draws, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(classes, (batch,), generator=draws)


@pytest.mark.parametrize("classes", [2, 7])
def test_the_pure_form_pulls_every_label_with_a_gradient_of_one(classes):
    """And pushes each wrong class by its share of what is left, p_j / (1 - p)."""
    logits, labels = rows(classes=classes)
    (gradient,) = torch.autograd.grad(encouraging_loss(logits, labels, log_end=1.0), logits)
    p = logits.detach().softmax(1)
    own = p.gather(1, labels[:, None])
    assert float(own.max()) < 1 - 1e-5  # the bonus is not yet cut off
    wanted = p / (1 - own)
    wanted[torch.arange(len(labels)), labels] = -1
    torch.testing.assert_close(gradient * len(labels), wanted)


def test_the_pure_form_is_minus_the_log_odds():
    logits, labels = rows()
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(encouraging_loss(logits, labels, log_end=1.0), -(p / (1 - p)).log().mean())


def test_beyond_the_cut_the_pure_bonus_has_no_gradient_and_the_line_has():
    logits, labels = torch.tensor([[14.0, 0.0]], dtype=torch.float64, requires_grad=True), torch.tensor([0])
    slopes = []
    for log_end in (1.0, 0.75):
        (gradient,) = torch.autograd.grad(encouraging_loss(logits, labels, log_end=log_end), logits)
        slopes.append(abs(float(gradient[0, 0])))
    assert slopes[0] == pytest.approx(float((-logits[0, 0].detach()).sigmoid()), rel=0.2)  # cross-entropy's own
    assert slopes[1] == pytest.approx(5 * float((-logits[0, 0].detach()).sigmoid()), rel=0.2)  # and 4 times it


@pytest.mark.parametrize("log_end", [0.25, 0.5, 0.75, 0.9, 1.0])
def test_it_is_the_authors_expression(log_end):
    """lancopku/well-classified-examples-are-underestimated, graph-classification/el_graph/el.py, bonus_gamma = -1, no
    bonus_start: written anew from its cases. Value and gradient to 1e-12."""
    logits, labels = rows()
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    below = (1 - p).clamp(min=1e-5).log()
    if log_end < 1:
        end = torch.tensor(1 - log_end, dtype=torch.float64).log()
        below = torch.where(p > log_end, (p - log_end) / (log_end - 1) + end, below)
    theirs, ours = (-p.log() + below).mean(), encouraging_loss(logits, labels, log_end)
    assert abs(theirs.item() - ours.item()) < 1e-12
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_smoothing_gives_every_class_its_loss_and_bonus():
    logits, labels = rows(batch=8, classes=3)
    total = 0.0
    for row, label in zip(logits.softmax(1), labels, strict=True):
        for j, p in enumerate(row):
            share = 0.2 / 3 + 0.8 * (j == int(label))
            total += share * (-p.log() + bonus(p.log(), 0.5))
    torch.testing.assert_close(encouraging_loss(logits, labels, 0.5, smoothing=0.2), total / 8)


def test_the_line_joins_the_curve_without_a_step_or_a_kink():
    at = torch.tensor([0.75 - 1e-9, 0.75 + 1e-9], dtype=torch.float64, requires_grad=True)
    values = bonus(at.log(), 0.75)
    (slopes,) = torch.autograd.grad(values.sum(), at)
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-7)
    torch.testing.assert_close(slopes, torch.full_like(slopes, -4.0), rtol=1e-6, atol=0)


def test_the_ablations_are_cross_entropy_below_and_differ_above():
    logits = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    for beyond in ("halted", "equal", "mirrored"):
        torch.testing.assert_close(
            ablated_loss(logits, torch.tensor([0]), beyond), F.cross_entropy(logits, torch.tensor([0]))
        )
    p = float(logits.detach().softmax(1)[0, 1])
    steepness = {}
    for beyond in ("halted", "equal", "mirrored"):
        (gradient,) = torch.autograd.grad(ablated_loss(logits, torch.tensor([1]), beyond), logits)
        steepness[beyond] = -float(gradient[0, 1]) / (p * (1 - p))
    assert steepness == pytest.approx({"halted": 0.0, "equal": 2.0, "mirrored": 1 / (1 - p)})


def test_half_precision_is_taken_in_float32_and_stays_finite():
    logits, labels = rows(scale=30.0)
    for dtype in (torch.float16, torch.bfloat16):
        loss = encouraging_loss(logits.detach().to(dtype), labels, log_end=1.0)
        assert loss.dtype == torch.float32
        assert loss.isfinite()


def test_what_the_margin_and_the_share_of_sure_rows_are():
    logits, labels = rows()
    stats = margin_stats(logits, labels, lambda f, y: encouraging_loss(f, y, log_end=1.0))
    naive = []
    for row, label in zip(logits.detach(), labels, strict=True):
        others = [float(f) for j, f in enumerate(row) if j != int(label)]
        naive.append(float(row[label]) - max(others))
    assert stats["margin"] == pytest.approx(sum(naive) / len(naive))
    plain, absolute = (
        margin_stats(logits, labels),
        margin_stats(logits, labels, lambda f, y: generalized_cross_entropy(f, y, 1.0)),
    )
    assert stats["sure share"] > plain["sure share"] > 0
    assert 0 < absolute["sure share"] < stats["sure share"]


def test_spread_and_energy():
    features = torch.tensor([[0.0, 0.0], [0.0, 2.0], [8.0, 1.0], [8.0, 1.0]])
    assert spread_within(features, torch.tensor([4, 4, 9, 9])) == pytest.approx(0.5 / 8)
    assert energy_score(torch.full((1, 2), 1000.0)).item() == pytest.approx(1000.6931)
    with pytest.raises(ValueError, match="two classes"):
        spread_within(features, torch.zeros(4).long())


@pytest.mark.parametrize(("setting", "why"), [({"log_end": 1.5}, "log_end must"), ({"smoothing": 1.0}, "smoothing in")])
def test_what_is_out_of_range_is_refused(setting, why):
    with pytest.raises(ValueError, match=why):
        encouraging_loss(torch.zeros(1, 2), torch.tensor([0]), **setting)
    with pytest.raises(ValueError, match="beyond must be one of"):
        ablated_loss(torch.zeros(1, 2), torch.tensor([0]), "turned")
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\)"):
        encouraging_loss(torch.zeros(1, 2), torch.tensor([2]))
