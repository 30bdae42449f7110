"""Pruning that spares a class: the loss against naive sums, masks that hold, and rounds that choose their weight."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from palimpsest.classify.class_compress import ClassDependentLoss, auc_surrogate, error_rates, fn_fp_loss
from palimpsest.classify.class_compress_rounds import (
    Pruned,
    hold,
    iterative_prune,
    masks_of,
    smaller,
    weight_of_misses,
)
from palimpsest.models.vision import mlp
from palimpsest.tasks.labelled import Labelled
from palimpsest.tasks.tabular import tabular
from palimpsest.train import apply


def rows(n=12):
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(n, generator=draws, dtype=torch.float64, requires_grad=True)
    return logits, (torch.arange(n) % 3 == 0).long()


@pytest.fixture(scope="module")
def task():
    task = tabular("wine", 0)
    one = {
        part: replace(getattr(task, part), y=(getattr(task, part).y == 2).long()) for part in ("train", "validation")
    }
    return Labelled(one["train"], classes=2), one["validation"]


def test_the_two_errors_and_the_pairs_are_naive_sums():
    logits, labels = rows()
    p = logits.sigmoid()
    misses = [-p[i].log() for i in range(12) if labels[i]]
    reports = [-(1 - p[i]).log() for i in range(12) if not labels[i]]
    naive = 3 * sum(misses) / len(misses) + 0.5 * sum(reports) / len(reports)
    torch.testing.assert_close(fn_fp_loss(logits, labels, 3.0, 0.5), naive)
    pairs = [
        max(0.0, 0.3 - (p[i] - p[j]).item()) ** 2 for i in range(12) for j in range(12) if labels[i] and not labels[j]
    ]
    assert auc_surrogate(logits, labels).item() == pytest.approx(sum(pairs) / len(pairs))
    both = ClassDependentLoss(3.0, 0.5, mu=2.0)(logits[:, None], labels)
    torch.testing.assert_close(both, naive + 2 * auc_surrogate(logits, labels))
    assert torch.autograd.gradcheck(lambda s: ClassDependentLoss()(s[:, None], labels), logits)


def test_pairs_apart_by_the_gap_cost_nothing_and_batches_of_one_kind_are_finite():
    logits = torch.tensor([5.0, -5.0], requires_grad=True)
    assert auc_surrogate(logits, torch.tensor([1, 0])) == 0
    for label in (0, 1):
        loss = ClassDependentLoss()(logits[:, None], torch.full((2,), label))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()


def test_the_smallest_weights_of_each_layer_go_and_never_the_last():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    masks = masks_of(model)
    assert set(masks) == {"0.weight", "2.weight"}
    for _ in range(20):
        before, masks = masks, smaller(model, masks, 0.5)
        for name, mask in masks.items():
            weight = dict(model.named_parameters())[name].abs()
            assert not (mask & ~before[name]).any()
            gone = before[name] & ~mask
            if gone.any():
                assert weight[gone].max() <= weight[mask].min()
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adam"])
def test_what_is_removed_stays_exactly_0_under_momentum_and_weight_decay(optimizer, task):
    model = mlp(13, 1, hidden=[8])
    masks = smaller(model, masks_of(model), 0.6)
    hold(model, masks)
    extra = {"momentum": 0.9} if optimizer == "sgd" else {}
    apply(
        model,
        Pruned(ClassDependentLoss(), masks=masks),
        task[0],
        steps=10,
        lr=1e-2,
        weight_decay=0.1,
        optimizer=optimizer,
        **extra,
    )
    for name, p in model.named_parameters():
        if name in masks:
            assert (p[~masks[name]] == 0).all()
            assert (p[masks[name]] != 0).all()


def test_the_lightest_weight_that_spares_the_class_is_taken():
    tried = []

    def missed(weight):
        tried.append(weight)
        return {1: 0.3, 2: 0.1, 4: 0.0}[weight]

    assert weight_of_misses([4, 1, 2], missed, dense=0.1) == 2
    assert tried == [1, 2]
    assert weight_of_misses([1, 2], missed, dense=0.0) == 2
    assert weight_of_misses([1, 2], missed, dense=0.2, tolerance=0.5) == 1


@pytest.mark.parametrize("rewind", ["init", "early"])
def test_rounds_prune_rewind_and_keep_what_they_say(rewind, task):
    model = mlp(13, 1, hidden=[8])
    first = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"rounds": 3, "rate": 0.5, "rewind": rewind, "weights": [1.0, 8.0], "steps": 15, "lr": 1e-2}
    found = iterative_prune(model, ClassDependentLoss(), *task, **settings)
    assert [round(each.remaining, 2) for each in found] == [1.0, 0.5, 0.25]
    assert found[0].w_fn == 1.0
    assert all(each.w_fn in (1.0, 8.0) for each in found)
    assert all(set(each.rates) == {"fn", "fp", "accuracy", "auc"} for each in found)
    for name, value in model.state_dict().items():
        assert torch.equal(value, found[-1].state[name])
    assert any(not torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_rates_and_what_is_refused(task):
    rates = error_rates(torch.tensor([1.0, -1.0, 1.0, -2.0]), torch.tensor([1, 1, 0, 0]))
    assert rates == {"fn": 0.5, "fp": 0.5, "accuracy": 0.5}
    with pytest.raises(ValueError, match="labels of 0 and 1"):
        fn_fp_loss(torch.zeros(1), torch.tensor([2]))
    with pytest.raises(ValueError, match="ClassDependentLoss"):
        iterative_prune(mlp(13, 1), nn.functional.cross_entropy, *task, rounds=1, weights=[1.0], steps=1)
    with pytest.raises(Exception, match="w_fn must be"):
        ClassDependentLoss(w_fn=-1.0)
