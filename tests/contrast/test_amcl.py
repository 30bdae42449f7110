"""AMCL against NT-Xent, a naive version and the likelihood that it comes from."""

import gc
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.contrast import Momentum, Projected, Views
from palimpsest.contrast.amcl import AMCL, amcl_loss, amcl_queue_loss
from palimpsest.contrast.amcl_heads import multi_head_loss
from palimpsest.contrast.amcl_temperatures import (
    MultiHead,
    PairTemperature,
    pair_temperature,
    start_bias,
    temperature_penalty,
)
from palimpsest.contrast.info_nce import info_nce, nt_xent
from palimpsest.train import fit


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def temperatures(heads, dim, **options):
    torch.manual_seed(0)
    return nn.ModuleList(PairTemperature(dim, 6, **options) for _ in range(heads)).double()


def naive(z1, z2, functions, beta):
    total = 0
    for head, function in enumerate(functions):
        z = F.normalize(torch.cat([z1[:, head], z2[:, head]]), dim=1)
        n, d = z.shape
        contrast, penalty = [], []
        for i in range(n):
            partner = (i + n // 2) % n
            taus = torch.stack([function(z[i : i + 1], z[j : j + 1])[0, 0] for j in range(n)])
            scores = z @ z[i] / taus
            others = torch.arange(n) != i
            contrast.append(scores[others].logsumexp(0) - scores[partner])
            penalty.append((d / 2 * taus.log() + 1 / taus)[others])
        total = total + torch.stack(contrast).mean() + beta * torch.cat(penalty).mean()
    return total


def test_one_head_at_one_temperature_is_nt_xent():
    z1, z2 = draw(6, 1, 4), draw(6, 1, 4, seed=1)
    expected = nt_xent(z1[:, 0], z2[:, 0], 0.3)
    torch.testing.assert_close(amcl_loss(z1, z2, 0.3, beta=0.0), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(amcl_loss(z1, z2, temperatures(1, 4, lo=0.3, hi=0.3), beta=0.0), expected)


def test_heads_are_summed():
    z1, z2 = draw(6, 3, 4), draw(6, 3, 4, seed=1)
    functions = temperatures(3, 4)
    single = [amcl_loss(z1[:, [h]], z2[:, [h]], [functions[h]]) for h in range(3)]
    torch.testing.assert_close(amcl_loss(z1, z2, functions), sum(single))
    torch.testing.assert_close(
        multi_head_loss(lambda a, b: nt_xent(a, b, 0.2), z1, z2), amcl_loss(z1, z2, 0.2, beta=0.0)
    )


@pytest.mark.parametrize("form", ["product", "concatenated"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("rows", [512, 3])
def test_it_is_the_naive_loss_with_its_gradients(beta, rows, form):
    functions = temperatures(2, 4, form=form)
    found, expected = [], []
    for collected, loss in (
        (found, lambda a, b: amcl_loss(a, b, functions, beta, rows=rows)),
        (expected, lambda a, b: naive(a, b, functions, beta)),
    ):
        z1, z2 = draw(5, 2, 4).requires_grad_(), draw(5, 2, 4, seed=1).requires_grad_()
        value = loss(z1, z2)
        collected += [value, *torch.autograd.grad(value, [z1, z2, *functions.parameters()])]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("form", ["product", "concatenated"])
def test_gradcheck(form):
    functions = temperatures(2, 3, form=form)
    z1, z2 = draw(4, 2, 3).requires_grad_(), draw(4, 2, 3, seed=1).requires_grad_()
    queue = draw(5, 2, 3, seed=2)
    assert torch.autograd.gradcheck(lambda a, b: amcl_loss(a, b, functions), (z1, z2))
    assert torch.autograd.gradgradcheck(lambda a, b: amcl_loss(a, b, functions), (z1, z2))
    assert torch.autograd.gradcheck(lambda a, b: amcl_queue_loss(a, b, queue, functions), (z1, z2))


def test_no_strip_of_pairs_is_held_until_the_backward_pass():
    torch.manual_seed(0)
    z1, z2 = torch.randn(32, 1, 4, requires_grad=True), torch.randn(32, 1, 4)
    loss = amcl_loss(z1, z2, [PairTemperature(4)], rows=8)
    assert not [held for held in gc.get_objects() if type(held) is torch.Tensor and held.shape == (8, 64)]
    loss.backward()
    assert z1.grad.any()


def test_tensors_may_be_the_temperature_and_learn():
    z1, z2 = draw(6, 2, 4), draw(6, 2, 4, seed=1)
    one, each = torch.tensor(0.3, requires_grad=True), torch.tensor([0.2, 0.5])
    loss = amcl_loss(z1, z2, one)
    torch.testing.assert_close(loss, amcl_loss(z1, z2, 0.3), check_dtype=False)
    loss.backward()
    assert one.grad != 0
    single = [amcl_loss(z1[:, [h]], z2[:, [h]], each[h].item()) for h in range(2)]
    torch.testing.assert_close(amcl_loss(z1, z2, each), sum(single))


def test_samples_may_be_permuted_and_views_exchanged():
    z1, z2, functions = draw(6, 2, 4), draw(6, 2, 4, seed=1), temperatures(2, 4)
    loss, order = amcl_loss(z1, z2, functions), torch.arange(6).flip(0)
    torch.testing.assert_close(amcl_loss(z1[order], z2[order], functions), loss)
    torch.testing.assert_close(amcl_loss(z2, z1, functions), loss)
    torch.testing.assert_close(amcl_loss(7 * z1, z2, functions), loss)


def test_similarity_and_penalty_are_the_gaussian_likelihood():
    z, tau, dim = F.normalize(draw(2, 16), dim=1), 0.37, 16
    gaussian = torch.distributions.MultivariateNormal(z[0], tau * torch.eye(dim).double())
    expected = -gaussian.log_prob(z[1]) - dim / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(temperature_penalty(torch.tensor(tau).double(), dim) - z[0] @ z[1] / tau, expected)


@pytest.mark.parametrize("dim", [4, 16, 128])
def test_penalty_is_least_at_two_over_d(dim):
    tau = torch.tensor([2 / dim]).double().requires_grad_()
    penalty = temperature_penalty(tau, dim)
    penalty.backward()
    torch.testing.assert_close(tau.grad, torch.zeros(1).double())
    for other in (0.5, 2.0):
        assert temperature_penalty(tau.detach() * other, dim) > penalty


def test_temperatures_stay_in_range_start_where_asked_and_are_symmetric():
    z = F.normalize(draw(9, 4), dim=1)
    (function,) = temperatures(1, 4, lo=0.1, hi=0.9, start=0.4)
    tau = function(z)
    torch.testing.assert_close(tau, tau.T)
    torch.testing.assert_close(tau, function(z, z))
    assert (tau > 0.1).all()
    assert (tau < 0.9).all()
    assert 0.3 < tau.mean() < 0.6
    steep = pair_temperature(z, lambda x: 100 * x, 0.1, 0.9)
    torch.testing.assert_close(steep.diagonal(), torch.full((9,), 0.9).double())
    torch.testing.assert_close(steep.min(), torch.tensor(0.1).double())
    torch.testing.assert_close(
        pair_temperature(z, torch.zeros_like, 0.1, 0.9, bias=start_bias(0.1, 0.9, 0.4)), 0 * tau + 0.4
    )


def test_concatenated_temperatures_are_one_network_of_both(monkeypatch):
    z, other = draw(5, 4), draw(3, 4, seed=1)
    (function,) = temperatures(1, 4, lo=0.1, hi=0.9, form="concatenated")
    both = torch.cat([z[:, None].expand(5, 3, 4), other.expand(5, 3, 4)], 2)
    expected = 0.1 + 0.8 * torch.sigmoid(function.phi(both)[..., 0] + function.bias)
    torch.testing.assert_close(function(z, other), expected)
    monkeypatch.setattr("palimpsest.contrast.amcl_temperatures.ELEMENTS", 2 * 3 * 6)
    torch.testing.assert_close(function(z, other), expected)
    assert not torch.allclose(function(z), function(z).T)


def test_a_start_outside_the_range_is_its_middle():
    assert start_bias(0.3, 0.3) == 0
    assert start_bias(0.5, 1.5) == 0


def test_large_beta_draws_temperatures_to_two_over_d():
    z1, z2 = F.normalize(draw(8, 1, 8), dim=2), F.normalize(draw(8, 1, 8, seed=1), dim=2)
    (function,) = temperatures(1, 8)
    optimizer = torch.optim.Adam(function.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        amcl_loss(z1, z2, [function], beta=100.0).backward()
        optimizer.step()
    tau = function(torch.cat([z1[:, 0], z2[:, 0]]))
    off = ~torch.eye(16, dtype=torch.bool)
    torch.testing.assert_close(tau[off].mean(), torch.tensor(2 / 8).double(), atol=0.02, rtol=0)


def test_queue_at_one_temperature_is_moco():
    query, key, queue = draw(5, 2, 4), draw(5, 2, 4, seed=1), draw(7, 2, 4, seed=2)
    expected = sum(
        info_nce(query[:, h], key[:, h], 0.2, negatives=queue[:, h], in_batch=False, normalize=True) for h in range(2)
    )
    torch.testing.assert_close(amcl_queue_loss(query, key, queue, 0.2, beta=0.0), expected)


@pytest.mark.parametrize("rows", [512, 2])
def test_queue_with_pair_temperatures_is_the_naive_loss(rows):
    query, key, queue = (F.normalize(draw(n, 1, 4, seed=n), dim=2) for n in (5, 5, 7))
    key = F.normalize(draw(5, 1, 4, seed=9), dim=2)
    (function,) = temperatures(1, 4)
    contrast, penalty = [], []
    for i in range(5):
        others = torch.cat([key[i], queue[:, 0]])
        tau = function(query[i], others)[0]
        scores = others @ query[i, 0] / tau
        contrast.append(scores.logsumexp(0) - scores[0])
        penalty.append(2 * tau.log() + 1 / tau)
    expected = torch.stack(contrast).mean() + 0.3 * torch.stack(penalty).mean()
    torch.testing.assert_close(amcl_queue_loss(query, key, queue, [function], 0.3, rows=rows), expected)


def test_heads_are_independent_and_of_norm_one():
    torch.manual_seed(0)
    heads = MultiHead(6, 4, heads=2)
    x = torch.randn(8, 6, requires_grad=True)
    z = heads(x)
    assert z.shape == (8, 2, 4)
    torch.testing.assert_close(z.norm(dim=2), torch.ones(8, 2))
    gradient = torch.autograd.grad(z[:, 0, 0].sum(), list(heads.projectors[1].parameters()), allow_unused=True)
    assert all(found is None or not found.any() for found in gradient)


def test_training_lowers_the_loss_and_moves_the_temperatures():
    torch.manual_seed(0)
    model = Projected(nn.Linear(8, 8), MultiHead(8, 4), {"amcl": AMCL(4)})
    before = [parameter.detach().clone() for parameter in model.extra.parameters()]
    x = torch.randn(16, 1, 8)
    batches = [{"views": x + 0.2 * torch.randn(16, 2, 8)}]
    history = fit(model, Views(model.extra["amcl"]), batches, steps=40, lr=5e-3, progress=False)
    assert history.steps[-1]["contrast"] < history.steps[0]["contrast"]
    for old, new in zip(before, model.extra.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_a_queue_of_heads_side_by_side():
    torch.manual_seed(0)
    amcl = AMCL(4, heads=3)
    model = Projected(nn.Linear(8, 8), nn.Sequential(MultiHead(8, 4, heads=3), nn.Flatten(1)), {"amcl": amcl})

    def compare(*sides):
        return amcl_queue_loss(*(side.unflatten(1, (3, 4)) for side in sides), amcl.temperatures)

    batches = [{"views": torch.randn(16, 1, 8) + 0.1 * torch.randn(16, 2, 8)} for _ in range(8)]
    history = fit(model, Momentum(compare, size=64, dim=12), batches, steps=40, lr=1e-2, progress=False)
    assert history.steps[-1]["contrast"] < history.steps[4]["contrast"]  # since the queue was full


@pytest.mark.parametrize("form", ["product", "concatenated"])
@pytest.mark.parametrize("of_module", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("of_embeddings", [torch.bfloat16, torch.float64])
def test_module_and_embeddings_may_differ_in_precision(form, of_module, of_embeddings):
    torch.manual_seed(0)
    module = AMCL(4, 2, form=form)
    z = draw(2, 5, 2, 4).bfloat16()
    expected = module(*z)
    torch.testing.assert_close(
        module.to(of_module)(*z.to(of_embeddings)), expected, rtol=0.02, atol=0, check_dtype=False
    )


@pytest.mark.parametrize("form", ["product", "concatenated"])
def test_mixed_precision_changes_nothing(form):
    torch.manual_seed(0)
    module, found = AMCL(4, 2, form=form), []
    for mixed in (False, True):
        z1, z2 = draw(5, 2, 4).float().requires_grad_(), draw(5, 2, 4, seed=1).float()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss = amcl_loss(z1, z2, module.temperatures, rows=4)
        found.append([loss, *torch.autograd.grad(loss, [z1, *module.parameters()])])
    for exact, mixed in zip(*found, strict=True):
        torch.testing.assert_close(mixed, exact)


Z = torch.eye(3)[:, None]


def of_shape(*shape):
    return [lambda query, key: torch.ones(shape)]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: MultiHead(4, heads=0), "heads must be at least 1, got 0"),
        (lambda: PairTemperature(4, lo=0.0), "lo 0.0"),
        (lambda: PairTemperature(4, hi=math.inf), "hi inf"),
        (lambda: PairTemperature(4, 0), "at least 1, got 4 and 0"),
        (lambda: PairTemperature(4, form="sum"), "'sum'"),
        (lambda: PairTemperature(4)(torch.eye(3)), r"must be \[rows, 4\], got \[3, 3\]"),
        (lambda: pair_temperature(torch.eye(2), torch.zeros_like, 0.5, 0.2), "hi 0.2"),
        (lambda: pair_temperature(torch.ones(2), torch.zeros_like), r"\[rows, d\]"),
        (lambda: temperature_penalty(torch.tensor([0.0]), 2), "temperature must be above 0"),
        (lambda: temperature_penalty(torch.tensor([1.0]), 0), "dim"),
        (lambda: amcl_loss(Z[:, 0], Z[:, 0], 0.5), r"\[batch, heads, d\]"),
        (lambda: amcl_loss(Z, Z[:2], 0.5), r"\[3, 2\]"),
        (lambda: amcl_loss(Z, torch.ones(3, 2, 3), 0.5), r"got \[3, 2, 3\] as key"),
        (lambda: amcl_loss(Z[:1], Z[:1], 0.5), "at least 2 pairs, got 1"),
        (lambda: amcl_loss(Z, Z, 0.0), "temperature must be above 0"),
        (lambda: amcl_loss(Z, Z, math.inf, 0.0), "temperature must be finite, got inf"),
        (lambda: amcl_loss(Z, Z, torch.tensor([0.1, 0.2])), r"each of 1 heads, got \[2\]"),
        (lambda: amcl_loss(Z, Z, of_shape(6)), r"must be \[6, 6\], one a pair, got \[6\]"),
        (lambda: amcl_loss(Z, Z, of_shape(1, 6)), r"got \[1, 6\]"),
        (lambda: amcl_loss(Z, Z, of_shape(6, 5)), r"got \[6, 5\]"),
        (lambda: amcl_loss(Z, Z, 0.5, beta=-1.0), "beta must be finite and not negative, got -1"),
        (lambda: amcl_loss(Z, Z, 0.5, beta=math.inf), "got inf"),
        (lambda: amcl_loss(Z, Z, 0.5, rows=0), "rows"),
        (lambda: amcl_loss(Z, Z, 0.5, rows=2.5), "got 2.5"),
        (lambda: amcl_loss(Z, Z, [PairTemperature(3)] * 2), "each of 1 heads, got 2"),
        (lambda: amcl_loss(Z, Z * torch.nan, 0.5), "nan"),
        (lambda: amcl_queue_loss(Z[:0], Z[:0], Z, 0.5), "at least 1 pair, got 0"),
        (lambda: amcl_queue_loss(Z, Z, Z[:0], 0.5), "not be empty"),
        (lambda: amcl_queue_loss(Z, Z, Z[:, 0], 0.5), r"got \[3, 3\] as queue"),
        (lambda: amcl_queue_loss(Z, Z, Z * torch.nan, 0.5), "queue must be finite"),
    ],
)
def test_refuses(call, word):
    with pytest.raises(ValueError, match=word):
        call()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: amcl_loss([[1.0]], Z, 0.5), "got list"),
        (lambda: amcl_loss(Z, Z.double(), 0.5), "float64"),
        (lambda: amcl_loss(Z, Z, [0.5]), "one function a head, got list"),
        (lambda: amcl_loss(Z, Z, PairTemperature(3)), "one function a head, got PairTemperature"),
    ],
)
def test_refuses_types(call, word):
    with pytest.raises(TypeError, match=word):
        call()
