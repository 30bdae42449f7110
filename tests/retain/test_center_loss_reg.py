"""Centres against loops, what stands still from the second task on, and updates that are shortened."""

import torch
from tests.retain.streams import CLASSES, draw, model, stream

from palimpsest.models.vision import mlp
from palimpsest.retain.center_loss_reg import CenterLossReg, center_loss, moved_centers
from palimpsest.retain.continual import weights_of
from palimpsest.retain.replay import ER, FineTune
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.retain.slower import slow_down

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}


def learned(method, tasks=3, **more):
    data = stream("domain")
    return learn_stream(
        model(classes=data.classes), method, data, steps=6, batch_size=8, lr=1e-2, progress=False, **more
    )


def test_the_loss_and_the_centres_are_those_of_a_loop():
    features, labels, centers = draw(7, 3), torch.tensor([0, 2, 2, 0, 2, 2, 4]), draw(5, 3, seed=1)
    naive = sum((f - centers[y]).square().sum() for f, y in zip(features, labels, strict=True)) / 14
    torch.testing.assert_close(center_loss(features, labels, centers), naive)
    by_hand = centers.clone()
    for j in range(5):
        rows = features[labels == j]
        by_hand[j] -= 0.3 * (centers[j] - rows).sum(0) / (1 + len(rows))
    moved = moved_centers(centers, features, labels, 0.3)
    torch.testing.assert_close(moved, by_hand)
    assert torch.equal(moved[[1, 3]], centers[[1, 3]]), "classes that the batch has not stay"


def test_centres_have_no_gradient():
    centers = draw(5, 3).requires_grad_()
    features = draw(4, 3, seed=1).requires_grad_()
    center_loss(features, torch.tensor([0, 1, 1, 4]), centers).backward()
    assert centers.grad is None
    torch.testing.assert_close(features.grad, (features - centers[[0, 1, 1, 4]]).detach() / 4)


def test_last_layer_and_centres_stand_still_from_the_second_task_on():
    data, method = stream("domain"), CenterLossReg()
    heads, centers = [], []
    after = method.after_task

    class Watched(CenterLossReg):
        def after_task(self, state, model, data):
            heads.append({name: p.clone() for name, p in model.head.named_parameters()})
            centers.append(state["centers"].clone())
            return after(state, model, data)

    base = model(classes=data.classes)
    before = weights_of(base)
    learn_stream(base, Watched(), data, steps=6, batch_size=8, lr=1e-2, progress=False)
    for name, value in heads[0].items():
        assert not torch.equal(value, before[f"head.{name}"])
        assert all(torch.equal(value, later[name]) for later in heads[1:])
    assert all(torch.equal(centers[0], later) for later in centers[1:])
    assert not torch.equal(base.body[0].weight, before["body.0.weight"])


def test_what_is_not_frozen_moves():
    frozen = learned(CenterLossReg())
    assert not torch.equal(frozen.model.head.weight, learned(CenterLossReg(freeze_classifier=False)).model.head.weight)
    assert not torch.equal(frozen.state["centers"], learned(CenterLossReg(freeze_centers=False)).state["centers"])


def test_with_nothing_of_its_own_it_is_fine_tuning_and_with_replay_er():
    plain = {"strength": 0.0, "slower": 1.0, "freeze_classifier": False}
    for mine, theirs in (
        (CenterLossReg(**plain), FineTune()),
        (CenterLossReg(**plain, size=9), ER(size=9)),
    ):
        other = learned(theirs)
        for a, b in zip(learned(mine).model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_a_class_that_comes_later_gets_its_centre_from_its_first_batch():
    data, base, method = stream(dtype=torch.float64), model().double(), CenterLossReg(alpha=0.5)
    first, second = (_present(data, number, SETTINGS) for number in range(2))
    state = method.after_task(method.before_task(method.init(base, first), base, first), base, first)
    state = method.before_task(state, base, second)
    batch = _batches(method, state, second, 8)(0)
    kept = state["centers"].clone()
    method.loss(state, base, batch)
    method.gradients(state, base)
    features = base.features(batch["pixel_values"]).detach()
    for label in (2, 3):
        torch.testing.assert_close(state["centers"][label], features[batch["labels"] == label].mean(0))
    assert torch.equal(state["centers"][:2], kept[:2])
    assert state["centers"][4:].isnan().all()


def test_a_shortened_update_is_that_of_a_lower_rate():
    ends = []
    for rate, share in ((0.1, 0.3), (0.03, 1.0)):
        base = mlp(4, CLASSES, hidden=(3,))
        optimizer = torch.optim.AdamW(base.parameters(), lr=rate, weight_decay=0.0)
        before = weights_of(base)
        for step in range(4):
            optimizer.zero_grad()
            base.features(torch.full((1, 4), step + 1.0)).square().sum().backward()
            optimizer.step()
            before = slow_down(base, before, share)
        ends.append(before)
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name])
