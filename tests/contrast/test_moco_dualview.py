"""Two anchors and hard negatives against loops, MoCo and closed forms."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.contrast.heads import Projected, projection_head
from palimpsest.contrast.moco import queue_nce
from palimpsest.contrast.moco_dualview import dual_view_loss, hard_mask, hard_negatives
from palimpsest.contrast.momentum import KeyQueue, MomentumPair
from palimpsest.contrast.pretrain import Momentum
from palimpsest.train import fit


def unit(*shape, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def drawn(batch=7, queue=20, d=5):
    return unit(batch, d), unit(batch, d, seed=1), unit(queue, d, seed=2)


def naive_mask(anchor, queue, keep, drop_top):
    found = torch.zeros(len(anchor), len(queue), dtype=torch.bool)
    first = round(drop_top * len(queue))
    for i, a in enumerate(anchor):
        cosines = [float(F.cosine_similarity(a, key, dim=0)) for key in queue]
        ranked = sorted(range(len(queue)), key=lambda j: -cosines[j])
        for j in ranked[first : first + round(keep * len(queue))]:
            found[i, j] = True
    return found


def naive_nce(anchor, positive, queue, mask, tau):
    terms = []
    for i, a in enumerate(anchor):
        own = torch.exp(a @ positive[i] / tau)
        others = sum(torch.exp(a @ key / tau) for j, key in enumerate(queue) if mask[i, j])
        terms.append(-torch.log(own / (own + others)))
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("keep", "drop_top"), [(0.25, 0.0), (0.25, 0.1), (0.5, 0.5), (1.0, 0.0), (1.0, 0.3)])
def test_mask_equals_a_sort_for_each_anchor(keep, drop_top):
    anchor, _, queue = drawn()
    mask = hard_mask(3 * anchor, queue, keep, drop_top)
    assert torch.equal(mask, naive_mask(anchor, queue, keep, drop_top))
    first = round(20 * drop_top)
    assert (mask.sum(1) == min(round(20 * keep), 20 - first)).all()


def test_norms_do_not_change_the_ranking():
    anchor, _, queue = drawn()
    scaled = queue * torch.linspace(0.1, 9, len(queue)).double()[:, None]
    assert torch.equal(hard_mask(anchor, scaled), hard_mask(anchor, queue))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_ranking_is_that_of_the_same_values(dtype):
    anchor = 300 * torch.randn(40, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    queue = torch.randn(200, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = hard_mask(anchor.double(), queue.double(), drop_top=0.05)
    assert torch.equal(hard_mask(anchor, queue, drop_top=0.05), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hard_mask(anchor.float(), queue.float(), drop_top=0.05), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_loss_is_that_of_the_same_values(dtype):
    query, key, queue = (e.to(dtype) for e in drawn(batch=16, queue=64, d=32))
    loss = dual_view_loss(query.requires_grad_(), key, queue)
    exact = [F.normalize(e.detach().double()) for e in (query, key, queue)]
    torch.testing.assert_close(loss.double(), dual_view_loss(*exact), rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(loss, query)
    assert grad.dtype == dtype
    assert grad.isfinite().all()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_pretraining_hall_trains_it(precision):
    torch.manual_seed(0)
    model = Projected(nn.Linear(8, 8), projection_head(8, 16, 4))

    def batch(step):
        x = torch.randn(24, 1, 8, generator=torch.Generator().manual_seed(step))
        return {"views": x + 0.3 * torch.randn(24, 2, 8, generator=torch.Generator().manual_seed(1000 + step))}

    objective = Momentum(partial(dual_view_loss, drop_top=0.1), m=0.9, size=48)
    history = fit(model, objective, batch, steps=80, lr=0.02, precision=precision, progress=False)
    losses = [record["contrast"] for record in history.steps]
    assert sum(losses[-5:]) < sum(losses[3:8])  # from the third step on the queue has no random directions any more


def test_at_least_one_key_is_kept():
    anchor, _, queue = drawn(queue=3)
    assert (hard_mask(anchor, queue, keep=0.01).sum(1) == 1).all()
    assert (hard_mask(anchor, queue, keep=0.01, drop_top=0.99).sum(1) == 1).all()


@pytest.mark.parametrize(("keep", "drop_top"), [(0.25, 0.0), (0.25, 0.1), (1.0, 0.0)])
def test_nce_equals_a_loop(keep, drop_top):
    anchor, positive, queue = drawn()
    mask = naive_mask(anchor, queue, keep, drop_top)
    expected = naive_nce(anchor, positive, queue, mask, 0.2)
    for given in (mask, hard_negatives(keep, drop_top)):
        torch.testing.assert_close(queue_nce(anchor, positive, queue, given, 0.2), expected)


def test_strips_do_not_change_the_choice():
    anchor, positive, queue = unit(700, 6), unit(700, 6, seed=1), unit(64, 6, seed=2)
    streamed = queue_nce(anchor, positive, queue, hard_negatives(0.25, 0.1))
    torch.testing.assert_close(streamed, queue_nce(anchor, positive, queue, hard_mask(anchor, queue, 0.25, 0.1)))


def test_all_keys_and_one_anchor_are_moco():
    query, key, queue = (e.float() for e in drawn())
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / 0.1
    moco = F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))
    ours = dual_view_loss(query, key, queue, lam=0, keep=1)
    torch.testing.assert_close(ours, moco, rtol=0, atol=1e-6)
    torch.testing.assert_close(queue_nce(query, key, queue), moco, rtol=0, atol=1e-6)


def test_each_anchor_has_negatives_of_its_own():
    query, key, queue = drawn()
    forth = naive_nce(query, key, queue, naive_mask(query, queue, 0.3, 0.1), 0.1)
    back = naive_nce(key, query, queue, naive_mask(key, queue, 0.3, 0.1), 0.1)
    ours = dual_view_loss(query, key, queue, 0.7, keep=0.3, drop_top=0.1)
    torch.testing.assert_close(ours, forth + 0.7 * back)


def test_gradient_reaches_only_the_query():
    query, key, queue = (e.requires_grad_() for e in drawn())
    dual_view_loss(query, key, queue).backward()
    assert query.grad.abs().sum() > 0
    assert key.grad is None
    assert queue.grad is None


def test_the_key_as_anchor_pulls_by_what_it_gets_wrong():
    """d/dq of the second term is -(1 - p) k / tau along the sphere, p the key's probability of its query."""
    query, key, queue = drawn()
    query.requires_grad_()
    both = dual_view_loss(query, key, queue, 1.0, temperature=0.2, keep=0.5)
    (grad,) = torch.autograd.grad(both - dual_view_loss(query, key, queue, 0, temperature=0.2, keep=0.5), query)
    mask = hard_mask(key, queue, 0.5)
    with torch.no_grad():
        own = torch.exp((query * key).sum(1) / 0.2)
        right = own / (own + (torch.exp(key @ queue.T / 0.2) * mask).sum(1))
        pull = -(1 - right)[:, None] * key / 0.2 / len(query)
        expected = pull - (pull * query).sum(1, keepdim=True) * query
    torch.testing.assert_close(grad, expected)


def test_swapped_views_are_added():
    query, key, queue = drawn()
    again = unit(7, 5, seed=3), unit(7, 5, seed=4)
    options = {"lam": 0.5, "temperature": 0.2, "keep": 0.4, "drop_top": 0.1}
    expected = dual_view_loss(query, key, queue, **options) + dual_view_loss(*again, queue, **options)
    torch.testing.assert_close(dual_view_loss(query, key, queue, **options, swapped=again), expected)


def test_gradcheck():
    query, key, queue = drawn(batch=3, queue=8, d=3)
    assert torch.autograd.gradcheck(lambda q: dual_view_loss(q, key, queue, keep=0.5), query.requires_grad_())


def test_orders_do_not_matter():
    query, key, queue = drawn()
    expected = dual_view_loss(query, key, queue)
    torch.testing.assert_close(dual_view_loss(query.flip(0), key.flip(0), queue), expected)
    torch.testing.assert_close(dual_view_loss(query, key, queue.flip(0)), expected)


def test_fewer_negatives_are_an_easier_choice():
    query, key, queue = drawn()
    losses = [float(dual_view_loss(query, key, queue, keep=keep)) for keep in (0.05, 0.25, 1.0)]
    assert losses == sorted(losses)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_trains_with_momentum_pair_and_key_queue(lam):
    torch.manual_seed(0)
    net = nn.Linear(8, 4)
    pair, queue = MomentumPair(net, 0.9), KeyQueue(48, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        images = torch.randn(24, 8)
        first, second = (images + 0.3 * torch.randn(24, 8) for _ in range(2))
        keys = pair(second)
        loss = dual_view_loss(net(first), keys, queue.keys.clone(), lam, drop_top=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pair.update()
        queue.push(keys)
        losses.append(loss.item())
    filled = losses[3:8]  # the queue has no random directions any more
    assert sum(losses[-5:]) < sum(filled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0.0}, "keep must be above 0 and at most 1, got 0.0"),
        ({"keep": 1.5}, "keep must be above 0 and at most 1, got 1.5"),
        ({"drop_top": 1.0}, "drop_top must be from 0 to below 1, got 1.0"),
        ({"drop_top": -0.1}, "drop_top must be from 0 to below 1, got -0.1"),
        ({"lam": -1.0}, "lam must be finite and not negative, got -1.0"),
        ({"lam": math.nan}, "lam must be finite and not negative, got nan"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"key": unit(6, 5)}, "equally many rows"),
        ({"queue": unit(20, 4)}, "same width"),
        ({"queue": 2 * unit(20, 5)}, "queue must have rows of norm 1, got 2"),
        ({"queue": unit(0, 5)}, "the queue is empty"),
        ({"query": unit(7, 5) * math.nan}, "must be finite"),
    ],
)
def test_errors(change, message):
    query, key, queue = drawn()
    with pytest.raises(ValueError, match=message):
        dual_view_loss(**{"query": query, "key": key, "queue": queue, **change})


def test_errors_of_the_parts():
    anchor, positive, queue = drawn()
    with pytest.raises(ValueError, match=r"mask must be \[7, 20\], .* got \[20, 7\]"):
        queue_nce(anchor, positive, queue, hard_mask(anchor, queue).T)
    mask = hard_mask(anchor, queue)
    for wrong, found in ((mask.float(), "torch.float32"), (mask.long(), "torch.int64"), (mask.tolist(), "list")):
        with pytest.raises(TypeError, match=f"mask must be a boolean tensor or a function, got {found}"):
            queue_nce(anchor, positive, queue, wrong)
    for name in ("query", "key", "queue"):
        with pytest.raises(TypeError, match=f"{name} must be a tensor, got list"):
            dual_view_loss(**{"query": anchor, "key": positive, "queue": queue, name: [[1.0]]})
    with pytest.raises(ValueError, match="the queue is empty"):
        hard_mask(anchor, queue[:0])
    with pytest.raises(TypeError, match="same dtype"):
        hard_mask(anchor.float(), queue)
