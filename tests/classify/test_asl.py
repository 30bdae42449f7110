"""Asymmetric loss against a naive loop, its limits, its gradient, and the authors' numbers."""

import math

import pytest
import torch
from torch.nn import functional as F

from palimpsest.classify.asl import BLOCK, asymmetric_loss
from palimpsest.classify.asl_measures import AdaptiveGamma, negative_gradient
from palimpsest.classify.asl_softmax import asymmetric_softmax
from palimpsest.losses.multilabel import binary_cross_entropy, binary_focal_loss

SETTINGS = [(4.0, 0.0, 0.05), (4.0, 1.0, 0.05), (2.0, 2.0, 0.0), (0.0, 0.0, 0.2), (0.5, 0.5, 0.1), (2.5, 1.5, 0.0)]
AUTHORS = [
    ({"g_neg": 4.0, "g_pos": 1.0, "clip": 0.05, "detach_focus": True}, (11.750561194953168, 1.384452377466397)),
    ({"g_neg": 4.0, "g_pos": 0.0, "clip": 0.05, "detach_focus": True}, (12.865478047597108, 1.5832669131437946)),
    ({"g_neg": 3.0, "g_pos": 2.0, "clip": 0.0, "detach_focus": False}, (16.210790121462512, 3.2006820290734503)),
]
AUTHORS_SOFTMAX = [(0.0, (1.7179864222685777, 0.4560049323750468)), (0.1, (1.5809110020020631, 0.41966956823808726))]


def rows(batch=6, classes=9, seed=0):
    draws = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, classes, generator=draws, dtype=torch.float64)
    return logits.requires_grad_(), (torch.rand(batch, classes, generator=draws) < 0.3).double()


def naive(logits, targets, g_neg, g_pos, clip):
    total = 0.0
    for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        shifted = max(p - clip, 0.0)
        total -= (1 - p) ** g_pos * math.log(p) if y else shifted**g_neg * math.log(1 - shifted)
    return total


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_is_the_naive_sum_and_its_gradient_that_of_differences(settings):
    logits, targets = rows()
    loss = asymmetric_loss(logits, targets, *settings, detach_focus=False, reduction="sum")
    assert loss.item() == pytest.approx(naive(logits, targets, *settings), rel=1e-12)
    assert asymmetric_loss(logits, targets, *settings).item() == pytest.approx(loss.item() / len(logits))
    assert torch.autograd.gradcheck(
        lambda z: asymmetric_loss(z, targets, *settings, detach_focus=False), logits, atol=1e-6
    )


@pytest.mark.parametrize("settings", SETTINGS)
def test_detached_factors_have_no_gradient(settings):
    """The gradient is that of the plain expression with factors that are taken as numbers."""
    (logits, targets), (g_neg, g_pos, clip) = rows(), settings
    p = logits.sigmoid()
    shifted = (p - clip).clamp(min=0)
    plain = (
        targets * (1 - p.detach()) ** g_pos * p.log() + (1 - targets) * shifted.detach() ** g_neg * (1 - shifted).log()
    )
    expected = torch.autograd.grad(-plain.sum(), logits)[0]
    found = torch.autograd.grad(asymmetric_loss(logits, targets, *settings, reduction="sum"), logits)[0]
    torch.testing.assert_close(found, expected)


def test_blocks_leave_no_seam():
    logits, targets = rows(batch=5, classes=BLOCK // 3)
    assert asymmetric_loss(logits, targets, reduction="sum").item() == pytest.approx(
        naive(logits, targets, 4.0, 0.0, 0.05), rel=1e-12
    )
    (whole,) = torch.autograd.grad(asymmetric_loss(logits, targets, reduction="sum"), logits)
    row = logits.detach()[3:4].requires_grad_()
    (alone,) = torch.autograd.grad(asymmetric_loss(row, targets[3:4], reduction="sum"), row)
    torch.testing.assert_close(whole[3:4], alone)


def test_the_authors_numbers():
    """Alibaba-MIIL/ASL at 8c9e0bd: losses of 4 x 5 logits (i - 9) / 3 with targets 1 where i % 4 == 0, float64, and the
    norm of their gradients."""
    logits = ((torch.arange(20, dtype=torch.float64) - 9) / 3).view(4, 5).requires_grad_()
    targets = (torch.arange(20) % 4 == 0).double().view(4, 5)
    for keywords, (value, norm) in AUTHORS:
        loss = asymmetric_loss(logits, targets, **keywords, reduction="sum")
        assert loss.item() == pytest.approx(value, abs=1e-6)
        assert torch.autograd.grad(loss, logits)[0].norm().item() == pytest.approx(norm, abs=1e-6)
    for smoothing, (value, norm) in AUTHORS_SOFTMAX:
        loss = asymmetric_softmax(logits, torch.tensor([0, 3, 1, 4]), smoothing=smoothing)
        assert loss.item() == pytest.approx(value, abs=1e-6)
        assert torch.autograd.grad(loss, logits)[0].norm().item() == pytest.approx(norm, abs=1e-6)


def test_limits_are_binary_cross_entropy_and_focal_loss():
    logits, targets = rows()
    plain = asymmetric_loss(logits, targets, 0.0, 0.0, 0.0)
    torch.testing.assert_close(plain, logits.shape[1] * binary_cross_entropy(logits, targets))
    focal = asymmetric_loss(logits, targets, 2.0, 2.0, 0.0, detach_focus=False)
    torch.testing.assert_close(focal, logits.shape[1] * binary_focal_loss(logits, targets, gamma=2.0))


def test_an_easy_negative_costs_nothing_and_a_hard_one_pulls_less():
    curve = negative_gradient(torch.tensor([0.049, 0.3, 0.8, 0.999], dtype=torch.float64))
    assert curve[0] == 0
    assert 0 < curve[1] < curve[2] > curve[3] > 0
    unshifted = negative_gradient(torch.tensor([0.999], dtype=torch.float64), clip=0.0)
    assert unshifted > 5 * curve[3]


def test_without_smoothing_the_softmax_form_does_not_know_its_negative_focus():
    logits, labels = rows()[0], torch.tensor([0, 1, 2, 3, 4, 5])
    assert asymmetric_softmax(logits, labels, g_neg=1.0, smoothing=0.0) == asymmetric_softmax(
        logits, labels, g_neg=4.0, smoothing=0.0
    )
    torch.testing.assert_close(
        asymmetric_softmax(logits, labels, 0.0, 0.0, 0.1), F.cross_entropy(logits, labels, label_smoothing=0.1)
    )
    assert torch.autograd.gradcheck(lambda z: asymmetric_softmax(z, labels, 1.0, 2.0), logits)


def test_the_focus_moves_until_positives_are_as_sure_as_wanted():
    adapt, targets = AdaptiveGamma(target=0.1, rate=0.5), torch.tensor([[1, 0, 0]])
    sure_of_negatives = torch.tensor([[-1.0, -3.0, -3.0]])
    assert adapt(4.0, sure_of_negatives, targets) > 4.0
    assert adapt(4.0, -sure_of_negatives, targets) < 4.0
    assert adapt(0.1, torch.full((1, 3), 9.0), targets) == 0.0
    assert adapt(4.0, sure_of_negatives, torch.zeros(1, 3)) == 4.0


@pytest.mark.parametrize(
    ("keywords", "why"),
    [
        ({"g_neg": -1.0}, "need g_neg, g_pos >= 0 and clip"),
        ({"clip": 1.0}, "need g_neg, g_pos >= 0 and clip"),
        ({"reduction": "mean"}, "a reduction sum_per_sample or sum, got 'mean'"),
        ({"targets": torch.zeros(2, 2)}, r"targets must be \[2, 3\] like the logits"),
    ],
)
def test_what_does_not_fit_is_refused(keywords, why):
    keywords = {"targets": torch.zeros(2, 3), **keywords}
    with pytest.raises(ValueError, match=why):
        asymmetric_loss(torch.zeros(2, 3), **keywords)
    with pytest.raises(ValueError, match="smoothing in"):
        asymmetric_softmax(torch.zeros(2, 3), torch.zeros(2).long(), smoothing=1.0)
