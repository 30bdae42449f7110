"""FOSTER: what boosting begins with, its terms row by row, what compression learns, and how much the model weighs."""

import pytest
import torch
from tests.retain.streams import model, stream
from torch.nn import functional as F

from palimpsest.models.vision import cnn
from palimpsest.retain.continual import as_it_was, features_of, last_layer
from palimpsest.retain.foster import FOSTER
from palimpsest.retain.foster_boosting import (
    Compression,
    balanced_distillation,
    boosted_logits,
    class_weights,
    columns,
    old_logits,
)
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.train.classification import logits_of

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8, "steps": 10, "progress": False}


def second_task(method, kind="class"):
    """The state in the second task, the model and a batch; and the old model."""
    data, network = stream(kind, dtype=torch.float64), model().double()
    first, second = (_present(data, number, SETTINGS) for number in range(2))
    state = method.before_task(method.init(network, first), network, first)
    state = method.before_task(method.after_task(state, network, first), network, second)
    return state, network, _batches(method, state, second, 8)(0), second


def run(method, steps=6, data=None):
    options = {"batch_size": 8, "lr": 1e-2, "progress": False}
    return learn_stream(model(), method, data or stream(), steps=steps, **options)


def test_classes_with_fewer_rows_have_larger_weights():
    e = class_weights(torch.tensor([5, 5, 0, 50]), 0.96)
    effective = torch.tensor([1 - 0.96**5, 1 - 0.96**5, 1 - 0.96**50]) / 0.04
    expected = (1 / effective) / (1 / effective).mean()
    torch.testing.assert_close(e[[0, 1, 3]], expected)
    assert e[2] == 1
    assert torch.equal(class_weights(torch.tensor([7, 7, 7]), 0.9), torch.ones(3))
    assert torch.equal(class_weights(torch.tensor([1, 70]), 0.0), torch.ones(2))
    # At beta near 1 a class weighs as one over its rows.
    near = class_weights(torch.tensor([2, 8]), 0.9999)
    assert (near[0] / near[1]).item() == pytest.approx(4, rel=2e-3)


def test_boosting_begins_where_the_old_model_ended():
    state, network, batch, _ = second_task(FOSTER(size=9))
    with torch.no_grad():
        last_layer(network).weight.zero_()
        logits, features, before = boosted_logits(state, network, batch)
    old = model().double()
    torch.testing.assert_close(before, features)
    torch.testing.assert_close(logits[:, :2], logits_of(old, batch)[:, :2])
    torch.testing.assert_close(old_logits(state, before)[:, :2], logits_of(old, batch)[:, :2])


@pytest.mark.parametrize(("train_old", "old_for_new"), [(False, True), (True, True), (False, False)])
def test_which_columns_of_the_old_features_train(train_old, old_for_new):
    method = FOSTER(size=9, train_old=train_old, old_for_new=old_for_new)
    state, network, batch, _ = second_task(method)
    sum(method.loss(state, network, batch).values()).backward()
    slopes = network.boosted.across.grad.abs().sum(1) > 0
    assert slopes[:4].tolist() == [train_old] * 2 + [old_for_new] * 2
    torch.testing.assert_close(columns(state, network)[:2], model().double().head.weight[:2])
    assert columns(state, network)[2:4].any().item() == old_for_new
    assert not any(value.requires_grad for weights in state["networks"] for value in weights.values())


def test_the_terms_are_the_papers():
    method = FOSTER(size=9, strength=0.6)
    state, network, batch, present = second_task(method)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype))
    old, e = model().double(), class_weights(state["counts"], 0.96).double()
    rows = torch.cat([state["buffer"].labels, present.rows.labels])
    assert state["counts"].tolist() == [int((rows == label).sum()) for label in range(6)]
    new, held, alone = [], [], []
    for image, label in zip(batch["pixel_values"], batch["labels"], strict=True):
        phi_o, phi_n = (each.features(image[None])[0] for each in (old, network))
        A, W, b = columns(state, network), network.head.weight, network.head.bias
        z = (A @ phi_o + W @ phi_n + b)[:4]
        new.append(-(z / e[:4]).log_softmax(0)[label])
        p, q = ((each[:2] / 2).log_softmax(0) for each in (old.head(phi_o), z))
        held.append((p.exp() * (p - q)).sum())
        alone.append(-network.boosted.alone(phi_n)[:4].log_softmax(0)[label])
    terms = method.loss(state, network, batch)
    for name, naive in {"new": new, "held": held, "alone": alone}.items():
        scale = 0.6 if name == "held" else 1.0
        torch.testing.assert_close(terms[name], scale * torch.stack(naive).mean())
    assert "alone" not in FOSTER(size=9, enhance=False).loss(state, network, batch)
    plain = FOSTER(size=9, beta=0.0).loss(state, network, batch)["new"]
    logits = boosted_logits(state, network, batch)[0][:, :4]
    torch.testing.assert_close(plain, F.cross_entropy(logits, batch["labels"]))


def test_old_statistics_of_batch_norm_stand_still():
    network = cnn(1, 6, width=4, image_size=4, norm="batch", feature_dim=8)
    first = {}

    class Watched(FOSTER):
        def before_task(self, state, model, data):
            state = super().before_task(state, model, data)
            if data.number == 1:
                first.update({name: value.clone() for name, value in state["networks"][0].items()})
            return state

        def after_task(self, state, model, data):
            if data.number == 1:
                assert all(torch.equal(first[name], value) for name, value in state["networks"][0].items())
                now = dict(model.named_buffers())
                assert any(not torch.equal(first[name], value) for name, value in now.items())
            return super().after_task(state, model, data)

    learn_stream(network, Watched(size=9), stream(), steps=5, batch_size=8, lr=1e-2, progress=False)
    assert first


def test_values_of_the_authors_code():
    """Their BKD and their weights, in float64, gave these numbers."""
    steps = torch.arange(15, dtype=torch.float64)
    student, teacher = steps.sin().reshape(3, 5), steps.square().cos().reshape(3, 5)
    e = class_weights(torch.tensor([4, 4, 4, 90, 250]), 0.97)
    assert e.tolist() == pytest.approx([1.5444598978194468] * 3 + [0.1893722508678376, 0.17724805567382274], abs=1e-6)
    assert balanced_distillation(student, teacher, e.double()).item() == pytest.approx(1.7620068683507426, abs=1e-6)


def test_equal_weights_and_equal_logits_leave_the_entropy_which_is_the_least():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = (z / 2).softmax(1)
    student = z.clone().requires_grad_()
    value = balanced_distillation(student, z, torch.ones(4))
    torch.testing.assert_close(value, -(p * p.log()).sum(1).mean())
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12
    shut = torch.full((6, 1), -torch.inf, dtype=torch.float64)
    wider = [torch.cat([each, shut], 1) for each in (z, z)]
    torch.testing.assert_close(balanced_distillation(*wider, torch.ones(5)), value)


def test_compression_learns_what_the_boosted_networks_say():
    data = stream(n=60)
    method = FOSTER(size=30, share=0.9)
    state, network, _, _ = second_task(method)
    present = _present(stream(n=60, dtype=torch.float64), 1, {**SETTINGS, "steps": 400})
    boosted = dict(state)
    rows = method.rows(state, present)
    goal = method.answer(state, network, rows.columns).detach()[:, :4]
    after = method.after_task(boosted, network, present)
    said = logits_of(network, rows.columns)[:, :4]
    objective = Compression(class_weights(state["counts"], method.beta_compressed), 2.0)
    assert (
        balanced_distillation(said, goal, objective.weights[:4].double())
        < 1.02 * balanced_distillation(goal, goal, objective.weights[:4].double()) + 0.02
    )
    assert not hasattr(network, "boosted")
    assert "networks" not in after
    assert len(data.tasks) == 3


def test_after_every_task_the_model_is_one_network_again():
    learner = run(FOSTER(size=9))
    assert [name for name, _ in learner.model.named_parameters()] == [name for name, _ in model().named_parameters()]
    assert learner.state.keys() == {"buffer"}
    grown = run(FOSTER(size=9, compress=False))
    assert len(grown.state["networks"]) == 2
    assert grown.state["across"].shape == (6, 16)
    weight = sum(4 * p.numel() for p in model().parameters())
    assert grown.log.memory[-1] >= learner.log.memory[-1] + 2 * weight
    x = stream().tasks[0].test.x
    parts = [grown.model.features(x)]
    for weights in grown.state["networks"][::-1]:
        with as_it_was(grown.model, weights):
            parts.insert(0, features_of(grown.model, {"pixel_values": x}))
    head = torch.cat([grown.state["across"], grown.model.head.weight], 1)
    torch.testing.assert_close(grown(x), torch.cat(parts, 1) @ head.T + grown.model.head.bias)


def test_updates_are_shared_between_boosting_and_compression():
    method = FOSTER(size=9, share=0.4)
    present = _present(stream(), 1, SETTINGS)
    assert method.steps({}, present, 10) == 6
    assert method.steps({}, _present(stream(), 0, SETTINGS), 10) == 10
    assert FOSTER(compress=False).steps({}, present, 10) == 10


@pytest.mark.parametrize("kind", ["class", "task"])
def test_alignment_makes_new_classes_weights_as_long_as_old_ones(kind):
    method = FOSTER(size=9, align_compressed=True, align_boosted=True, share=0.5)
    state, network, _, present = second_task(method, kind)
    method.after_task(state, network, present)
    lengths = network.head.weight.norm(dim=1)
    torch.testing.assert_close(lengths[:2].mean(), lengths[2:4].mean())
    method = FOSTER(size=9, align_compressed=True, align_value=0.8)
    state, network, _, present = second_task(method, kind)
    method.after_task(state, network, present)
    lengths = network.head.weight.norm(dim=1)
    torch.testing.assert_close(0.8 * lengths[:2].mean(), lengths[2:4].mean())


def test_compression_begins_as_the_old_network_and_weighs_its_goal_by_classes(monkeypatch):
    found = []
    monkeypatch.setattr("palimpsest.retain.foster.trained_on", lambda *given: found.append(given))
    method = FOSTER(size=9, beta_compressed=0.9)
    state, network, _, present = second_task(method)
    drawn = network.head.weight.detach().clone()
    method.after_task(state, network, present)
    ((student, objective, rows, _, steps),) = found
    assert (student, steps) == (network, 4)
    assert torch.equal(objective.weights, class_weights(state["counts"], 0.9))
    assert not torch.equal(objective.weights, class_weights(state["counts"], 0.0))
    assert len(rows) == len(state["buffer"]) + len(present.rows)
    old = model().double().head.weight
    assert torch.equal(network.head.weight[:2], old[:2])
    assert all(not torch.equal(network.head.weight[k], each[k]) for k in (2, 3) for each in (old, drawn))
    assert network.head.weight[2:4].std() > 0.05
