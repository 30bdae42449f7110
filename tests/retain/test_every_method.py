"""What every continual method owes its user, whatever its paper: one table, `METHODS`, no line a method.

A method that is added to the table is held to all of this; where a property cannot hold, the reason stands in a table
here.
"""

import json
from copy import deepcopy
from dataclasses import fields, replace

import pytest
import torch
from tests.method_checks import is_frozen_plain_and_documented, refuses_fields_outside_their_range
from tests.retain.streams import CLASSES, SIDE, model, stream
from torch import nn

from palimpsest.errors import UserError
from palimpsest.models.vision import mlp
from palimpsest.retain.continual import on, with_allowed
from palimpsest.retain.methods import METHODS
from palimpsest.retain.sequence import InSequence, _batches, _present, learn_stream
from palimpsest.tasks.streams import Stream, Task
from palimpsest.tasks.tabular import tabular
from palimpsest.train import apply, checkpoint

# So that buffers overflow.
QUICK = {name: {"size": 9} for name, method in METHODS.items() if "size" in {each.name for each in fields(method)}}
METHOD = {name: replace(method, **QUICK.get(name, {})) for name, method in METHODS.items()}
# What no difference of two values of the loss can show: their own tests compare gradients with a naive loop's.
NO_SLOPE = {"hfc": "the weights of its rows are constants that the model's answers make"}
KINDS = ("class", "task", "domain")

each = pytest.mark.parametrize("name", METHOD)


def run(name, data=None, base=None, **options):
    settings = {"steps": 2, "batch_size": 8, "lr": 1e-2, "seed": 0, "progress": False, **options}
    return learn_stream(model() if base is None else base, METHOD[name], data or stream(), **settings)


def in_second_task(name, dtype=torch.float32, seed=0):
    """A method in the middle of a stream: its first state, its state in the second task, the model, and a batch."""
    data, base = stream(dtype=dtype), model(seed).to(dtype)
    settings = {"seed": 0, "lr": 1e-2, "batch_size": 8}
    method, first = METHOD[name], _present(data, 0, settings)
    begun = method.init(base, first)
    state = method.before_task(begun, base, first)
    state = method.after_task(state, base, first)
    second = _present(data, 1, settings)
    state = method.before_task(state, base, second)
    batch = _batches(method, state, second, 8)(0)
    return method, begun, state, base, batch


@each
def test_it_is_frozen_plain_and_documented(name):
    is_frozen_plain_and_documented(METHOD[name])


@each
def test_a_field_outside_its_range_is_refused(name):
    refuses_fields_outside_their_range(METHOD[name])


@pytest.mark.parametrize("kind", KINDS)
@each
def test_a_stream_of_two_steps_a_task_leaves_a_model_that_answers(name, kind):
    data = stream(kind)
    learner = run(name, data, model(classes=data.classes))
    assert all(p.isfinite().all() for p in learner.model.parameters())
    for part in ("test", "validation"):
        assert learner.log.accuracy[part].isfinite().all()
    task = data.tasks[1]
    scores = learner(task.test.x, task=1)
    assert not scores.isnan().any()
    assert set(scores.argmax(1).tolist()) <= set(task.classes if kind == "task" else range(data.classes))
    assert torch.equal(learner.accuracies(data), learner.log.accuracy["test"][-1])
    assert len(learner.log.memory) == len(learner.log.seconds) == 3


@each
def test_it_learns_what_is_easy(name):
    learner = run(name, stream("task"), steps=60)
    assert learner.log.accuracy["test"].diagonal().mean() > 0.8


@each
def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_generators_alone(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = run(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    two = run(name)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert torch.equal(one.log.accuracy["test"], two.log.accuracy["test"])
    x = stream().tasks[0].test.x
    assert torch.equal(one(x), two(x))


@each
def test_the_rows_stay_as_they_were(name):
    data, same = stream(), stream()
    run(name, data)
    for mine, theirs in zip(data.tasks, same.tasks, strict=True):
        assert torch.equal(mine.train.x, theirs.train.x)
        assert torch.equal(mine.train.y, theirs.train.y)


@each
def test_a_run_that_is_broken_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    whole = run(name, checkpoint=tmp_path / "whole")
    kind, calls = type(METHOD[name]), []
    after = kind.after_task

    def breaks(self, state, model, data):
        calls.append(data.number)
        if data.number == 2:
            raise KeyboardInterrupt
        return after(self, state, model, data)

    monkeypatch.setattr(kind, "after_task", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(name, checkpoint=tmp_path / "broken")
    monkeypatch.setattr(kind, "after_task", after)
    resumed = run(name, base=model(seed=7), checkpoint=tmp_path / "broken")
    assert calls == [0, 1, 2]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert torch.equal(whole.log.accuracy["test"], resumed.log.accuracy["test"])
    assert whole.log.memory == resumed.log.memory
    x = stream().tasks[0].test.x
    assert torch.equal(whole(x), resumed(x))
    with pytest.raises(UserError, match=r"was made with steps=2, not steps=3"):
        run(name, checkpoint=tmp_path / "broken", steps=3)


@each
def test_the_state_leaves_the_model_alone_and_survives_a_checkpoint(name):
    method, begun, state, base, batch = in_second_task(name)
    assert all(p.grad is None for p in base.parameters())
    value = sum(method.loss(state, base, batch).values())
    tensors = {}
    facts = json.loads(json.dumps(checkpoint.encode(state, tensors, "")))
    again = checkpoint.decode(facts, tensors, deepcopy(begun))
    assert torch.equal(sum(method.loss(again, base, batch).values()), value)


@each
def test_the_gradient_is_the_slope_of_the_loss_and_finite(name):
    method, _, state, base, batch = in_second_task(name, torch.float64)
    trained = [p for p in base.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(2)
    moved, step = (
        [size * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in trained] for size in (0.05, 1e-6)
    )
    nudge(trained, moved)  # away from the old weights, where penalties are flat
    value = sum(method.loss(state, base, batch).values())
    slopes = torch.autograd.grad(value, trained, allow_unused=True)
    assert all(slope is None or slope.isfinite().all() for slope in slopes)
    if name in NO_SLOPE:
        return
    along = sum((slope * d).sum() for slope, d in zip(slopes, step, strict=True) if slope is not None)
    nudge(trained, step)
    up = sum(method.loss(state, base, batch).values()).detach()
    nudge(trained, [-2 * d for d in step])
    down = sum(method.loss(state, base, batch).values()).detach()
    torch.testing.assert_close((up - down) / 2, along, rtol=1e-4, atol=1e-11)


def nudge(parameters, steps):
    with torch.no_grad():
        for p, d in zip(parameters, steps, strict=True):
            p.add_(d)


@each
def test_the_order_of_the_rows_does_not_matter(name):
    method, _, state, base, batch = in_second_task(name)
    value = sum(method.loss(state, base, batch).values())
    turned = {
        name: {k: v.flip(0) for k, v in part.items()} if isinstance(part, dict) else part.flip(0)
        for name, part in batch.items()
    }
    torch.testing.assert_close(sum(method.loss(state, base, turned).values()), value)


@each
def test_autocast_is_near_float32(name):
    method, _, state, base, batch = in_second_task(name)
    plain = sum(method.loss(state, base, batch).values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = sum(method.loss(state, base, batch).values())
    torch.testing.assert_close(mixed.float(), plain, rtol=5e-2, atol=5e-2)


@each
def test_a_model_that_can_do_the_first_task_is_not_taught_it_again(name):
    taught = run("fine_tune", stream(), steps=40, already=0).model
    before = deepcopy(taught.state_dict())
    learner = run(name, base=taught, already=3)
    if name not in ("interpolation",):
        assert all(torch.equal(before[key], value) for key, value in learner.model.state_dict().items())
    assert learner.log.accuracy["test"].isfinite().all()


@each
def test_rows_of_a_table_are_learned_like_images(name):
    data = tabular("wine", 0)
    tasks = tuple(
        Task(f"{label}", *(part[part.y == label] for part in (data.train, data.test)), (label,)) for label in range(3)
    )
    learner = learn_stream(
        mlp(13, 3, hidden=(8,)), METHOD[name], Stream(tasks), steps=2, batch_size=1, lr=1e-2, progress=False
    )
    assert learner.log.accuracy["test"].isfinite().all()
    assert "validation" not in learner.log.accuracy


@each
def test_it_is_applied_as_an_edit(name):
    applied = apply(model(), InSequence(METHOD[name]), stream(), steps=2, batch_size=8, lr=1e-2, seed=0, progress=False)
    assert torch.equal(applied.model.log.accuracy["test"], run(name).log.accuracy["test"])


@each
def test_a_model_without_what_it_needs_is_refused(name):
    bare = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))
    try:
        METHOD[name].fits(bare)
    except UserError:
        with pytest.raises(
            UserError, match=rf"{type(METHOD[name]).__name__} cannot be applied to Sequential: it works"
        ):
            run(name, base=bare)
    else:
        assert run(name, base=bare).log.accuracy["test"].isfinite().all()


def test_batches_say_of_every_row_what_may_be_answered():
    _, _, _, _, batch = in_second_task("der_pp")
    for part in (batch, batch["memory"], batch["dark"]):
        assert part["allowed"].tolist() == [[True] * 4 + [False] * 2] * len(part["labels"])
    again = on(with_allowed({"task": torch.tensor([0, 2])}, stream("task").allowed(3)), torch.device("cpu"))
    assert again["allowed"].int().tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]]
