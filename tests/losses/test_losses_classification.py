"""Losses of logits and labels against their formulas, row by row, and at the ends where they become cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from palimpsest.losses.classification import (
    average_candidate_cross_entropy,
    candidate_cross_entropy,
    class_balanced_cross_entropy,
    generalized_cross_entropy,
    logit_adjusted_cross_entropy,
    weak_negative_cross_entropy,
)

COUNTS = torch.tensor([60, 30, 8, 2])
LABELS = torch.tensor([0, 3, 2, 1, 3])
LOGITS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SETS = F.one_hot(LABELS, 4).bool() | torch.tensor([[True, False, False, False]]).repeat(5, 1)


def test_logit_adjustment_multiplies_the_odds_by_the_prior():
    prior = COUNTS / COUNTS.sum()
    for tau in (0.5, 1.0, 2.0):
        weighed = LOGITS.exp() * prior**tau
        expected = -(weighed[range(5), LABELS] / weighed.sum(1)).log().mean()
        torch.testing.assert_close(
            logit_adjusted_cross_entropy(LOGITS, LABELS, COUNTS, tau), expected, rtol=1e-6, atol=0
        )


def test_the_least_of_the_adjusted_loss_is_the_balanced_posterior():
    # One input, of which rows of every class come as often as the prior says: nothing is to be learned from it.
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.repeat_interleave(torch.arange(4), COUNTS)
    logit_adjusted_cross_entropy(logits.expand(100, 4), labels, COUNTS).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-7, rtol=0)


def test_class_weights_go_from_none_to_inverse_frequency():
    rows = F.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(class_balanced_cross_entropy(LOGITS, LABELS, COUNTS, beta=0.0), rows.mean())
    inverse = (1 / COUNTS) / (1 / COUNTS).mean()
    near = class_balanced_cross_entropy(LOGITS, LABELS, COUNTS.double(), beta=1 - 1e-7)
    torch.testing.assert_close(near, (inverse[LABELS] * rows).mean(), rtol=1e-3, atol=0)


def test_generalized_cross_entropy_lies_between_cross_entropy_and_the_absolute_error():
    p = LOGITS.softmax(1)[range(5), LABELS]
    torch.testing.assert_close(generalized_cross_entropy(LOGITS, LABELS, q=1.0), (1 - p).mean())
    torch.testing.assert_close(generalized_cross_entropy(LOGITS, LABELS, q=0.7), ((1 - p**0.7) / 0.7).mean())
    near = generalized_cross_entropy(LOGITS, LABELS, q=1e-6)
    torch.testing.assert_close(near, F.cross_entropy(LOGITS, LABELS), rtol=1e-5, atol=0)


def test_wrong_labels_that_are_symmetric_add_a_constant_to_the_absolute_error():
    every = sum(generalized_cross_entropy(LOGITS, torch.full((5,), c), q=1.0) for c in range(4))
    assert every.item() == pytest.approx(3)


def test_sets_of_one_candidate_are_labels_and_all_candidates_say_nothing():
    one, all_of_them = F.one_hot(LABELS, 4).bool(), torch.ones(5, 4, dtype=torch.bool)
    for loss in (candidate_cross_entropy, average_candidate_cross_entropy):
        torch.testing.assert_close(loss(LOGITS, one), F.cross_entropy(LOGITS, LABELS))
    assert candidate_cross_entropy(LOGITS, all_of_them).item() == pytest.approx(0, abs=1e-12)


def test_losses_of_candidates_against_loops():
    p = LOGITS.softmax(1)
    whole = [-math.log(sum(p[i, c] for c in range(4) if SETS[i, c])) for i in range(5)]
    each = [-sum(p[i, c].log() for c in range(4) if SETS[i, c]) / SETS[i].sum() for i in range(5)]
    assert candidate_cross_entropy(LOGITS, SETS).item() == pytest.approx(sum(whole) / 5)
    assert average_candidate_cross_entropy(LOGITS, SETS).item() == pytest.approx(float(sum(each)) / 5)


def test_negatives_count_by_their_weight_and_fully_in_binary_cross_entropy():
    observed = F.one_hot(LABELS, 4)
    whole = F.binary_cross_entropy_with_logits(LOGITS, observed.double(), reduction="none")
    torch.testing.assert_close(weak_negative_cross_entropy(LOGITS, observed), whole.mean())
    weights = torch.where(observed.bool(), 1.0, 0.25)
    torch.testing.assert_close(weak_negative_cross_entropy(LOGITS, observed, weight=0.25), (weights * whole).mean())


@pytest.mark.parametrize("loss", [candidate_cross_entropy, average_candidate_cross_entropy])
def test_gradients_are_finite_where_a_candidate_is_out_of_the_question(loss):
    logits = torch.tensor([[100.0, -100.0, 0.0]], requires_grad=True)
    loss(logits, torch.tensor([[False, True, True]])).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 0] > 0


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: logit_adjusted_cross_entropy(LOGITS, LABELS, COUNTS[:3]), r"counts must be \[4\]"),
        (lambda: logit_adjusted_cross_entropy(LOGITS, LABELS, COUNTS, tau=-1.0), "tau must not be negative, got -1"),
        (lambda: class_balanced_cross_entropy(LOGITS, LABELS, COUNTS, beta=1.0), r"beta must be in \[0, 1\), got 1"),
        (lambda: generalized_cross_entropy(LOGITS, LABELS, q=0.0), r"q must be in \(0, 1\], got 0"),
        (lambda: candidate_cross_entropy(LOGITS, SETS[:3]), r"candidates must be \[5, 4\]"),
        (lambda: weak_negative_cross_entropy(LOGITS, LABELS), r"labels must be \[5, 4\]"),
        (lambda: weak_negative_cross_entropy(LOGITS, SETS.long(), weight=-1.0), "weight must not be negative, got -1"),
        (lambda: average_candidate_cross_entropy(LOGITS, SETS & False), "row 0 has no candidate"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()
