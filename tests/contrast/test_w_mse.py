"""Whitening MSE against plain loops, its invariances and the covariance that it promises."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from palimpsest.contrast.many_views import views_mse
from palimpsest.contrast.pretrain import Views
from palimpsest.contrast.w_mse import w_mse, whiten
from palimpsest.metrics.probes import effective_rank
from palimpsest.train import fit


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def embeddings(n=40, d=5, views=3, seed=0, noise=0.5):
    drawn = gen(seed)
    centre = torch.randn(n, d, generator=drawn, dtype=torch.float64)
    return [centre + noise * torch.randn(n, d, generator=drawn, dtype=torch.float64) for _ in range(views)]


def plain_whiten(v, eps=0.0):
    """Through the inverse of the factor, one slice at a time."""
    shrunk = (1 - eps) * torch.cov(v.T) + eps * torch.eye(v.shape[1], dtype=v.dtype)
    return (v - v.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(shrunk)).T


def plain_w_mse(views, size, iterations, norm, eps, generator):
    total = 0.0
    for _ in range(iterations):
        order = torch.randperm(len(views[0]), generator=generator)
        parts = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        whitened = [[plain_whiten(view[part], eps) for part in parts] for view in views]
        pairs = list(combinations(range(len(views)), 2))
        for a, b in pairs:
            x, y = torch.cat(whitened[a]), torch.cat(whitened[b])
            distance = 2 - 2 * F.cosine_similarity(x, y) if norm else (x - y).square().mean(1)
            total = total + distance.mean() / len(pairs)
    return total / iterations


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.floats(-3, 3))
def test_whitened_rows_are_centred_and_their_covariance_is_the_identity(seed, d, log_scale):
    drawn = gen(seed)
    mix = torch.randn(d, d, generator=drawn, dtype=torch.float64) + 3 * torch.eye(d, dtype=torch.float64)
    v = 10**log_scale * torch.randn(3 * d + 5, d, generator=drawn, dtype=torch.float64) @ mix + 4
    out = whiten(v)
    torch.testing.assert_close(out.mean(0), torch.zeros(d, dtype=v.dtype), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.atleast_2d(torch.cov(out.T)), torch.eye(d, dtype=v.dtype), atol=1e-6, rtol=0)


@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0])
def test_whitening_of_slices_is_the_plain_one_of_each(eps):
    v = torch.randn(2, 3, 12, 4, generator=gen(), dtype=torch.float64)
    out = whiten(v, eps)
    for a in range(2):
        for b in range(3):
            torch.testing.assert_close(out[a, b], plain_whiten(v[a, b], eps))


def test_with_all_shrinkage_rows_are_only_centred():
    (v,) = embeddings(views=1)
    torch.testing.assert_close(whiten(v, eps=1.0), v - v.mean(0))


@pytest.mark.parametrize("d", [32, 64])
def test_float32_rows_of_any_mixture_are_white(d):
    """In float32 statistics of twice as many rows as dimensions left errors of up to 0.5 here, or had no factor."""
    worst = 0.0
    for seed in range(10):
        mix = torch.randn(d, d, generator=gen(seed))
        out = whiten(torch.randn(2 * d, d, generator=gen(seed + 100)) @ mix + 3)
        assert out.dtype == torch.float32
        worst = max(worst, float((torch.cov(out.double().T) - torch.eye(d)).abs().max()))
    assert worst < 1e-6


@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
def test_dimensions_that_say_nothing_new_are_refused_in_float32(scale):
    v = scale * torch.randn(40, 6, generator=gen())
    copied, summed, constant = v.clone(), v.clone(), v.clone()
    copied[:, 4] = v[:, 1]
    summed[:, 5] = v[:, 0] + 0.5 * v[:, 3] - 2 * scale
    constant[:, 2] = 0.1
    for bad in (copied, summed, constant):
        with pytest.raises(ValueError, match="has no inverse: some are constant, dependent"):
            whiten(bad)
        with pytest.raises(ValueError, match="has no inverse"):
            w_mse(v, bad)
        assert whiten(bad, eps=0.1).isfinite().all()


def test_a_constant_whose_mean_is_rounded_is_refused():
    for rows in range(8, 60):
        v = torch.randn(rows, 3, generator=gen(rows), dtype=torch.float64)
        v[:, 1] = 0.1
        with pytest.raises(ValueError, match="has no inverse"):
            whiten(v)


def test_whitening_in_half_precision_and_under_autocast_is_done_in_float64():
    v = torch.randn(200, 6, generator=gen())
    exact = whiten(v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whiten(v), exact)
    rounded = whiten(v.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("views", "size", "iterations", "eps"), [(2, 10, 1, 0.0), (2, 13, 3, 0.1), (4, 10, 2, 0.0)])
def test_the_loss_is_the_plain_loop_over_slices_and_pairs(views, size, iterations, eps, norm):
    z = embeddings(views=views)
    options = {"w_size": size, "w_iter": iterations, "norm": norm, "eps": eps}
    torch.testing.assert_close(
        w_mse(*z, **options, generator=gen(7)), plain_w_mse(z, size, iterations, norm, eps, gen(7))
    )


def test_the_baseline_is_the_mean_squared_distance_over_pairs():
    z = embeddings(views=4)
    plain = torch.stack([(a - b).square().mean() for a, b in combinations(z, 2)]).mean()
    torch.testing.assert_close(views_mse(*z, norm=False), plain)
    cosines = torch.stack([F.cosine_similarity(a, b).mean() for a, b in combinations(z, 2)]).mean()
    torch.testing.assert_close(views_mse(*z), 2 - 2 * cosines)


@pytest.mark.parametrize("norm", [True, False])
def test_gradcheck(norm):
    z = [view.requires_grad_() for view in embeddings(n=11, d=3, views=3)]
    assert torch.autograd.gradcheck(
        lambda *views: w_mse(*views, w_size=5, w_iter=2, norm=norm, generator=gen(1)), tuple(z)
    )


def test_slices_are_of_2d_rows_unless_the_batch_is_smaller():
    z = embeddings(n=40, d=5, views=2)
    assert w_mse(*z, generator=gen(3)) == w_mse(*z, w_size=10, generator=gen(3))
    few = [view[:8] for view in z]
    assert w_mse(*few, generator=gen(3)) == w_mse(*few, w_size=8, generator=gen(3))


def test_rows_that_fill_no_slice_are_dropped():
    z = [view.requires_grad_() for view in embeddings(n=23, d=4, views=2)]
    w_mse(*z, w_size=10, generator=gen()).backward()
    left_out = torch.randperm(23, generator=gen())[20:]
    for view in z:
        touched = view.grad.abs().sum(1) > 0
        assert not touched[left_out].any()
        assert int(touched.sum()) == 20


def test_one_slice_does_not_depend_on_the_order_of_rows_or_of_views():
    a, b, c = embeddings(n=16, d=4)
    order = torch.randperm(16, generator=gen(5))
    whole = w_mse(a, b, c, w_size=16)
    torch.testing.assert_close(w_mse(a[order], b[order], c[order], w_size=16), whole)
    torch.testing.assert_close(w_mse(c, a, b, w_size=16), whole)
    assert w_mse(a[order], b, c, w_size=16) > whole + 0.1, "views of other images are farther apart"


def test_shift_scale_and_mixing_with_earlier_dimensions_change_nothing():
    a, b = embeddings(views=2)
    d = a.shape[1]
    mix = torch.randn(d, d, generator=gen(2), dtype=torch.float64).tril(-1) + torch.diag(torch.arange(1.0, d + 1))
    loss = w_mse(a, b, generator=gen(4))
    torch.testing.assert_close(w_mse(a @ mix.T - 9, b @ mix.T + 2, generator=gen(4)), loss)


def test_nothing_is_gained_by_shrinking():
    """Where whitening undoes every scale, the gradient has no part along the centred embeddings, in any dimension."""
    a, b = (view.requires_grad_() for view in embeddings(n=12, d=4, views=2))
    w_mse(a, b, w_size=12, norm=False).backward()
    along = (a.grad * (a - a.mean(0))).sum(0)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)


def test_independent_views_are_at_distance_two_and_equal_ones_at_none():
    a, b = embeddings(n=4000, d=4, views=2, noise=0.0)[0], embeddings(n=4000, d=4, views=1, seed=9)[0]
    assert w_mse(a, b, w_size=400).item() == pytest.approx(2.0, abs=0.1)
    assert w_mse(a, b, w_size=400, norm=False).item() == pytest.approx(2, abs=0.1)
    assert w_mse(a, a).item() == pytest.approx(0.0, abs=1e-12)


def test_whitening_keeps_training_from_collapse():
    x = torch.randn(64, 8, generator=gen())

    def batch(step):
        noisy = x[:, None] + 0.3 * torch.randn(64, 2, 8, generator=gen(step))
        return {"views": noisy}

    ranks = {}
    for name, loss in (("plain", views_mse), ("whitened", w_mse)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        history = fit(net, Views(loss), batch, steps=300, lr=0.01, progress=False)
        assert history.steps[-1]["contrast"] < 0.8 * history.steps[0]["contrast"]
        ranks[name] = effective_rank(net(x).detach(), center=False)
    assert ranks["plain"] < 1.5
    assert ranks["whitened"] > 3


@pytest.mark.parametrize(
    ("views", "options", "message"),
    [
        ([torch.randn(8, 2)], {}, "at least two views are compared, each an argument of its own, got 1"),
        ([[torch.randn(8, 2)] * 2], {}, "each an argument of its own, got 1"),
        ([torch.randn(0, 2)] * 2, {}, "at least 1 pair, got 0"),
        ([torch.randn(8, 2), torch.randn(7, 2)], {}, "equally many rows"),
        ([torch.randn(8, 2), torch.randn(8, 3)], {}, "the same width"),
        ([torch.randn(8, 8)] * 2, {}, "more rows than d = 8 and at most the batch's 8, got 8"),
        ([torch.randn(8, 2)] * 2, {"w_size": 2}, "got 2"),
        ([torch.randn(8, 2)] * 2, {"w_size": 9}, "got 9"),
        ([torch.randn(8, 2)] * 2, {"w_iter": 0}, "w_iter must be at least 1, got 0"),
        ([torch.randn(8, 2)] * 2, {"eps": 1.5}, r"eps must be in \[0, 1\], got 1.5"),
        ([torch.ones(8, 2)] * 2, {}, "has no inverse"),
        ([torch.full((8, 2), torch.nan)] * 2, {}, "must be finite"),
    ],
)
def test_errors(views, options, message):
    with pytest.raises(ValueError, match=message):
        w_mse(*views, **options)


def test_errors_of_the_baseline_and_of_the_types():
    with pytest.raises(ValueError, match="at least 1 pair, got 0"):
        views_mse(torch.randn(0, 2), torch.randn(0, 2))
    for options, message in (({"w_size": 4.0}, "w_size must be a whole number, got 4.0"), ({"w_iter": 1.5}, "w_iter")):
        with pytest.raises(TypeError, match=message):
            w_mse(torch.randn(8, 2), torch.randn(8, 2), **options)


def test_errors_of_whitening():
    with pytest.raises(ValueError, match="needs more than 3 rows, got 3"):
        whiten(torch.randn(3, 3))
    with pytest.raises(ValueError, match=r"must be \[..., n, d\], got \[3\]"):
        whiten(torch.randn(3))
    with pytest.raises(TypeError, match="must be a tensor of floats"):
        whiten(torch.ones(3, 2, dtype=torch.long))


def test_the_number_of_the_authors_code() -> None:
    """One slice, eps 0, their whitening and mean squared error, in float64."""
    z = (torch.arange(2 * 64 * 8, dtype=torch.float64).square() * 0.37).sin().view(2, 64, 8)
    assert w_mse(*z, w_size=64, norm=False).item() == pytest.approx(2.017711647028989, rel=1e-12)
