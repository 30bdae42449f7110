"""Tiles and rings against the plain expression: values, gradients, memory, and real processes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contrast.several_processes import INFO_NCE, ROWS, batch, launch, of_the_whole_batch, options_of
from torch.nn import functional as F

from palimpsest.contrast.inf_cl import ring_nce, tiled_nce
from palimpsest.contrast.info_nce import info_nce, nt_xent
from palimpsest.contrast.llave import hardness_nce
from palimpsest.contrast.nonneg_cl import ncl_loss
from palimpsest.contrast.siglip import sigmoid_loss
from palimpsest.metrics.memory import peak_memory


def plain(q, k, scale, symmetric=True):
    scores, own = scale * q @ k.T, torch.arange(len(q))
    loss = F.cross_entropy(scores, own)
    return (loss + F.cross_entropy(scores.T, own)) / 2 if symmetric else loss


def pairs(n, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    q, k = (F.normalize(torch.randn(n, d, generator=generator, dtype=dtype)) for _ in range(2))
    return q.requires_grad_(), k.requires_grad_()


def compare(loss, expected, inputs, rtol=1e-9):
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=1e-12)
    found, wanted = torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 11),
    tile=st.integers(1, 13),
    scale=st.sampled_from([0.3, 10.0, 39.0, 41.0, 500.0]),
    symmetric=st.booleans(),
)
def test_tiles_give_the_plain_value_and_gradient(n, tile, scale, symmetric):
    q, k = pairs(n)
    scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    expected = plain(q, k, scale, symmetric)
    compare(tiled_nce(q, k, scale, tile, symmetric), expected, (q, k, scale))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("ranks", "tile"), [(1, 4), (2, 4), (4, 2), (12, 7)])
def test_a_ring_gives_the_joint_batch(ranks, tile, symmetric):
    q, k = pairs(12)
    for value in (5.0, 300.0):
        scale = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        loss = ring_nce(q.chunk(ranks), k.chunk(ranks), scale, tile, symmetric)
        compare(loss, plain(q, k, scale, symmetric), (q, k, scale))


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradcheck(symmetric):
    q, k = pairs(5, d=3)
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: tiled_nce(*x, 2, symmetric), (q, k, scale))
    assert torch.autograd.gradcheck(
        lambda q, k, s: ring_nce(q.split(2), k.split(2), s, 3, symmetric),
        (q[:4].detach().requires_grad_(), k[:4], scale),
    )


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_frozen_side(symmetric):
    q, k = pairs(7)
    for own, other in ((q, k.detach()), (q.detach(), k)):
        inputs = [each for each in (own, other) if each.requires_grad]
        compare(tiled_nce(own, other, 6.0, 3, symmetric), plain(own, other, 6.0, symmetric), inputs)


def test_closed_forms():
    eye = torch.eye(4, dtype=torch.float64)
    expected = torch.log(torch.exp(torch.tensor(2.0)) + 3) - 2
    assert tiled_nce(eye, eye, 2.0, 3).item() == pytest.approx(expected.item())
    same = torch.ones(6, 2)
    assert tiled_nce(same, same, 1.0, 4).item() == pytest.approx(torch.tensor(6.0).log().item())
    q, k = pairs(1)
    loss = tiled_nce(q, k, 10.0)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert all(grad.abs().max() < 1e-12 for grad in torch.autograd.grad(loss, (q, k)))


def test_it_is_the_hall_s_loss():
    q, k = pairs(9)
    for symmetric in (True, False):
        compare(tiled_nce(q, k, 8.0, 4, symmetric), info_nce(q, k, 1 / 8, symmetric=symmetric), (q, k))


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_half_precision_is_gathered_in_float32(scale):
    q, k = (each.detach().bfloat16().requires_grad_() for each in pairs(64, d=16))
    wide = [each.detach().float().requires_grad_() for each in (q, k)]
    loss = tiled_nce(q, k, scale, 16)
    assert loss.dtype == torch.float32
    expected = plain(*wide, scale)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(torch.autograd.grad(loss, (q, k)), torch.autograd.grad(expected, wide), strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other.bfloat16(), rtol=1e-2, atol=1e-5)


def test_scores_that_would_overflow():
    q = torch.tensor([[100.0, 0.0], [0.0, 100.0]], requires_grad=True)
    loss = tiled_nce(q, q.detach(), 1.0)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, q)[0].abs().max() == 0


@pytest.mark.parametrize("scale", [10.0, 100.0])
@pytest.mark.parametrize("run", [tiled_nce, lambda q, k, s, tile: ring_nce(q.chunk(4), k.chunk(4), s, tile)])
def test_memory_is_that_of_two_tiles(run, scale):
    n, d, tile = 1024, 8, 64
    q, k = pairs(n, d, dtype=torch.float32)

    def step():
        run(q, k, scale, tile).backward()

    step()
    q.grad = k.grad = None
    peak = peak_memory(step)
    gradients, numbers = 4 * 4 * n * d, 4 * 16 * n  # of q, k and their accumulators; log-sum-exps and the like
    assert peak < gradients + numbers + 3 * 4 * tile**2
    assert peak < 4 * n * n / 10


def test_errors():
    q, k = torch.ones(4, 2), torch.ones(4, 2)
    for tile in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="tile must be"):
            tiled_nce(q, k, 1.0, tile)
    for scale in (0.0, -2.0, float("nan"), float("inf"), torch.tensor(0.0)):
        with pytest.raises(ValueError, match="scale must be"):
            tiled_nce(q, k, scale)
    with pytest.raises(ValueError, match="scores overflow"):
        tiled_nce(1e20 * q, 1e20 * k, 1.0)
    with pytest.raises(ValueError, match="one element"):
        tiled_nce(q, k, torch.ones(4))
    with pytest.raises(ValueError, match="equally many rows"):
        tiled_nce(q, k[:3], 1.0)
    with pytest.raises(ValueError, match="at least 1 pair, got 0"):
        tiled_nce(q[:0], k[:0], 1.0)
    with pytest.raises(ValueError, match="key must be finite, got inf"):
        tiled_nce(q, k * torch.inf, 1.0)
    with pytest.raises(TypeError, match="int64"):
        tiled_nce(q.long(), k.long(), 1.0)
    with pytest.raises(ValueError, match="equally many tensors"):
        ring_nce(q, k, 1.0)
    with pytest.raises(ValueError, match="equally many tensors"):
        ring_nce(q.split(2), [k], 1.0)
    with pytest.raises(ValueError, match=r"alike, got \[3, 2\] and \[1, 2\]"):
        ring_nce(q.split(3), k.split(3), 1.0)
    with pytest.raises(ValueError, match="no shards"):
        ring_nce([], [], 1.0)


def test_there_is_no_second_derivative():
    q, k = pairs(4)
    with pytest.raises(NotImplementedError, match="use info_nce"):
        torch.autograd.grad(tiled_nce(q, k, 1.0), q, create_graph=True)


@pytest.fixture(scope="module", params=[2, 3])
def processes(request, tmp_path_factory):
    return launch(tmp_path_factory.mktemp("gloo") / "out", request.param)


def check(ranks, name, expected, *inputs):
    """The mean over the ranks is the loss of the joint batch; their gradients, averaged, are its gradient."""
    loss = torch.stack([rank[name]["loss"] for rank in ranks]).mean()
    torch.testing.assert_close(loss, expected.detach())
    found = [
        torch.cat(each) / len(ranks) if each[0].ndim else torch.stack(each).mean()
        for each in zip(*(rank[name]["gradients"] for rank in ranks), strict=True)
    ]
    for one, other in zip(found, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tile", [3, 100])
def test_a_ring_of_processes(processes, symmetric, tile):
    q, k, scale, *_ = (each.requires_grad_() if each.is_floating_point() else each for each in batch())
    check(processes, f"ring {symmetric} {tile}", plain(q, k, scale, symmetric), q, k, scale)


@pytest.mark.parametrize("name", INFO_NCE)
def test_the_hall_s_loss_across_processes(processes, name):
    q, k, scale, *labels = (each.requires_grad_() if each.is_floating_point() else each for each in batch())
    themselves = INFO_NCE[name].get("exclude_self")
    loss = info_nce(q, q if themselves else k, 1 / scale, **options_of(INFO_NCE[name], *labels))
    check(processes, name, loss, *((q, scale) if themselves else (q, k, scale)))


def test_other_losses_across_processes(processes):
    q, k, scale, *_ = (each.requires_grad_() if each.is_floating_point() else each for each in batch())
    numbers = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.5, -2.0)]
    check(processes, "sigmoid", sigmoid_loss(q, k, *numbers), q, k, *numbers)
    check(processes, "hardness", hardness_nce(q, k, scale), q, k, scale)


def test_losses_of_views_across_processes(processes):
    q, k, scale, *_ = (each.requires_grad_() if each.is_floating_point() else each for each in batch())
    for name, whole in of_the_whole_batch().items():
        check(processes, name, whole(q, k), q, k)
    check(processes, "simclr", nt_xent(q, k, 1 / scale), q, k, scale)
    check(processes, "ncl", ncl_loss(q, k, 1 / scale), q, k, scale)
    check(processes, "further keys", info_nce(q, torch.cat([k, k.flip(1)])), q, k)


def test_what_is_not_to_be_had_across_processes(processes):
    for rank in processes:
        assert "leave symmetric out" in rank["temperatures"]
        assert "once_differentiable" in rank["second derivative"]


def test_a_ring_of_some_of_the_processes(processes):
    rows = 2 * ROWS // len(processes)
    q, k, scale, *_ = batch()
    q, k = q[:rows].requires_grad_(), k[:rows].requires_grad_()
    check(processes[:2], "pair", plain(q, k, scale.requires_grad_()), q, k, scale)


def test_unequal_shards_are_an_error_everywhere(processes):
    for rank in processes:
        assert "rows 3, 2" in rank["unequal"]
        assert "dtype torch.float32, torch.float64" in rank["unlike"]
        assert "rows 3, 2" in rank["unequal gathered"]
