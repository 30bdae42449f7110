"""Losses of several labels against naive sums, their limits and what they refuse."""

import math

import pytest
import torch

from palimpsest.losses.classification import weak_negative_cross_entropy
from palimpsest.losses.multilabel import (
    binary_cross_entropy,
    binary_focal_loss,
    dice_loss,
    positive_weights,
    soft_dice,
    weighted_binary_cross_entropy,
)


def rows(seed=0, shape=(5, 4)):
    draws = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(*shape, generator=draws, dtype=torch.float64)
    return logits, (torch.rand(*shape, generator=draws) < 0.4).double()


def test_each_is_its_naive_mean():
    logits, targets = rows()
    bce = weighted = focal = 0.0
    for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        right = p if y else 1 - p
        bce -= math.log(right) / 20
        weighted -= (3 if y else 1) * math.log(right) / 20
        focal -= (0.25 if y else 0.75) * (1 - right) ** 1.5 * math.log(right) / 20
    assert binary_cross_entropy(logits, targets).item() == pytest.approx(bce)
    assert weighted_binary_cross_entropy(logits, targets, 3.0).item() == pytest.approx(weighted)
    assert binary_focal_loss(logits, targets, 1.5, 0.25).item() == pytest.approx(focal)


def test_limits():
    logits, targets = rows()
    plain = binary_cross_entropy(logits, targets)
    torch.testing.assert_close(binary_focal_loss(logits, targets, gamma=0.0), plain)
    torch.testing.assert_close(weighted_binary_cross_entropy(logits, targets, torch.ones(4)), plain)
    torch.testing.assert_close(weak_negative_cross_entropy(logits, targets), plain)


def test_weights_make_both_sides_count_alike():
    targets = torch.tensor([[1, 0], [0, 0], [0, 0], [1, 0]])
    weights = positive_weights(targets)
    assert weights.tolist() == [1.0, 4.0]
    assert (weights * targets.sum(0))[0] == (1 - targets).sum(0)[0]


@pytest.mark.parametrize(("over", "axis"), [("all", None), ("class", 0), ("row", 1)])
def test_dice_of_decisions_is_f1(over, axis):
    from sklearn.metrics import f1_score

    logits, targets = rows(shape=(9, 4))
    said = (logits > 0).double()
    names = {"all": "micro", "class": "macro", "row": "samples"}
    expected = f1_score(targets.numpy(), said.numpy(), average=names[over], zero_division=1.0)
    assert soft_dice(said, targets, smooth=0.0, over=over).item() == pytest.approx(expected)


def test_dice_of_clips_flattens_all_but_classes():
    logits, targets = rows(shape=(3, 5, 4))
    flat = logits.reshape(15, 4), targets.reshape(15, 4)
    for over in ("all", "class", "row"):
        torch.testing.assert_close(dice_loss(logits, targets, over=over), dice_loss(*flat, over=over))
    squared = 1 - (2 * (logits.sigmoid() * targets).sum() + 1) / (logits.sigmoid().square().sum() + targets.sum() + 1)
    torch.testing.assert_close(dice_loss(logits, targets, squared=True), squared)


def test_dice_without_positives_is_a_number():
    logits = torch.zeros(2, 3, requires_grad=True)
    for smooth in (0.0, 1e-6, 1.0):
        loss = dice_loss(logits, torch.zeros(2, 3), smooth=smooth)
        assert loss.item() == pytest.approx(1 - smooth / (3 + smooth))
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_what_does_not_fit_is_refused():
    logits, targets = torch.zeros(2, 3), torch.zeros(2, 3)
    for loss in (binary_cross_entropy, binary_focal_loss, dice_loss):
        with pytest.raises(ValueError, match=r"targets must be \[2, 3\] like the logits, got \[2\]"):
            loss(logits, targets[:, 0])
    for weight in (-1.0, torch.ones(2)):
        with pytest.raises(ValueError, match="positive_weight must be"):
            weighted_binary_cross_entropy(logits, targets, weight)
    for keywords in ({"gamma": -1.0}, {"alpha": 2.0}):
        with pytest.raises(ValueError, match="gamma must not be negative and alpha in"):
            binary_focal_loss(logits, targets, **keywords)
    for keywords in ({"smooth": -1.0}, {"over": "rows"}):
        with pytest.raises(ValueError, match="smooth must not be negative and over"):
            dice_loss(logits, targets, **keywords)
