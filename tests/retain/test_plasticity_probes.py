"""Plasticity probes: what they leave alone, what they say of networks whose answer is known, and the interventions."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.models.vision import mlp
from palimpsest.retain.hidden_units import hidden_activations
from palimpsest.retain.plasticity_interventions import (
    expectation,
    redo,
    reset_head,
    tuned_adam,
    two_hot,
    two_hot_loss,
    with_layernorm,
)
from palimpsest.retain.plasticity_probes import class_gradients, diagnostics, gradient_gram, plasticity, random_targets
from palimpsest.tasks.digits import digits


@pytest.fixture(scope="module")
def batch():
    rows = digits(0).train[:64]
    return {"pixel_values": rows.x, "labels": rows.y}


def network(**options):
    return mlp(64, 10, hidden=(32, 16), **options)


def silenced(model):
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model


def test_probing_leaves_the_network_alone_and_a_silent_one_has_no_plasticity(batch):
    model = network()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    found = plasticity(model, batch, targets=2, steps=60, lr=3e-3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert found == plasticity(model, batch, targets=2, steps=60, lr=3e-3)
    assert found.trained > 0.05
    assert abs(found.lost) < 0.5 * found.fresh
    # Only the last bias can be learned where no unit speaks, and it is right from the beginning.
    dead = plasticity(silenced(network()), batch, targets=2, steps=60, lr=3e-3)
    assert abs(dead.trained) < 1e-3
    assert dead.fresh == found.fresh
    assert dead.lost > 0.9 * dead.fresh


def test_targets_are_a_fresh_networks(batch):
    g = random_targets(network(), batch, seed=3)
    assert torch.equal(g, random_targets(silenced(network()), batch, seed=3))
    assert not torch.equal(g, random_targets(network(), batch, seed=4))
    assert g.abs().max() <= 1
    assert g.std() > 0.3


def test_diagnostics_know_what_is_silent_and_what_points_one_way(batch):
    model = network()
    found = diagnostics(model, batch)
    assert found["weight norm"] == pytest.approx(
        float(sum(p.detach().square().sum() for p in model.parameters()) ** 0.5)
    )
    loss = F.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"])
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    assert found["gradient norm"] == pytest.approx(float(sum(s.square().sum() for s in slopes) ** 0.5), rel=1e-5)
    with torch.no_grad():
        model.body[0].bias[:8] = -100  # a quarter of the first layer
    assert diagnostics(model, batch)["dead units"] >= 0.125
    dead = diagnostics(silenced(network()), batch)
    assert dead["dead units"] == 1
    assert dead["feature rank"] == 0
    gradients = class_gradients(network(), batch)
    gram = gradient_gram(network(), batch)
    torch.testing.assert_close(gram.diagonal(), torch.ones(10))
    torch.testing.assert_close(gram[0, 1], F.cosine_similarity(gradients[0], gradients[1], dim=0))
    assert 1 < found["gradient rank"] <= 10


def test_layer_norms_stand_before_every_nonlinearity(batch):
    model = network()
    normed = with_layernorm(model)
    kinds = [type(layer).__name__ for layer in normed.body]
    assert kinds == ["Linear", "LayerNorm", "ReLU", "Dropout"] * 2
    assert len(model.body) == 6
    same = network(norm="layer")
    torch.testing.assert_close(normed(batch["pixel_values"]).logits, same(batch["pixel_values"]).logits)
    with pytest.raises(UserError, match="no linear layer has a nonlinearity behind it"):
        with_layernorm(nn.Linear(2, 2))


def test_dormant_units_begin_again_without_being_heard(batch):
    model = network()
    with torch.no_grad():
        model.body[0].bias[:8] = -100
    x = batch["pixel_values"]
    before, weight = model(x).logits, model.body[0].weight.detach().clone()
    assert redo(model, x, tau=0.0) >= 8
    torch.testing.assert_close(model(x).logits, before)
    assert (model.body[0].weight[:8] != weight[:8]).all()
    assert torch.equal(model.body[0].weight[9], weight[9]) or not model.body[3].weight[:, 9].any()
    with hidden_activations(model) as said:
        model(x)
    assert (said[0][:, :8].abs().sum(0) > 0).sum() >= 6


def test_a_head_is_drawn_anew_and_the_rest_stays():
    model = network()
    before = copy.deepcopy(model)
    reset_head(model, seed=5)
    assert not torch.equal(model.head.weight, before.head.weight)
    assert torch.equal(model.body[0].weight, before.body[0].weight)


def test_numbers_as_two_bins_come_back():
    centres = torch.linspace(-2, 2, 32, dtype=torch.float64)
    y = torch.linspace(-3, 3, 41, dtype=torch.float64)
    shares = two_hot(y, centres)
    torch.testing.assert_close(shares @ centres, y.clamp(-2, 2))
    assert ((shares > 0).sum(1) <= 2).all()
    logits = shares.clamp(min=1e-300).log()
    torch.testing.assert_close(expectation(logits, centres), y.clamp(-2, 2))
    entropy = torch.special.entr(shares).sum(1).mean()
    torch.testing.assert_close(two_hot_loss(logits, y, centres), entropy)
    w = nn.Parameter(torch.tensor([1.0]))
    optimizer = tuned_adam([w], lr=0.1)
    w.grad = torch.tensor([1e-6])
    optimizer.step()
    assert abs(float(w) - 1) < 1e-3  # Adam as it is would have gone by its rate
