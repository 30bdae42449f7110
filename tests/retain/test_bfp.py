"""Backward feature projection: the authors' loss, its optimum, its gradients, and what it is without the projection."""

import pytest
import torch
from tests.retain.streams import draw, model, stream

from palimpsest.retain.bfp import BFP
from palimpsest.retain.continual import as_it_was, features_of
from palimpsest.retain.feature_projection import bfp_loss, ignored_directions, new_projection, project
from palimpsest.retain.replay import ER, DERpp
from palimpsest.retain.sequence import _batches, _present, learn_stream

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}


def run(method):
    return learn_stream(model(), method, stream(), steps=5, batch_size=8, lr=1e-2, progress=False)


def second_task(method):
    """The state in the second task, with a model that has gone on from the old one, and a batch."""
    data, base = stream(dtype=torch.float64), model().double()
    first, second = (_present(data, number, SETTINGS) for number in range(2))
    state = method.after_task(method.init(base, first), base, first)
    state = method.before_task(state, base, second)
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.05 * torch.ones_like(p))
    return state, base, _batches(method, state, second, 8)(0)


@pytest.mark.parametrize(
    ("distance", "theirs"),
    [
        ("norm", 0.9840386210736218),
        ("squared", 0.9701092606479915),
        ("rmse", 0.9849412473076714),
        ("cosine", 0.9739622562021896),
    ],
)
def test_value_of_the_authors_code(distance, theirs):
    """Their match_loss, in float64, gave these numbers."""
    steps = torch.arange(15, dtype=torch.float64)
    value = bfp_loss(steps.sin().reshape(3, 5), steps.square().cos().reshape(3, 5), distance)
    assert value.item() == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("distance", ["norm", "squared", "rmse", "cosine"])
def test_at_its_goal_the_loss_is_0_and_so_is_its_gradient(distance):
    h = draw(5, 4).requires_grad_()
    value = bfp_loss(h, h.detach(), distance)
    assert abs(value.item()) < 1e-12
    assert torch.autograd.grad(value, h)[0].abs().max() < 1e-12


def test_an_invertible_map_of_the_features_costs_nothing_but_without_a_projection():
    old, R = draw(20, 4), draw(4, 4, seed=1)
    new = old @ R.T
    inverse = [torch.linalg.inv(R), torch.zeros(4, dtype=torch.float64)]
    assert bfp_loss(project(new, inverse), old) < 1e-12
    assert bfp_loss(project(new, []), old) > 0.1
    # An old linear classifier goes on working, as A^T w.
    w = draw(4, seed=2)
    torch.testing.assert_close(new @ (inverse[0].T @ w), old @ w)


def test_a_network_of_two_layers_has_a_relu_between_them():
    layers = [layer.double() for layer in new_projection(4, "mlp", torch.Generator().manual_seed(0))]
    h = draw(6, 4)
    naive = (h @ layers[0].T + layers[1]).clamp(min=0) @ layers[2].T + layers[3]
    torch.testing.assert_close(project(h, layers), naive)


def test_ignored_directions_are_those_of_small_singular_values():
    U, V = (torch.linalg.qr(draw(4, 4, seed=seed))[0] for seed in (3, 4))
    values, free = ignored_directions(U @ torch.diag(torch.tensor([3.0, 1.0, 0.09, 0.0]).double()) @ V)
    assert free == 2
    assert values[0] == pytest.approx(3.0)


@pytest.mark.parametrize("base", ["er", "der_pp"])
def test_the_term_is_the_naive_one_and_the_rest_the_methods_own(base):
    method = BFP(size=9, base=base, weight=2.0)
    state, network, batch = second_task(method)
    old = model().double()
    A, a = state["layers"]
    gaps = []
    for part in (batch, batch["mapped"]):
        for image in part["pixel_values"]:
            h, h_old = (each.features(image[None])[0] for each in (network, old))
            gaps.append((A @ h + a - h_old).norm() / len(h) ** 0.5)
    terms = method.loss(state, network, batch)
    torch.testing.assert_close(terms.pop("mapped"), 2.0 * torch.stack(gaps).mean())
    own = method.replaying.loss({"buffer": state["buffer"]}, network, batch)
    assert terms.keys() == own.keys()
    assert all(torch.equal(terms[name], own[name]) for name in own)
    assert set(batch) - {"dark"} >= {"memory", "mapped"}


def test_the_projection_takes_steps_of_sgd_and_the_old_model_none():
    method = BFP(size=9, weight=0.7)
    state, network, batch = second_task(method)
    kept = {name: value.clone() for name, value in state["old"].items()}
    leaves = [layer.clone().requires_grad_() for layer in state["layers"]]
    torch_own = torch.optim.SGD(leaves, lr=0.1, momentum=0.9)
    rows = {"pixel_values": torch.cat([batch["pixel_values"], batch["mapped"]["pixel_values"]])}
    with as_it_was(network, state["old"]):
        goal = features_of(network, rows)
    for _ in range(3):
        method.loss(state, network, batch)
        method.gradients(state, network)
        torch_own.zero_grad()
        (0.7 * bfp_loss(project(features_of(network, rows).detach(), leaves), goal)).backward()
        torch_own.step()
    for layer, leaf in zip(state["layers"], leaves, strict=True):
        torch.testing.assert_close(layer, leaf.detach())
    assert all(torch.equal(kept[name], value) for name, value in state["old"].items())
    assert all(p.grad is None for p in network.parameters())


def test_the_previous_models_logits_take_the_place_of_stored_ones():
    stored, previous = BFP(size=9, weight=0.0), BFP(size=9, weight=0.0, dark="previous")
    state, network, batch = second_task(stored)
    values = [method.loss(state, network, batch)["dark"] for method in (stored, previous)]
    # The buffer was filled when the first task ended, by the model that is the previous one now.
    torch.testing.assert_close(*values)
    kept = {**batch["dark"], "logits": batch["dark"]["logits"] + 1}
    other = {**batch, "dark": kept}
    assert torch.equal(previous.loss(state, network, other)["dark"], values[1])
    assert not torch.isclose(stored.loss(state, network, other)["dark"], values[0])


@pytest.mark.parametrize("base", ["er", "der_pp"])
def test_the_first_task_is_the_bases_and_its_buffer_too(base):
    method = BFP(size=9, base=base)
    one = type(stream())(stream().tasks[:1])
    options = {"steps": 5, "batch_size": 8, "lr": 1e-2, "progress": False}
    ours, plain = (learn_stream(model(classes=2), each, one, **options) for each in (method, method.replaying))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert isinstance(plain.method, DERpp if base == "der_pp" else ER)
    assert ours.state["buffer"].columns.keys() == plain.state["buffer"].columns.keys()


def test_without_weight_it_does_not_matter_what_the_features_are_mapped_by():
    methods = [BFP(size=9, weight=0.0, projection=each, start="identity") for each in ("identity", "linear")]
    one, two = (run(method) for method in methods)
    held = run(BFP(size=9, projection="identity", weight=5.0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), held.parameters(), strict=True))
