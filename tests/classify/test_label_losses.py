"""The losses that `palimpsest classify` offers: each is its room's or its hall's, in one form."""

from dataclasses import fields

import pytest
import torch
from torch.nn import functional as F

from palimpsest.classify.family import family
from palimpsest.classify.label_losses import ClassWeights, GeneralizedCE, LabelSmoothing, LogitAdjustment
from palimpsest.errors import UserError
from palimpsest.losses.classification import (
    class_balanced_cross_entropy,
    generalized_cross_entropy,
    logit_adjusted_cross_entropy,
)
from palimpsest.models.vision import mlp
from palimpsest.tasks.labelled import Labelled
from palimpsest.tasks.tabular import tabular
from palimpsest.train import apply
from palimpsest.train.classification import Supervised

METHODS = family.methods
COUNTS = torch.tensor([30, 5, 2])


@pytest.fixture
def rows():
    draws = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, generator=draws, requires_grad=True), torch.randint(3, (12,), generator=draws)


def test_losses_are_those_of_the_hall(rows):
    assert LabelSmoothing(0.3)(*rows) == F.cross_entropy(*rows, label_smoothing=0.3)
    assert ClassWeights(0.9)(*rows, counts=COUNTS) == class_balanced_cross_entropy(*rows, COUNTS, 0.9)
    assert LogitAdjustment(0.5)(*rows, counts=COUNTS) == logit_adjusted_cross_entropy(*rows, COUNTS, 0.5)
    assert GeneralizedCE(0.4)(*rows) == generalized_cross_entropy(*rows, 0.4)


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_prefers_the_label_and_has_a_finite_gradient(name, rows):
    loss, (logits, labels) = METHODS[name], rows
    right = F.one_hot(labels, 3).float()
    assert loss(2 * right, labels, counts=COUNTS) < loss(-2 * right, labels, counts=COUNTS)
    (gradient,) = torch.autograd.grad(loss(logits, labels, counts=COUNTS), logits)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_trains_and_gets_what_it_names(name):
    loss, data = METHODS[name], Labelled(tabular("wine", 0).train, classes=3)
    applied = apply(mlp(13, 3), Supervised(loss, given=loss.given), data, steps=20, lr=1e-2)
    assert applied.history.steps[-1]["loss"] < applied.history.steps[0]["loss"]


@pytest.mark.parametrize("name", METHODS)
def test_every_field_of_a_loss_is_documented_and_bounded(name):
    kind = type(METHODS[name])
    assert kind.__doc__
    for field in fields(kind):
        with pytest.raises(UserError, match=f"{field.name} must be"):
            kind(**{field.name: -1.0})
