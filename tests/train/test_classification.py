"""The objective of labelled rows, and the data that it reads."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.losses.classification import logit_adjusted_cross_entropy
from palimpsest.tasks.labelled import Labelled
from palimpsest.tasks.mnist import mnist
from palimpsest.tasks.tabular import tabular
from palimpsest.train import apply
from palimpsest.train.classification import Supervised, logits_of


@pytest.fixture(scope="module")
def wine():
    return Labelled(tabular("wine", 0).train, classes=3)


def test_a_step_is_one_of_the_losss_gradient(wine):
    model = nn.Linear(13, 3)
    before = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    compare = partial(logit_adjusted_cross_entropy, tau=0.5)
    batch = wine.batches(16, seed=3)(0)
    apply(model, Supervised(compare, given=("counts",)), wine, steps=1, batch_size=16, seed=3, optimizer="sgd", lr=0.1)
    loss = logit_adjusted_cross_entropy(
        batch["x"] @ before["weight"].T + before["bias"], batch["labels"], wine.counts, tau=0.5
    )
    for value, gradient in zip(model.parameters(), torch.autograd.grad(loss, before.values()), strict=True):
        old = dict(zip(map(id, model.parameters()), before.values(), strict=True))[id(value)]
        torch.testing.assert_close(value.detach(), (old - 0.1 * gradient).detach())


def test_images_and_features_and_models_that_give_plain_logits_are_all_read():
    rows = mnist(0, train=20).train
    batch = rows.batch(slice(4))
    assert torch.equal(logits_of(nn.Flatten(), batch), rows.x[:4].flatten(1))
    assert torch.equal(logits_of(nn.Identity(), {"x": batch["labels"]}), rows.y[:4])


def test_batches_hold_each_row_once_an_epoch_and_are_of_the_seed(wine):
    epoch = torch.cat([wine.batches(9, seed=1)(step)["index"] for step in range(11)])[: len(wine.rows)]
    assert sorted(epoch.tolist()) == list(range(len(wine.rows)))
    assert not torch.equal(wine.batches(9, seed=2)(0)["index"], epoch[:9])


def test_counts_are_of_all_classes_and_of_classes_only(wine):
    few = Labelled(wine.rows.__class__(**{**vars(wine.rows), "y": torch.zeros_like(wine.rows.y)}), classes=3)
    assert few.counts.tolist() == [len(wine.rows), 0, 0]
    with pytest.raises(ValueError, match="only classes can be counted"):
        _ = Labelled(tabular("diabetes", 0).train, classes=0).counts


def test_a_setting_of_the_loss_may_be_any_function(wine):
    model = nn.Linear(13, 3)
    error = partial(F.multi_margin_loss, p=2)
    history = apply(model, Supervised(error), wine, steps=30, lr=0.05).history
    assert history.steps[-1]["loss"] < history.steps[0]["loss"]
