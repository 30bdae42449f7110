"""Weight aligning: the reference implementation's factor, what aligning leaves alone, and its training's loss."""

import pytest
import torch
from tests.retain.streams import draw, model, rows, stream
from torch import nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, Examples
from palimpsest.retain.increments import with_exemplars
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.retain.weight_aligning import WeightAligning, aligning_factor
from palimpsest.tasks.streams import Stream, Task

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}
OLD = torch.tensor([True] * 3 + [False] * 3)


def run(method, data=None, **options):
    settings = {"steps": 10, "batch_size": 8, "lr": 1e-2, "progress": False, **options}
    return learn_stream(model(), method, data or stream(), **settings)


def second_task(method):
    data, base = stream(dtype=torch.float64), model().double()
    first, second = (_present(data, number, SETTINGS) for number in range(2))
    state = method.after_task(method.init(base, first), base, first)
    state = method.before_task(state, base, second)
    return state, base, second, _batches(method, state, second, 8)(0)


def test_factor_of_the_reference_implementation():
    """PyCIL's weight_align, in float64, gave this factor."""
    weight = torch.sin(torch.arange(30, dtype=torch.float64).square()).reshape(6, 5)
    assert aligning_factor(weight, OLD, ~OLD).item() == pytest.approx(1.0016514420932416, abs=1e-9)


def test_aligned_weights_have_the_same_mean_length_and_the_same_order_within_groups():
    weight, features = draw(6, 5), draw(20, 5, seed=1)
    aligned = weight.clone()
    aligned[~OLD] *= aligning_factor(weight, OLD, ~OLD)
    lengths = aligned.norm(dim=1)
    torch.testing.assert_close(lengths[OLD].mean(), lengths[~OLD].mean(), rtol=0, atol=1e-6)
    for group in (OLD, ~OLD):
        assert torch.equal((features @ aligned[group].T).argsort(1), (features @ weight[group].T).argsort(1))
    nothing = torch.zeros_like(OLD)
    assert aligning_factor(weight, nothing, ~nothing) == 1


def test_a_task_ends_with_aligned_weights_and_old_ones_stay():
    method = WeightAligning(size=9)
    state, base, second, _ = second_task(method)
    with torch.no_grad():
        base.head.weight[2:4] *= 3
    before, bias = base.head.weight.detach().clone(), base.head.bias.detach().clone()
    method.after_task(state, base, second)
    now = base.head.weight.detach().norm(dim=1)
    torch.testing.assert_close(now[:2].mean(), now[2:4].mean(), rtol=0, atol=1e-6)
    others = [0, 1, 4, 5]  # old ones and those to come
    assert torch.equal(base.head.weight[others], before[others])
    assert torch.equal(base.head.bias, bias)


def test_the_loss_weighs_cross_entropy_and_distillation_by_shares_of_classes():
    method = WeightAligning(size=9)
    state, base, _, batch = second_task(method)
    old = model().double()
    with torch.no_grad():
        base.head.weight.add_(0.1 * draw(*base.head.weight.shape))
    logits, teacher = (each(pixel_values=batch["pixel_values"]).logits for each in (base, old))
    terms = method.loss(state, base, batch)
    torch.testing.assert_close(terms["new"], 0.5 * F.cross_entropy(logits[:, :4], batch["labels"]))
    p, q = ((each[:, :2] / 2).log_softmax(1) for each in (teacher, logits))
    torch.testing.assert_close(terms["held"], 0.5 * (p.exp() * (p - q)).sum(1).mean())


def test_weights_are_never_negative_where_they_are_clipped():
    seen = []

    class Watched(WeightAligning):
        def loss(self, state, model, batch):
            seen.append(model.head.weight.min().item())
            return super().loss(state, model, batch)

    learner = run(Watched(size=9), steps=4)
    assert seen[0] < 0  # the first weights, before an update
    assert min(seen[1:]) >= 0
    assert learner.model.head.weight.min() >= 0
    assert run(WeightAligning(size=9, clip=False)).model.head.weight.min() < 0


def test_clipping_behind_an_update_is_the_naive_loop():
    one = type(stream())(stream().tasks[:1])
    learner = learn_stream(
        model(classes=2), WeightAligning(), one, steps=3, batch_size=8, lr=0.3, optimizer="sgd", progress=False
    )
    method, base = WeightAligning(), model(classes=2)
    data = _present(one, 0, {"seed": 0, "batch_size": 8})
    batches = _batches(method, method.init(base, data), data, 8)
    for index in range(3):
        batch = batches(index)
        loss = F.cross_entropy(base(pixel_values=batch["pixel_values"]).logits, batch["labels"])
        slopes = torch.autograd.grad(loss, list(base.parameters()))
        with torch.no_grad():
            for p, slope in zip(base.parameters(), slopes, strict=True):
                p.sub_(0.3 * slope)
            base.head.weight.clamp_(min=0)
    for mine, naive in zip(learner.parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(mine, naive)


def test_exemplars_are_equal_parts_in_the_order_of_herding():
    rows = Examples(
        {"pixel_values": draw(40, 1, 4, 4).float(), "labels": torch.arange(40) % 2, "task": torch.zeros(40)}
    )
    base = model()
    first = with_exemplars(Buffer(capacity=9), rows, base, 9)
    assert first.labels.bincount().tolist() == [4, 4]
    new = Examples({**rows.columns, "labels": rows.labels + 2})
    second = with_exemplars(first, new, base, 9)
    assert second.labels.bincount().tolist() == [2, 2, 2, 2]
    assert torch.equal(second.of_class(0).columns["pixel_values"], first.of_class(0).columns["pixel_values"][:2])
    assert isinstance(base.head, nn.Linear)


def test_a_class_that_comes_again_counts_as_neither_old_nor_new():
    tasks = [Task(str(c), rows(c, 24, 1), rows(c, 8, 2), c) for c in ((0, 1), (1, 2))]
    method, base = WeightAligning(size=9, clip=False), model(classes=3)
    first, second = (_present(Stream(tuple(tasks)), number, SETTINGS) for number in range(2))
    state = method.before_task(method.after_task(method.init(base, first), base, first), base, second)
    with torch.no_grad():
        base.head.weight[1] *= 3
    before = base.head.weight.detach().clone()
    method.after_task(state, base, second)
    now = base.head.weight.detach()
    torch.testing.assert_close(now[2].norm(), before[0].norm())
    assert torch.equal(now[:2], before[:2])
