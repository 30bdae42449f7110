"""CACR against a loop over queries, its closed forms and decoupled InfoNCE."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.contrast.cacr import cacr_loss
from palimpsest.contrast.cacr_measures import cacr_weights, weights_report
from palimpsest.contrast.cacr_views import multi_view_cacr, queue_cacr
from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.momentum import KeyQueue, MomentumPair


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(queries=6, k=3, negatives=9, d=4):
    return rows(queries, d), rows(queries, k, d, seed=1), rows(negatives, d, seed=2)


def softmax(scores):
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def naive(query, positives, negatives, t_pos, t_neg, left_out=None, detach=True):
    """Query by query, from distances."""
    total = 0.0
    for i, q in enumerate(query):
        q = q / q.norm()
        near = [(q - p / p.norm()).square().sum() for p in positives[i]]
        counted = [n for j, n in enumerate(negatives) if left_out is None or j not in left_out[i].tolist()]
        far = [(q - n / n.norm()).square().sum() for n in counted]
        if detach:
            pull, push = softmax([t_pos * c.item() for c in near]), softmax([-t_neg * c.item() for c in far])
        else:
            pull, push = (t_pos * torch.stack(near)).softmax(0), (-t_neg * torch.stack(far)).softmax(0)
        total = total + sum(w * c for w, c in zip(pull, near, strict=True))
        total = total - sum(w * c for w, c in zip(push, far, strict=True))
    return total / len(query)


def gradients(loss, *inputs):
    inputs = [e.clone().requires_grad_() for e in inputs]
    value = loss(*inputs)
    return value.detach(), torch.autograd.grad(value, inputs)


def same(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0])
    for one, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("sharpness", [(1.0, 2.0), (0.0, 3.0), (1.5, 0.0), (0.0, 0.0)])
def test_equals_a_loop_over_queries(sharpness, detach):
    left_out = torch.tensor([[0, 1], [1, 2], [8, 3], [3, 4], [0, 8], [5, 6]])
    for out in (None, left_out):
        options = {"left_out": out, "detach": detach}
        same(
            gradients(lambda *e, options=options: cacr_loss(*e, *sharpness, **options), *drawn()),
            gradients(lambda *e, options=options: naive(*e, *sharpness, **options), *drawn()),
        )


def test_of_one_positive_attraction_is_alignment():
    query, positives, negatives = drawn(k=1)
    both = cacr_loss(query, positives, negatives, t_pos=7.0)
    alignment = (F.normalize(query, dim=1) - F.normalize(positives[:, 0], dim=1)).square().sum(1).mean()
    torch.testing.assert_close(both - cacr_loss(query, query[:, None], negatives), alignment)


def test_weights_of_sharpness_0_are_uniform():
    query, positives, negatives = drawn()
    q, p, n = (F.normalize(e, dim=-1) for e in (query, positives, negatives))
    expected = (q[:, None] - p).square().sum(-1).mean() - (q[:, None] - n).square().sum(-1).mean()
    torch.testing.assert_close(cacr_loss(query, positives, negatives, 0.0, 0.0), expected)


def test_great_sharpness_looks_at_the_farthest_positive_and_the_nearest_negative():
    query, positives, negatives = drawn()
    q, p, n = (F.normalize(e, dim=-1) for e in (query, positives, negatives))
    expected = (q[:, None] - p).square().sum(-1).amax(1) - (q[:, None] - n).square().sum(-1).amin(1)
    torch.testing.assert_close(cacr_loss(query, positives, negatives, 1e5, 1e5), expected.mean())


@pytest.mark.parametrize("t_neg", [0.7, 2.0])
def test_of_one_positive_with_constant_weights_it_moves_as_decoupled_info_nce(t_neg):
    query, positives, negatives = drawn(k=1)

    def decoupled(q, p, n):
        options = {"negatives": n, "in_batch": False, "decoupled": True, "normalize": True}
        return info_nce(q, p[:, 0], 1 / (2 * t_neg), **options) / t_neg

    _, ours = gradients(lambda *e: cacr_loss(*e, 3.0, t_neg), query, positives, negatives)
    _, theirs = gradients(decoupled, query, positives, negatives)
    same((torch.tensor(0.0), ours), (torch.tensor(0.0), theirs))


def test_slopes_of_costs_where_weights_carry_gradient():
    """Moved along the sphere, so that only costs change: by the closed form, and far negatives are attracted."""
    t_pos, t_neg = 1.3, 4.0
    query, positives, negatives = drawn(queries=1)
    q, p, n = (F.normalize(e, dim=-1) for e in (query, positives, negatives))
    _, (_, d_positives, d_negatives) = gradients(lambda *e: cacr_loss(*e, t_pos, t_neg, detach=False), q, p, n)
    pull, push = cacr_weights(q, p, n, t_pos, t_neg)

    def expected(weights, cost, sharpness, points):
        slope = weights * (1 + sharpness * (cost - (weights * cost).sum()))
        return slope, slope[:, None] * -2 * (q - (points @ q[0])[:, None] * points)

    near, far = (q - p[0]).square().sum(1), (q - n).square().sum(1)
    torch.testing.assert_close(d_positives[0], expected(pull[0], near, t_pos, p[0])[1])
    slope, d_expected = expected(push[0], far, -t_neg, n)
    torch.testing.assert_close(d_negatives, -d_expected)
    assert slope[far.argmin()] > 0
    assert slope[far.argmax()] < 0


def test_gradcheck():
    query, positives, negatives = (e.requires_grad_() for e in drawn(queries=3, k=2, negatives=4, d=3))
    assert torch.autograd.gradcheck(lambda *e: cacr_loss(*e, 1.0, 2.0, detach=False), (query, positives, negatives))


def test_value_is_the_same_without_gradients():
    inputs = [e.float() for e in drawn()]
    with torch.no_grad():
        silent = cacr_loss(*inputs)
    assert not cacr_loss(*inputs).requires_grad
    torch.testing.assert_close(silent, cacr_loss(inputs[0].requires_grad_(), *inputs[1:]).detach())
    torch.testing.assert_close(silent, cacr_loss(*inputs, detach=False).detach())


@pytest.mark.parametrize("detach", [True, False])
def test_every_view_is_a_query_once(detach):
    z = rows(4, 3, 5)

    def spelled_out(z):
        terms = []
        for i in range(4):
            for v in range(3):
                positives = torch.stack([z[i, u] for u in range(3) if u != v])
                negatives = torch.stack([z[j, u] for j in range(4) for u in range(3) if j != i])
                terms.append(naive(z[i, v][None], positives[None], negatives, 1.0, 2.0, detach=detach))
        return torch.stack(terms).mean()

    same(gradients(lambda z: multi_view_cacr(z, detach=detach), z), gradients(spelled_out, z))


def test_neither_the_order_of_images_and_views_nor_a_rotation_matters():
    z = rows(5, 3, 4)
    turn, _ = torch.linalg.qr(rows(4, 4, seed=3))
    expected = multi_view_cacr(z)
    for other in (z.flip(0), z[:, [2, 0, 1]], z @ turn, 3 * z):
        torch.testing.assert_close(multi_view_cacr(other), expected)


@pytest.mark.parametrize("detach", [True, False])
def test_with_a_queue(detach):
    query, key, queue = rows(3, 2, 4), rows(3, 2, 4, seed=1), rows(5, 4, seed=2)

    def spelled_out(query):
        terms = []
        for i in range(3):
            for v in range(2):
                others = [query[j, u] for j in range(3) for u in range(2) if j != i]
                negatives = torch.stack([*others, *queue])
                positives = key[i, 1 - v][None, None]
                terms.append(naive(query[i, v][None], positives, negatives, 1.0, 2.0, detach=detach))
        return torch.stack(terms).mean()

    same(gradients(lambda q: queue_cacr(q, key, queue, detach=detach), query), gradients(spelled_out, query))
    key.requires_grad_(), queue.requires_grad_()
    queue_cacr(query.requires_grad_(), key, queue).backward()
    assert query.grad is not None
    assert key.grad is None
    assert queue.grad is None


def test_an_empty_queue_leaves_the_batch():
    z = rows(3, 2, 4)
    torch.testing.assert_close(queue_cacr(z, z, z[:0, 0]), multi_view_cacr(z))


def test_weights_sum_to_1_and_spare_what_is_left_out():
    query, positives, negatives = drawn()
    left_out = torch.arange(6)[:, None]
    pull, push = cacr_weights(query, positives, negatives, 1.0, 2.0, left_out=left_out)
    torch.testing.assert_close(pull.sum(1), torch.ones(6).double())
    torch.testing.assert_close(push.sum(1), torch.ones(6).double())
    assert (push.gather(1, left_out) == 0).all()
    cost = (F.normalize(query, dim=1)[:, None] - F.normalize(positives, dim=2)).square().sum(-1)
    assert (pull.argmax(1) == cost.argmax(1)).all()


def test_report_counts_what_acts():
    query, positives, negatives = drawn()
    flat = weights_report(query, positives, negatives, 0.0, 0.0, left_out=torch.zeros(6, 1, dtype=torch.long))
    torch.testing.assert_close(flat["positives"], torch.full((6,), 3.0).double())
    torch.testing.assert_close(flat["negatives"], torch.full((6,), 8.0).double())
    sharp = weights_report(query, positives, negatives, 1e5, 1e5)
    torch.testing.assert_close(sharp["positives"], torch.ones(6).double())
    torch.testing.assert_close(sharp["negatives"], torch.ones(6).double())


def test_trains_with_a_momentum_encoder():
    torch.manual_seed(0)
    net = nn.Linear(8, 4)
    pair, queue = MomentumPair(net, 0.9), KeyQueue(48, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    images = torch.randn(24, 1, 8)
    losses = []
    for _ in range(60):
        views = images + 0.2 * torch.randn(24, 2, 8)
        keys = pair(views)
        loss = queue_cacr(net(views), keys, queue.keys.clone())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pair.update()
        queue.push(keys[:, 0])
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < losses[0]


GOOD = {"query": rows(3, 4), "positives": rows(3, 2, 4), "negatives": rows(5, 4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_pos": -1.0}, "t_pos must be finite and not negative, got -1.0"),
        ({"t_neg": math.inf}, "t_neg must be finite and not negative, got inf"),
        ({"t_neg": math.nan}, "got nan"),
        ({"positives": rows(2, 2, 4)}, r"positives must be \[3, k, 4\], got \[2, 2, 4\]"),
        ({"positives": rows(3, 0, 4)}, r"got \[3, 0, 4\]"),
        ({"positives": rows(3, 2, 5)}, "same width"),
        ({"negatives": rows(5, 3)}, "same width"),
        ({"negatives": rows(0, 4)}, "no negatives are left: there are 0, and 0 are left out"),
        ({"left_out": torch.zeros(2, 1, dtype=torch.long)}, r"left_out must be \[3, out\], got \[2, 1\]"),
        ({"left_out": torch.full((3, 1), 5)}, "left_out names column 5, of 5 negatives"),
        ({"left_out": torch.arange(5).expand(3, 5)}, "there are 5, and 5 are left out"),
        ({"query": rows(3, 4) * math.nan}, "query must be finite"),
        ({"query": rows(0, 4), "positives": rows(0, 2, 4)}, "query is empty"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        cacr_loss(**{**GOOD, **change})


def test_errors_of_views():
    with pytest.raises(ValueError, match=r"two views at least, got \[3, 1, 4\]"):
        multi_view_cacr(rows(3, 1, 4))
    with pytest.raises(ValueError, match=r"two views at least, got \[3, 4\]"):
        multi_view_cacr(rows(3, 4))
    with pytest.raises(ValueError, match="no negatives are left"):
        multi_view_cacr(rows(1, 3, 4))
    with pytest.raises(ValueError, match=r"same shape, got \[3, 2, 4\] and \[3, 3, 4\]"):
        queue_cacr(rows(3, 2, 4), rows(3, 3, 4), rows(5, 4))
    with pytest.raises(TypeError, match="same dtype"):
        cacr_loss(**{**GOOD, "negatives": rows(5, 4).float()})


def test_without_gradients_in_inference_mode():
    z = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    expected = multi_view_cacr(z)
    with torch.inference_mode():
        torch.testing.assert_close(multi_view_cacr(z.clone()), expected)


def test_autocast_leaves_costs_in_float32():
    z = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = multi_view_cacr(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = multi_view_cacr(z)
        weights = cacr_weights(z[:, 0], z, z[:, 1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (found, expected)))
    torch.testing.assert_close(weights, cacr_weights(z[:, 0], z, z[:, 1]))


def test_sharpness_is_a_number_and_columns_are_whole_ones():
    z = torch.randn(3, 2, 4)
    with pytest.raises(TypeError, match="t_neg must be a number, got a tensor"):
        multi_view_cacr(z, t_neg=torch.tensor(2.0))
    with pytest.raises(TypeError, match=r"by whole numbers, got torch\.bool"):
        cacr_loss(z[:, 0], z, z[:, 1], left_out=torch.zeros(3, 1, dtype=torch.bool))


def test_what_is_not_finite_has_the_callers_name():
    z, queue = rows(3, 2, 4), rows(5, 4)
    bad = z.detach().clone()
    bad[1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match=r"views must be finite, got nan at \[2, 2\]"):
        multi_view_cacr(bad)
    for name, sides in {"query": (bad, z, queue), "key": (z, bad, queue), "queue": (z, z, queue * torch.inf)}.items():
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            queue_cacr(*sides)
