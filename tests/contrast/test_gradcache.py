"""Chunks with a cache against the whole batch: gradients, dropout, inputs of all kinds, memory, DDP and precision."""

import copy
import warnings

import pytest
import torch
from tests.contrast.several_processes import batch, encoder, launch
from torch import nn
from torch.nn import functional as F

from palimpsest.contrast.gradcache import GradCache
from palimpsest.contrast.gradcache_measures import naive_accumulation
from palimpsest.contrast.inf_cl import tiled_nce
from palimpsest.contrast.info_nce import info_nce, nt_xent
from palimpsest.metrics.memory import peak_memory


def net(dropout=0.0, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 4)).double()


def rows(n, seed=0):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grads(*modules):
    return [p.grad for module in modules for p in module.parameters()]


def nce(a, b):
    return info_nce(a, b, 0.5, normalize=True, symmetric=True)


LOSSES = {
    "nce": nce,
    "nt_xent": nt_xent,
    "tiles": lambda a, b: tiled_nce(F.normalize(a), F.normalize(b), 5.0, tile=4),
    "triplet": lambda a, b: F.triplet_margin_loss(a, b, b.roll(1, 0)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk", [1, 4, 10, 99])
def test_it_is_the_gradient_of_the_whole_batch(name, chunk):
    whole, cached = net(), net()
    x, y = rows(10), rows(10, 1)
    loss = LOSSES[name](whole(x), whole(y))
    loss.backward()
    found = GradCache(cached, chunk, LOSSES[name]).step(x, y)
    torch.testing.assert_close(found, loss.detach())
    assert not found.requires_grad
    torch.testing.assert_close(grads(cached), grads(whole))


def test_gradients_accumulate():
    model, twice = net(), net()
    x, y = rows(6), rows(6, 1)
    step = GradCache(model, 2, nce).step
    step(x, y)
    step(x, y)
    (2 * nce(twice(x), twice(y))).backward()
    torch.testing.assert_close(grads(model), grads(twice))


@pytest.mark.parametrize("normalised", [True, False])
def test_with_dropout_it_is_the_gradient_of_the_batch_that_was_drawn(normalised):
    def loss_fn(a, b):
        noise = torch.rand(len(a), dtype=a.dtype)  # the loss may draw too
        return info_nce(a, b, 0.5, normalize=normalised, sample_weights=noise)

    whole, cached, x, y = net(0.5), net(0.5), rows(10), rows(10, 1)
    torch.manual_seed(7)
    # The whole batch with all its activations, the masks drawn in the same order.
    reps = [torch.cat([whole(part) for part in each.split(4)]) for each in (x, y)]
    loss = loss_fn(*reps)
    loss.backward()
    after = torch.rand(3)
    torch.manual_seed(7)
    found = GradCache(cached, 4, loss_fn).step(x, y)
    torch.testing.assert_close(found, loss.detach())
    torch.testing.assert_close(grads(cached), grads(whole))
    assert torch.equal(torch.rand(3), after), "the generator goes on as after one pass"


def test_two_encoders_with_chunks_of_their_own_and_more_keys_than_queries():
    towers, wholes = (net(0.3, 1), net(0.0, 2)), (net(0.3, 1), net(0.0, 2))
    for tower in (*towers, *wholes):
        tower.eval()
    x, y = rows(5), rows(9, 1)
    GradCache(towers, (2, 3), nce_one_way).step(x, y)
    nce_one_way(wholes[0](x), wholes[1](y)).backward()
    torch.testing.assert_close(grads(*towers), grads(*wholes))


def nce_one_way(a, b):
    return info_nce(a, b, 0.5, normalize=True)


class Masked(nn.Module):
    """Takes what a tokenizer gives."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 4)

    def forward(self, input_ids, attention_mask, factor=1.0):
        mask = attention_mask[..., None]
        return factor * (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)


def test_dicts_and_tuples():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (2, 7, 3), generator=generator)
    mask = torch.ones_like(ids)
    mask[:, ::2, 2] = 0
    torch.manual_seed(0)
    model = Masked()
    other = copy.deepcopy(model)
    factor = torch.tensor(2.0)  # no rows: it goes to every chunk
    first = {"input_ids": ids[0], "attention_mask": mask[0], "factor": factor}
    second = (ids[1], mask[1], 2.0)
    GradCache(model, 3, nce).step(first, second)
    nce(other(**first), other(*second)).backward()
    torch.testing.assert_close(grads(model), grads(other))


def test_a_loss_with_parameters_and_options():
    model, other = net(), net()
    log_scale, wanted = (nn.Parameter(torch.tensor(0.5, dtype=torch.float64)) for _ in range(2))
    x, y, labels = rows(8), rows(8, 1), torch.arange(8) % 3

    def loss_of(log_scale):
        return lambda a, b, labels: info_nce(a, b, (-log_scale).exp(), labels=labels, normalize=True)

    GradCache(model, 3, loss_of(log_scale)).step(x, y, labels=labels)
    loss_of(wanted)(other(x), other(y), labels).backward()
    torch.testing.assert_close(grads(model), grads(other))
    torch.testing.assert_close(log_scale.grad, wanted.grad)


def test_frozen_parts_and_an_outer_no_grad():
    model, frozen = net(), net(seed=1).requires_grad_(False)
    with torch.no_grad():
        GradCache([model, frozen], 2, nce).step(rows(6), rows(6, 1))
    assert all(grad.abs().max() > 0 for grad in grads(model)[:2])
    assert grads(frozen) == [None] * 4
    partly = net()
    partly[0].requires_grad_(False)
    GradCache(partly, 2, nce).step(rows(6), rows(6, 1))
    assert partly[0].weight.grad is None
    torch.testing.assert_close(partly[3].weight.grad, _whole(nce)[3].weight.grad)


def _whole(loss_fn):
    model = net()
    loss_fn(model(rows(6)), model(rows(6, 1))).backward()
    return model


def test_under_autocast_weights_keep_their_gradient():
    model, other = net().float(), net().float()
    x, y = rows(8).float(), rows(8, 1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        GradCache(model, 3, nce).step(x, y)
        loss = nce(other(x), other(y))
    loss.backward()
    for one, whole in zip(grads(model), grads(other), strict=True):
        assert one is not None
        assert (one - whole).norm() < 0.05 * whole.norm()


def test_a_scaler_scales_gradients_and_not_the_loss():
    model, scaled = net(), net()
    loss = GradCache(model, 2, nce).step(rows(6), rows(6, 1))
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    assert GradCache(scaled, 2, nce, scaler=scaler).step(rows(6), rows(6, 1)) == loss
    torch.testing.assert_close(grads(scaled), [256 * grad for grad in grads(model)])
    scaler.unscale_(torch.optim.SGD(scaled.parameters(), 0.1))
    torch.testing.assert_close(grads(scaled), grads(model))
    once, by_scaler = net(), net()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    naive_accumulation(once, 2, nce, rows(6), rows(6, 1))
    naive_accumulation(by_scaler, 2, nce, rows(6), rows(6, 1), scaler=scaler)
    torch.testing.assert_close(grads(by_scaler), [256 * grad for grad in grads(once)])


def test_naive_accumulation_is_the_weighted_mean_of_small_batches():
    model, other, x, y = net(), net(), rows(10), rows(10, 1)
    loss = naive_accumulation(model, 4, nce, x, y)
    expected = sum(nce(other(a), other(b)) * len(a) / 10 for a, b in zip(x.split(4), y.split(4), strict=True))
    expected.backward()
    torch.testing.assert_close(loss, expected.detach().to(loss.dtype))
    torch.testing.assert_close(grads(model), grads(other))
    cached = net()
    GradCache(cached, 4, nce).step(x, y)
    assert not torch.allclose(grads(cached)[0], grads(model)[0], rtol=1e-2)
    whole, in_one = net(), net()
    naive_accumulation(in_one, 10, nce, x, y)
    nce(whole(x), whole(y)).backward()
    torch.testing.assert_close(grads(in_one), grads(whole))


def test_batch_norm_is_warned_of_in_train_mode_only():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    step = GradCache(model, 3, nce).step
    with pytest.warns(UserWarning, match="1 is batch norm on batch statistics"):
        step(rows(6), rows(6, 1))
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(rows(6), rows(6, 1))


def test_one_chunk_s_activations_live_at_a_time():
    model = nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 4))
    x = torch.randn(512, 8)

    def peak(step):
        model.zero_grad(set_to_none=False)
        return peak_memory(step)

    def loss_fn(a, b):
        return tiled_nce(a, b, 1.0, tile=32)

    for _ in range(2):
        whole = peak(lambda: loss_fn(model(x), model(x)).backward())
        cached = peak(lambda: GradCache(model, 32, loss_fn).step(x, x))
    assert cached < 0.3 * whole


def test_errors():
    model = net()
    for chunk in (0, 2.5, True, (2, 0)):
        with pytest.raises(ValueError, match="chunk must be"):
            GradCache(model, chunk, nce)
    with pytest.raises(TypeError, match="modules, got function"):
        GradCache([model, nce], 2, nce)
    with pytest.raises(ValueError, match="no encoder"):
        GradCache([], 2, nce)
    with pytest.raises(ValueError, match="2 encoders and 1 inputs"):
        GradCache([model, model], 2, nce).step(rows(4))
    with pytest.raises(ValueError, match="2 chunk sizes and 1 inputs"):
        GradCache(model, (2, 2), nce).step(rows(4))
    with pytest.raises(ValueError, match="needs an input"):
        GradCache(model, 2, nce).step()
    with pytest.raises(ValueError, match=r"rows, at least one, got \[4, 3\]"):
        GradCache(model, 2, nce).step((rows(4), rows(3)))
    with pytest.raises(TypeError, match="got list"):
        GradCache(model, 2, nce).step([rows(4)])
    with pytest.raises(ValueError, match=r"a scalar, got \[4, 4\]"):
        GradCache(model, 2, lambda a: a).step(rows(4))
    with pytest.raises(ValueError, match="a row for each of 2"):
        GradCache(nn.Flatten(0), 2, nce).step(rows(4))
    with pytest.raises(TypeError, match="got tuple: wrap it"):
        GradCache(nn.LSTM(6, 4).double(), 2, nce).step(rows(4))
    with pytest.raises(ValueError, match=r"equally many rows, got \[4, 6\]"):
        naive_accumulation(model, 2, nce, rows(4), rows(6))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("ddp") / "out", 2)


@pytest.mark.parametrize(
    ("name", "towers"), [("one encoder", 1), ("two encoders", 2), ("last input without gradient", 1)]
)
def test_ddp_synchronises_once_and_gives_the_joint_batch(ranks, name, towers):
    q, k, *_ = batch()
    models = [encoder() for _ in range(towers)]
    keys = models[-1](k)
    loss = tiled_nce(models[0](q), keys.detach() if name == "last input without gradient" else keys, 2.0)
    loss.backward()
    torch.testing.assert_close(torch.stack([rank[name]["loss"] for rank in ranks]).mean(), loss.detach())
    for rank in ranks:
        assert rank[name]["reductions"] == [1] * towers
        torch.testing.assert_close(rank[name]["gradients"], grads(*models))


def test_naive_accumulation_synchronises_once(ranks):
    q, k, *_ = batch()
    model = encoder()
    (model(q) - model(k)).square().mean().backward()
    for rank in ranks:
        assert rank["naive"]["reductions"] == [1]
        torch.testing.assert_close(rank["naive"]["gradients"], grads(model))


def test_a_loss_without_a_gradient_is_an_error_and_an_encoder_without_one_is_not():
    model = encoder()
    with pytest.raises(ValueError, match="does not depend on the representations"):
        GradCache(model, 2, lambda a: torch.zeros(())).step(torch.randn(4, 5).double())

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = encoder()

        def forward(self, x):
            return self.net(x).detach()

    GradCache(Detached(), 2, lambda a: a.square().sum()).step(torch.randn(4, 5).double())


def test_batch_norm_that_never_keeps_statistics_is_warned_of_in_eval_mode_too():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False)).double().eval()
    with pytest.warns(UserWarning, match="batch statistics"):
        GradCache(model, 2, lambda a: a.square().sum()).step(torch.randn(4, 6).double())
