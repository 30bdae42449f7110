"""Rehearsal with distillation: the loss row by row in every combination, its limits, and a memory of equal parts."""

import math

import pytest
import torch
from tests.retain.streams import model, stream
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.retain.combined_distillation import combined_loss, kd_logits
from palimpsest.retain.continual import Continual, features_of
from palimpsest.retain.rehearsal_kd import RehearsalKD, grid
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.train.classification import logits_of

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 20}


def second_task(method, kind="class"):
    """The state in the second task, the old model, one that has moved on, and a batch with kept rows."""
    data, network, old = stream(kind, dtype=torch.float64), model().double(), model().double()
    first, second = (_present(data, number, SETTINGS) for number in range(2))
    state = method.after_task(method.init(network, first), network, first)
    state = method.before_task(state, network, second)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype))
    return state, old, network, _batches(method, state, second, 20)(0)


@pytest.mark.parametrize("method", grid(RehearsalKD(size=30)), ids=lambda m: f"{m.features}-{m.logits}")
def test_the_loss_is_the_papers(method):
    state, old, network, batch = second_task(method)
    memory = batch["task"] == 0
    assert 0 < memory.sum() < len(memory)
    logits, said = (logits_of(each, batch) for each in (network, old))
    weights = {"memory": math.sqrt(memory.sum() / len(memory)), "all": math.log(1 + 2 / 4)}
    rows = {"memory": memory, "all": torch.ones_like(memory)}
    loss = F.cross_entropy(logits[:, :4], batch["labels"])
    if method.features != "none":
        a = weights[method.features]
        gaps = [
            (features_of(network, {"pixel_values": image[None]}) - old.features(image[None])).square().mean()
            for image in batch["pixel_values"][rows[method.features]]
        ]
        loss = (1 - a) * loss + a * torch.stack(gaps).mean()
    if method.logits != "none":
        a, kept = weights[method.logits], rows[method.logits]
        p, q = (each[kept][:, :2].log_softmax(1) for each in (said, logits))
        divergence = (p.exp() * (p - q)).sum() / (2 * kept.sum())  # over rows and classes
        loss = (loss if method.features != "none" else (1 - a) * loss) + a * divergence
    torch.testing.assert_close(method.loss(state, network, batch)["loss"], loss)


@pytest.mark.parametrize(("features", "logits"), [("memory", "none"), ("none", "memory"), ("memory", "memory")])
def test_a_batch_without_kept_rows_is_learned_by_its_labels(features, logits):
    method = RehearsalKD(size=30, features=features, logits=logits)
    state, _, network, batch = second_task(method)
    today = {name: value[batch["task"] == 1] for name, value in batch.items()}
    plain = F.cross_entropy(logits_of(network, today)[:, :4], today["labels"])
    torch.testing.assert_close(method.loss(state, network, today)["loss"], plain)


def test_value_of_the_authors_code():
    """Their get_kdloss behind their features on kept rows, in float64, gave this number."""
    steps = torch.arange(20, dtype=torch.float64)
    student, teacher = steps.sin().reshape(4, 5), (2 * steps).cos().reshape(4, 5)
    heads = torch.tensor([[True, True, True, False, False]])
    ce = F.cross_entropy(student, torch.tensor([0, 3, 4, 1]))
    feature = F.mse_loss(student[:2] ** 2, teacher[:2] ** 2)
    value = combined_loss(ce, (math.sqrt(0.5), feature), (math.log(1 + 3 / 5), kd_logits(student, teacher, heads, 2.0)))
    assert value.item() == pytest.approx(0.6907547183091933, abs=1e-6)


def test_without_distillation_it_is_cross_entropy_on_kept_and_new_rows_together():
    class Rehearsal(RehearsalKD):
        loss = Continual.loss

    options = {"steps": 6, "batch_size": 8, "lr": 1e-2, "progress": False}
    plain, none = (
        learn_stream(model(), kind(size=9, features="none", logits="none"), stream(), **options)
        for kind in (Rehearsal, RehearsalKD)
    )
    full = learn_stream(model(), RehearsalKD(size=9), stream(), **options)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), none.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), full.parameters(), strict=True))


def test_classes_that_were_not_there_are_not_held():
    method = RehearsalKD(size=30, features="none", logits="all")
    state, _, network, batch = second_task(method)
    logits = logits_of(network, batch).detach().requires_grad_()
    slopes = torch.autograd.grad(kd_logits(logits, logits.detach() + torch.arange(6), state["heads"]), logits)[0]
    assert slopes[:, :2].any()
    assert not slopes[:, 2:].any()
    told, _, network, batch = second_task(method, "task")
    assert told["heads"].tolist() == [[True, True, False, False, False, False]]


@pytest.mark.parametrize("kept", ["random", "nearest", "herding"])
def test_each_class_has_the_same_part_of_the_memory_from_the_first_task_on(kept):
    method = RehearsalKD(size=20, kept=kept)
    data, network = stream(), model()
    state = method.init(network, _present(data, 0, SETTINGS))
    for number in range(3):
        before = state["buffer"].columns.get("pixel_values")
        state = method.after_task(state, network, _present(data, number, SETTINGS))
        assert state["buffer"].labels.bincount().tolist() == [3] * (2 * number + 2)
        if before is not None:
            assert torch.equal(state["buffer"].columns["pixel_values"][: len(before)], before)
    if kept == "nearest":
        rows = _present(data, 0, SETTINGS).rows.of_class(1)
        phi = network.features(rows.columns["pixel_values"]).detach()
        nearest = (phi - phi.mean(0)).norm(dim=1).topk(3, largest=False).indices
        mine = state["buffer"].of_class(1).columns["pixel_values"]
        assert torch.equal(mine, rows.columns["pixel_values"][nearest])


def test_a_memory_without_a_row_for_each_class_is_refused():
    with pytest.raises(UserError, match="size must be at least 1 for each of the stream's 6 classes, got 5"):
        learn_stream(model(), RehearsalKD(size=5), stream(), steps=1, progress=False)
