"""Spectral regularization against decompositions, its limits, and the distance of weights from a fresh draw."""

import pytest
import torch
from tests.retain.streams import model, stream
from torch import nn

from palimpsest.models.vision import cnn, mlp
from palimpsest.retain.penalties import L2Init
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import _present, learn_stream
from palimpsest.retain.spectral_reg import SpectralReg, closer, matrices, sigma_1, spectrum
from palimpsest.retain.wasserstein_init import WassersteinInit, fresh

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}


def begun(method, net):
    return method.init(net, _present(stream(), 0, SETTINGS))


def test_fifty_steps_of_power_iteration_find_the_largest_singular_value():
    net = cnn(1, 6, width=4, image_size=4)
    state = begun(SpectralReg(), net)
    assert dict(matrices(net))["body.2.weight"].shape == (4, 36)
    for name, weight in matrices(net):
        u = torch.randn(len(weight), generator=torch.Generator().manual_seed(1))
        closer(u, weight, 50)
        largest = torch.linalg.svdvals(weight)[0]
        torch.testing.assert_close(sigma_1(weight, u), largest, rtol=1e-2, atol=0)
        # What a stream begins with is below it, and not by much.
        assert 0.8 * largest < sigma_1(weight, state["vectors"][name]) < 1.00001 * largest


def test_while_a_stream_is_learned_the_vectors_keep_up():
    learner = learn_stream(model(), SpectralReg(strength=0.1), stream(), steps=30, lr=1e-2, progress=False)
    for name, weight in matrices(learner.model):
        found = sigma_1(weight, learner.state["vectors"][name])
        torch.testing.assert_close(found, torch.linalg.svdvals(weight)[0], rtol=3e-2, atol=0)


def test_the_regularizer_is_the_sum_that_the_paper_has():
    net = mlp(16, 6, hidden=(5,), norm="layer").double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3)
    method = SpectralReg(k=3, iterations=60)
    first, norm, last = net.body[0], net.body[1], net.head
    expected = sum((torch.linalg.svdvals(layer.weight)[0] ** 3 - 1) ** 2 for layer in (first, last))
    expected += sum(layer.bias.norm() ** 6 for layer in (first, norm, last)) + (norm.weight - 1).norm() ** 6
    torch.testing.assert_close(method.regularizer(begun(method, net), net), expected)
    every = SpectralReg(k=3, which="all")
    of_all = sum(((torch.linalg.svdvals(layer.weight) ** 3 - 1) ** 2).mean() for layer in (first, last))
    of_first = sum((torch.linalg.svdvals(layer.weight)[0] ** 3 - 1) ** 2 for layer in (first, last))
    torch.testing.assert_close(every.regularizer(begun(every, net), net), expected - of_first + of_all)


@pytest.mark.parametrize("which", ["largest", "all"])
def test_it_is_nothing_for_an_orthogonal_layer_without_bias(which):
    layer = nn.Linear(6, 6).double()
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    method = SpectralReg(which=which)
    found = method.regularizer(begun(method, layer), layer)
    assert found < 1e-25
    (slope,) = torch.autograd.grad(found, [layer.weight])
    assert slope.abs().max() < 1e-12


def test_the_gradient_is_that_of_the_largest_singular_value():
    layer = nn.Linear(5, 4, bias=False).double()
    method = SpectralReg(iterations=100)
    (slope,) = torch.autograd.grad(method.regularizer(begun(method, layer), layer), [layer.weight])
    (exact,) = torch.autograd.grad((torch.linalg.svdvals(layer.weight)[0] ** 2 - 1) ** 2, [layer.weight])
    torch.testing.assert_close(slope, exact, rtol=1e-5, atol=1e-9)


def test_it_holds_the_largest_singular_value_where_training_would_let_it_grow():
    settings = {"steps": 80, "batch_size": 8, "lr": 1e-2, "progress": False}
    free, held = (
        max(row["sigma_max"] for row in spectrum(learn_stream(model(), method, stream(), **settings).model).values())
        for method in (FineTune(), SpectralReg(strength=0.1))
    )
    assert held < 0.8 * free
    assert held == pytest.approx(1.0, abs=0.35)
    same = learn_stream(model(), SpectralReg(strength=0.0), stream(), **settings)
    plain = learn_stream(model(), FineTune(), stream(), **settings)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), plain.parameters(), strict=True))


def spread_of(method, net, state):
    batch = {"x": torch.zeros(2, 16), "labels": torch.tensor([0, 1]), "allowed": torch.ones(2, 6, dtype=torch.bool)}
    return {name: value for name, value in method.loss(state, net, batch).items() if name != "new"}


def test_the_spread_of_weights_knows_no_places_and_their_way_from_the_first_does():
    net = model()
    spread, way = WassersteinInit(strength=1.0), L2Init(strength=1.0)
    states = begun(spread, net), begun(way, net)
    before = spread_of(spread, net, states[0])["spread"].detach()
    assert spread_of(way, net, states[1])["held"] == 0
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.flatten().flip(0).reshape(p.shape))
    torch.testing.assert_close(spread_of(spread, net, states[0])["spread"], before)
    assert spread_of(way, net, states[1])["held"] > 1
    naive = sum((p.flatten().sort()[0] - states[0]["fresh"][n]).square().sum() for n, p in net.named_parameters())
    torch.testing.assert_close(before, naive)


def test_a_fresh_draw_is_what_its_seed_says_and_new_after_every_update_where_asked_for():
    net = model()
    assert all(torch.equal(fresh(net, 3)[name], value) for name, value in fresh(net, 3).items())
    settings = {"steps": 2, "batch_size": 8, "lr": 1e-2, "progress": False}
    drawn = [
        learn_stream(model(), WassersteinInit(redraw=again), stream(), **settings).state for again in (False, True)
    ]
    first = begun(WassersteinInit(), model())
    assert drawn[0]["seed"] == first["seed"]
    assert drawn[1]["seed"] == first["seed"] + 6
    assert torch.equal(drawn[0]["fresh"]["head.weight"], first["fresh"]["head.weight"])
    assert not torch.equal(drawn[1]["fresh"]["head.weight"], first["fresh"]["head.weight"])
