"""Relational replay: its slopes against differences, its base where it knows nothing, and what it learns to see."""

import pytest
import torch
from tests.retain.streams import model, stream
from torch.nn import functional as F

from palimpsest.retain.continual import only_allowed
from palimpsest.retain.relation_network import (
    adam_step,
    new_relation_network,
    pair_weights,
    relations,
    running,
    standardised,
)
from palimpsest.retain.replay import ER, DERpp
from palimpsest.retain.rer import RER
from palimpsest.retain.sequence import _batches, _present, learn_stream

SETTINGS = {"seed": 0, "lr": 0.1, "batch_size": 8}
RUN = {"steps": 6, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", "progress": False}


def second_task(method):
    data, base = stream(dtype=torch.float64), model().double()
    first, second = (_present(data, number, SETTINGS) for number in (0, 1))
    state = method.after_task(method.before_task(method.init(base, first), base, first), base, first)
    state = method.before_task(state, base, second)
    generator = torch.Generator().manual_seed(4)  # a network that has learned something, in float64
    state["network"] = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in state["network"]]
    return state, base, _batches(method, state, second, 8)(0)


def outer(method, state, base, batch, network):
    """The outer loss after the inner step, in a loop over the parameters."""
    new, old, inputs = method.each(base, batch)
    weights = pair_weights(network, standardised(inputs, state["scale"]))
    inner = (weights[:, 0] * new + weights[:, 1] * old).mean()
    parameters = list(base.head.parameters()) if method.thought == "last" else list(base.parameters())
    before = [p.detach().clone() for p in parameters]
    slopes = torch.autograd.grad(inner, parameters)
    with torch.no_grad():
        for p, slope in zip(parameters, slopes, strict=True):
            p -= SETTINGS["lr"] * slope
        rows = batch["outer"]
        logits = only_allowed(base(rows["pixel_values"]).logits, rows)
        loss = F.cross_entropy(logits, rows["labels"])
        for p, value in zip(parameters, before, strict=True):
            p.copy_(value)
    return float(loss)


@pytest.mark.parametrize("thought", ["all", "last"])
@pytest.mark.parametrize("basis", ["er", "der_pp"])
def test_the_slopes_of_the_outer_loss_are_its_differences(basis, thought):
    method = RER(size=9, base=basis, thought=thought)
    state, base, batch = second_task(method)
    slopes = method.outer_gradient(state, base, batch)
    assert any(slope.abs().max() > 1e-6 for slope in slopes)
    for place in range(4):
        step = torch.randn(slopes[place].shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
        moved = [
            [p + sign * 1e-4 * step if n == place else p for n, p in enumerate(state["network"])] for sign in (1, -1)
        ]
        up, down = (outer(method, state, base, batch, network) for network in moved)
        assert (up - down) / 2e-4 == pytest.approx(float((slopes[place] * step).sum()), rel=1e-3, abs=1e-8)


@pytest.mark.parametrize(("basis", "plain"), [("er", ER(size=9)), ("der_pp", DERpp(size=9))])
def test_where_it_is_never_trained_it_is_its_base(basis, plain):
    ours = learn_stream(model(), RER(size=9, base=basis, interval=None), stream(), **RUN)
    theirs = learn_stream(model(), plain, stream(), **RUN)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert ours.state["steps"] == 0
    assert relations(ours.state)[1, 0].tolist() == [1.0, 1.0]
    assert relations(ours.state)[0].isnan().all()


def test_the_step_is_taken_with_the_weights_of_the_new_network():
    method = RER(size=9, interval=1)
    state, base, batch = second_task(method)
    state["adam"] = {name: [torch.zeros_like(p) for p in state["network"]] for name in ("first", "second")}
    before = [p.clone() for p in state["network"]]
    scale = {name: value.clone() for name, value in state["scale"].items()}
    sum(method.loss(state, base, batch).values()).backward()
    method.gradients(state, base)
    assert state["steps"] == 1
    assert not torch.equal(before[0], state["network"][0])
    new, old, inputs = method.each(base, batch)
    weights = pair_weights(state["network"], standardised(inputs, scale)).detach()
    naive = torch.autograd.grad((weights[:, 0] * new + weights[:, 1] * old).mean(), list(base.parameters()))
    for p, slope in zip(base.parameters(), naive, strict=True):
        torch.testing.assert_close(p.grad, slope)
    assert not torch.equal(scale["mean"], state["scale"]["mean"])


def test_it_steps_every_few_updates_and_outer_rows_hold_the_new_in_their_share():
    learner = learn_stream(model(), RER(size=9, interval=4), stream(), **RUN)
    assert (learner.state["updates"], learner.state["steps"]) == (12, 3)
    method = RER(size=9)
    state, _, batch = second_task(method)
    assert set(state["outer"].columns["task"].tolist()) == {0, 1}
    assert len(batch["memory"]["labels"]) == len(batch["labels"])
    few = RER(size=3)
    _, _, batch = second_task(few)
    assert len(batch["memory"]["labels"]) == len(batch["labels"])  # a smaller buffer's rows have several partners


def test_its_adam_is_torchs_and_its_scale_follows_the_inputs():
    generator = torch.Generator().manual_seed(0)
    network = new_relation_network(5, generator)
    state = {
        "network": [p.clone() for p in network],
        "steps": 0,
        "adam": {name: [torch.zeros_like(p) for p in network] for name in ("first", "second")},
    }
    theirs = [p.clone().requires_grad_() for p in network]
    optimizer = torch.optim.Adam(theirs, lr=1e-2)
    for _ in range(5):
        slopes = [torch.randn(p.shape, generator=generator) for p in network]
        for p, slope in zip(theirs, slopes, strict=True):
            p.grad = slope.clone()
        optimizer.step()
        adam_step(state, slopes, 1e-2)
    for mine, other in zip(state["network"], theirs, strict=True):
        torch.testing.assert_close(mine, other.detach())
    scale = {"mean": torch.zeros(4), "square": torch.ones(4)}
    for _ in range(2000):
        running(3.0 + 2.0 * torch.randn(8, 4, generator=generator), scale)
    seen = standardised(3.0 + 2.0 * torch.randn(4000, 4, generator=generator), scale)
    assert seen.mean().abs() < 0.2
    assert seen.std() == pytest.approx(1, abs=0.1)
