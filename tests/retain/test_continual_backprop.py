"""Continual backprop beside the authors' program, what a replacement changes, and Adam for units that begin again."""

import pytest
import torch
from tests.retain.streams import model, stream
from torch import nn
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.models.vision import mlp, vit
from palimpsest.retain.continual_backprop import ContinualBackprop
from palimpsest.retain.hidden_units import hidden_activations, hidden_layers
from palimpsest.retain.renewable_adam import RenewableAdam, forget_moments, renew
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import learn_stream


def table(*shape, rate=1.7):
    values = torch.sin(rate * torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64))
    return values.reshape(shape)


def filled(net):
    net.double()
    with torch.no_grad():
        for number, p in enumerate(net.parameters()):
            p.copy_(0.8 * table(*p.shape, rate=1.1 + 0.3 * number))
    return net


def dense():
    return filled(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))


def convolutional():
    convolutions = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU()
    return filled(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(12, 2)))


def tables(*shape, rate):
    """What stands for a generator's draws and for data of each step."""
    return lambda step: table(*shape, rate=rate + 0.1 * step)


def taught(net, method, x, y, steps=24):
    optimizer, state = torch.optim.SGD(net.parameters(), lr=0.05), method.begin(net, torch.Generator())
    for step in range(steps):
        with hidden_activations(net) as state["hidden"]:
            loss = F.mse_loss(net(x(step)), y(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(state, net)
    return state


DENSE = {
    "adaptable": [-0.008867840497, -0.123258436558, 0.0, 0.212345259919, -0.774224014255, 0.411875333382],
    "contribution": [0.0, -0.123011222956, -0.000298413264, 0.21017286474, -0.773066699999, 0.412286267852],
}
CONVOLUTIONAL = {
    "adaptable": [-0.325226658094, 0.43911783376, -0.092700381185, -0.813947352673, 0.164366643345, -0.249235738065],
    "contribution": [0.058150122369, 0.044053871534, 0.03356302885, 0.059093042108, 0.164107613509, -0.24989504066],
}


@pytest.mark.parametrize("kind", ["adaptable", "contribution"])
def test_twenty_four_steps_are_those_of_the_authors_programs(kind, monkeypatch):
    """Their GnT and ConvGnT (shibhansh/loss-of-plasticity at 63c35f3), with the same table in the place of draws, gave
    these weights at the end; their bias never moves."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: (table(*shape, rate=2.9) + 1) / 2)
    settings = {"rho": 0.05, "eta": 0.9, "kind": kind, "bias_transfer": False}
    first, second = dense(), convolutional()
    method = ContinualBackprop(maturity=5, initial="kaiming", **settings)
    assert taught(first, method, tables(7, 4, rate=0.7), tables(7, 3, rate=1.3))["replaced"] == 8
    method = ContinualBackprop(maturity=0, **settings)
    assert taught(second, method, tables(5, 1, 6, 6, rate=0.7), tables(5, 2, rate=1.3))["replaced"] == 7
    for net, theirs in [(first, DENSE), (second, CONVOLUTIONAL)]:
        last = nn.utils.parameters_to_vector(net.parameters()).detach()[-6:]
        torch.testing.assert_close(last, torch.tensor(theirs[kind], dtype=torch.float64), rtol=0, atol=1e-11)


def last_hidden_layer(net, x, method):
    """After one look at x: the layer that makes the units, the one that reads them, what they said, their state."""
    units = method.begin(net, torch.Generator())["layers"][-1]
    with hidden_activations(net) as said:
        net(x)
    into, out = hidden_layers(net)[-1]
    method.judge(units, into, out, said[-1])
    return into, out, said[-1][0], units


@pytest.mark.parametrize(
    ("net", "x"), [(dense(), table(1, 4)), (convolutional(), torch.full((1, 1, 6, 6), 0.7).double())]
)
def test_units_that_say_what_they_always_said_are_replaced_without_a_trace(net, x):
    """One row is its own mean, and a constant image says the same at all positions of a channel."""
    before, method = net(x).detach(), ContinualBackprop()
    into, out, said, units = last_hidden_layer(net, x, method)
    speaking = said.reshape(len(into.weight), -1).mean(1).nonzero()[:2, 0]
    old = into.weight.detach().clone()
    assert len(speaking)
    method.replace(units, into, out, speaking, torch.Generator())
    torch.testing.assert_close(net(x), before)
    assert (into.weight[speaking] != old[speaking]).all()
    assert not into.bias[speaking].any()
    assert not any(units[name][speaking].any() for name in ("age", "mean", "utility"))


def test_without_the_bias_the_output_changes_by_what_the_unit_said():
    net, x, method = dense(), table(1, 4), ContinualBackprop(bias_transfer=False)
    before = net(x).detach()
    into, out, said, units = last_hidden_layer(net, x, method)
    unit = said.argmax()
    change = out.weight[:, unit] * said[unit]
    method.replace(units, into, out, unit[None], torch.Generator())
    torch.testing.assert_close(net(x)[0], before[0] - change)


def test_the_least_useful_of_those_old_enough_is_replaced_when_its_share_is_full():
    method = ContinualBackprop(rho=0.125, maturity=2, eta=0.5)
    units = {"age": torch.tensor([1.0, 3.0, 3.0, 3.0, 3.0]), "utility": torch.tensor([0.0, 0.4, 0.1, 0.3, 0.2])}
    units |= {"mean": torch.zeros(5), "quota": 0.0}
    found = [method.due(units, torch.Generator()).tolist() for _ in range(4)]
    assert found == [[], [2], [], [2]]
    drawn = ContinualBackprop(rho=0.125, maturity=2, eta=0.5, accumulate=False)
    draws = torch.Generator().manual_seed(0)
    assert sum(len(drawn.due(units, draws)) for _ in range(400)) == pytest.approx(200, abs=40)


def test_it_is_plain_backprop_without_replacements_and_replaces_the_share_asked_for_with():
    settings = {"steps": 30, "batch_size": 8, "lr": 1e-2, "progress": False, "keep_optimizer": True}
    plain = learn_stream(model(), FineTune(), stream(), optimizer="adam", **settings)
    still = learn_stream(model(), ContinualBackprop(rho=0.0), stream(), optimizer=RenewableAdam, **settings)
    for mine, theirs in zip(still.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    method = ContinualBackprop(rho=0.01, maturity=10)
    renewing = learn_stream(model(), method, stream(), optimizer=RenewableAdam, **settings)
    # Nearly all of 12 and of 8 units are old enough for 80 steps.
    assert 0.01 * 80 * 20 * 0.75 <= renewing.state["replaced"] <= 0.01 * 80 * 20
    assert "hidden" not in renewing.state


def test_an_entry_that_begins_again_takes_the_steps_of_a_new_parameter():
    gradients = [table(3, rate=0.9 + step) for step in range(6)]
    whole, late = nn.Parameter(torch.zeros(3).double()), nn.Parameter(torch.zeros(3).double())
    optimizer, fresh = RenewableAdam([whole], lr=0.1), torch.optim.Adam([late], lr=0.1)
    for step, gradient in enumerate(gradients):
        if step == 3:
            renew(whole, 1)
            middle = whole.detach().clone()
        whole.grad = gradient
        optimizer.step()
        if step >= 3:
            late.grad = gradient
            fresh.step()
    torch.testing.assert_close((whole - middle)[1], late[1])
    through = nn.Parameter(torch.zeros(3).double())
    usual = torch.optim.Adam([through], lr=0.1)
    for gradient in gradients:
        through.grad = gradient
        usual.step()
    torch.testing.assert_close(whole[[0, 2]], through[[0, 2]])
    assert not hasattr(whole, "renewed")


def test_what_a_stream_replaces_the_optimizer_forgets():
    base = model()
    method = ContinualBackprop(rho=0.2, maturity=1)
    state, optimizer = method.begin(base, torch.Generator()), torch.optim.AdamW(base.parameters(), lr=1e-2)
    optimizer.register_step_pre_hook(forget_moments)
    x, y = stream().tasks[0].train.x, stream().tasks[0].train.y
    moments = []
    for _ in range(6):
        with hidden_activations(base) as state["hidden"]:
            loss = F.cross_entropy(base(x).logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(state, base)
        renewed = {name: p.renewed for name, p in base.named_parameters() if hasattr(p, "renewed")}
        if renewed:
            forget_moments(optimizer)
            parameters = dict(base.named_parameters())
            moments += [optimizer.state[parameters[n]]["exp_avg"][mark].abs().sum() for n, mark in renewed.items()]
    assert moments
    assert not any(moments)


def test_layers_that_do_not_follow_one_another_are_refused():
    with pytest.raises(UserError, match="it works on hidden units"):
        ContinualBackprop().fits(mlp(4, 2, hidden=()))
    with pytest.raises(UserError, match="it works on layers that follow one another, and Linear"):
        hidden_layers(nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 2)))
    transformer = vit()  # whose queries and keys have the same inputs
    with pytest.raises(UserError, match="each called once"), hidden_activations(transformer):
        transformer(torch.zeros(2, 1, 8, 8))
