"""Objectives and projections against what they are made of, and the step of the authors' plugin."""

import pytest
import torch
from tests.retain.streams import model, stream
from torch import nn

from palimpsest.models.vision import cnn
from palimpsest.retain.continual import cross_entropy
from palimpsest.retain.replay import AGEM, DERpp, FineTune
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.retain.two_perspectives import (
    CombinedLearner,
    normalising_at_rest,
    projection_rate,
)
from palimpsest.retain.two_perspectives_measures import paired_test, updates_to
from palimpsest.train.gradients import agem, flat_gradient, gem

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}
HOW = ("plain", "agem", "gem", "adaptive_new")


class Layer(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x=None):
        return self.layer(x)


def run(method, data=None, **options):
    settings = {"steps": 8, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", "progress": False, **options}
    return learn_stream(model(), method, data or stream(), **settings)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def third_task(method, step=0):
    """State, model and batch of the third task."""
    data, base = stream(dtype=torch.float64), model().double()
    state = method.init(base, _present(data, 0, SETTINGS))
    for number in range(2):
        state = method.after_task(
            method.before_task(state, base, _present(data, number, SETTINGS)), base, _present(data, number, SETTINGS)
        )
    third = _present(data, 2, SETTINGS)
    state = method.before_task(state, base, third)
    return state, base, _batches(method, state, third, 8)(step)


def flat(loss, base):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(base.parameters()))])


def stepped(method, step=0):
    """What the method makes of the gradient, with the gradients of the batch and of the replayed rows."""
    state, base, batch = third_task(method, step)
    sum(method.loss(state, base, batch).values()).backward()
    method.gradients(state, base)
    found = flat_gradient(list(base.parameters()))
    return found, flat(cross_entropy(base, batch), base), flat(cross_entropy(base, batch["memory"]), base), state


def test_new_rows_alone_with_the_projection_are_a_gem():
    assert same(run(CombinedLearner("new", "agem", size=9)), run(AGEM(size=9)))
    assert same(run(CombinedLearner("new", "plain", size=9)), run(FineTune()))
    dark = CombinedLearner("der_pp", "plain", size=9, alpha=0.3, beta=0.7)
    assert same(run(dark), run(DERpp(size=9, alpha=0.3, beta=0.7)))


def test_joint_has_all_that_passed_and_weighs_the_tasks_alike():
    learner = run(CombinedLearner("joint", "plain", size=9))
    assert learner.state["buffer"].columns["task"].bincount().tolist() == [24, 24, 24]
    found, new, old, _ = stepped(CombinedLearner("joint", "plain"))
    torch.testing.assert_close(found, new / 3 + 2 / 3 * old)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("how", HOW)
def test_a_step_is_the_formula(how, step):
    found, new, old, state = stepped(CombinedLearner("er", how, size=9, margin=0.0, eps=0.0), step)
    if how == "plain":
        torch.testing.assert_close(found, new / 3 + 2 / 3 * old)
        assert state["asked"] == 0
    elif how == "agem":
        torch.testing.assert_close(found, agem(new / 3 + 2 / 3 * old, old))
    elif how == "adaptive_new":
        torch.testing.assert_close(found, agem(new, old) / 3 + 2 / 3 * old)
    else:
        _, base, batch = third_task(CombinedLearner("er", "gem", size=9), step)
        each = [
            {name: value[batch["constraint"]["task"] == task] for name, value in batch["constraint"].items()}
            for task in (0, 1)
        ]
        assert all(len(part["task"]) > 1 for part in each)
        G = torch.stack([flat(cross_entropy(base, part), base) for part in each])
        torch.testing.assert_close(found, gem(new / 3 + 2 / 3 * old, G, margin=0.0, eps=0.0))


def test_without_a_conflict_all_projections_take_the_same_step():
    base = model().double()
    for how in HOW[1:]:
        method = CombinedLearner("er", how, size=9)
        state, base, batch = third_task(method)
        rows = {name: value for name, value in batch["memory"].items() if name != "constraint"}
        batch = {**rows, "memory": rows, "constraint": rows}  # nothing is against itself
        if how == "gem":
            one_task = {name: value[rows["task"] == rows["task"][0]] for name, value in rows.items()}
            batch = {**one_task, "memory": one_task, "constraint": one_task}
        sum(method.loss(state, base, batch).values()).backward()
        before = flat_gradient(list(base.parameters()))
        method.gradients(state, base)
        assert torch.equal(flat_gradient(list(base.parameters())), before)
        assert (state["asked"], state["turned"], projection_rate(state)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("how", "theirs"),
    [
        ("agem", [0.048427345421462875, -0.0506695480037318, -0.0484273454214629, 0.05066954800373169]),
        ("gem", [0.04901024004167093, -0.05011244862239961, -0.049010240041670955, 0.050112448622399525]),
    ],
)
def test_the_step_of_the_authors_plugins(how, theirs):
    """Their ERAGEMPlugin and ERGEMPlugin, in float64 with lambda 0.9, made these gradients of a layer's four weights;
    of GEM for one earlier task, as theirs adds up the gradients of several."""
    layer = nn.Linear(2, 2, bias=False).double()
    layer.weight.data = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64)
    x = torch.sin(torch.arange(8, dtype=torch.float64).square()).reshape(4, 2)
    labels, every = torch.tensor([1, 0, 0, 0]), torch.ones(4, 2, dtype=torch.bool)
    rows = {"x": x, "labels": labels, "task": torch.zeros(4, dtype=torch.long), "allowed": every}
    memory = {**rows, "labels": 1 - labels}
    base = Layer(layer)
    method, state = CombinedLearner("er", how), {"new": 0.9, "asked": 0, "turned": 0}
    sum(method.loss(state, base, {**rows, "memory": memory, "constraint": memory}).values()).backward()
    method.gradients(state, base)
    assert state["turned"] == 1
    torch.testing.assert_close(
        layer.weight.grad.flatten(), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_separate_rows_are_drawn_for_the_constraint():
    _, _, batch = third_task(CombinedLearner("er", "agem", "separate", size=9))
    assert not torch.equal(batch["constraint"]["pixel_values"], batch["memory"]["pixel_values"])
    _, _, batch = third_task(CombinedLearner("er", "agem", size=9))
    assert batch["constraint"] is not batch["memory"]
    assert torch.equal(batch["constraint"]["pixel_values"], batch["memory"]["pixel_values"])


def test_the_constraint_leaves_normalisation_as_it_is():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    with normalising_at_rest(net):
        net(torch.randn(8, 3))
        assert [layer.training for layer in net] == [False, True]
    assert all(layer.training for layer in net)
    assert net[0].num_batches_tracked == 0


def test_the_paired_interval_is_the_bootstraps_and_updates_are_of_the_last_task():
    generator = torch.Generator().manual_seed(1)
    b = torch.rand(10, generator=generator)
    a = b + 0.1 + 0.05 * torch.randn(10, generator=generator)
    mean, low, high = paired_test(a, b)
    assert mean == pytest.approx(float((a - b).mean()), abs=1e-6)
    half = 1.96 * float((a - b).std(correction=0)) / 10**0.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.2 * half)
    with pytest.raises(ValueError, match="must be of the same two seeds or more"):
        paired_test(a, b[:5])
    looks = [{"task": 0, "step": 1, "accuracy": [0.9]}, {"task": 1, "step": 3, "accuracy": [0.9]}]
    assert updates_to(looks) == 3
    with pytest.raises(ValueError, match="looks are needed"):
        updates_to([])


def test_the_margin_is_that_of_gem():
    found = {}
    for margin in (0.0, 5.0):
        method = CombinedLearner("new", "gem", size=9, margin=margin, eps=0.0)
        state, base, batch = third_task(method)
        sum(method.loss(state, base, batch).values()).backward()
        g = flat_gradient(list(base.parameters()))
        tasks = [batch["constraint"]["task"] == task for task in (0, 1)]
        parts = [{name: value[rows] for name, value in batch["constraint"].items()} for rows in tasks]
        G = torch.stack([flat(cross_entropy(base, part), base) for part in parts])
        method.gradients(state, base)
        found[margin] = flat_gradient(list(base.parameters()))
        torch.testing.assert_close(found[margin], gem(g, G, margin=margin, eps=0.0))
        assert state["turned"] == 1
    assert not torch.allclose(found[0.0], found[5.0])


@pytest.mark.parametrize("how", ["agem", "gem"])
def test_no_statistic_moves_while_the_gradient_is_turned(how):
    data = stream()
    base = cnn(1, 6, width=4, image_size=4, norm="batch", feature_dim=8)
    method, first = CombinedLearner("new", how, size=9), _present(data, 0, SETTINGS)
    state = method.after_task(method.before_task(method.init(base, first), base, first), base, first)
    second = _present(data, 1, SETTINGS)
    state = method.before_task(state, base, second)
    base.train()
    sum(method.loss(state, base, _batches(method, state, second, 8)(0)).values()).backward()
    before = {name: value.clone() for name, value in base.named_buffers()}
    method.gradients(state, base)
    assert state["asked"] == 1
    assert all(torch.equal(before[name], value) for name, value in base.named_buffers())
