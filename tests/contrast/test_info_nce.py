"""The streamed loss against loops over pairs, against the plain expression, and against what it must not accept."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.contrast import info_nce, nt_xent, reference_info_nce


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def by_hand(q, k, t, targets, *, queue=(), hard=None, self_out=False, margin=0.0, decoupled=False, batch=True):
    """One query and one key at a time."""
    found = []
    for i, target in enumerate(targets):
        positive = (q[i] @ k[target] - margin) / t
        scores = [] if decoupled else [positive]
        if batch:
            scores += [q[i] @ k[j] / t for j in range(len(k)) if j != target and not (self_out and j == i)]
        scores += [q[i] @ key / t for key in queue]
        scores += [] if hard is None else [q[i] @ key / t for key in hard[i]]
        found.append(torch.stack(scores).logsumexp(0) - positive)
    return torch.stack(found)


TARGETS = torch.tensor([3, 1, 8, 0, 2, 5, 7])


@pytest.mark.parametrize(
    ("ours", "naive"),
    [
        ({}, {}),
        ({"margin": 0.2}, {"margin": 0.2}),
        ({"decoupled": True}, {"decoupled": True}),
        ({"negatives": unit(11, 5, seed=3)}, {"queue": unit(11, 5, seed=3)}),
        ({"negatives": unit(7, 3, 5, seed=4)}, {"hard": unit(7, 3, 5, seed=4)}),
        ({"negatives": unit(11, 5, seed=3), "in_batch": False}, {"queue": unit(11, 5, seed=3), "batch": False}),
        ({"exclude_self": True, "decoupled": True}, {"self_out": True, "decoupled": True}),
    ],
)
def test_one_direction_is_the_loop_over_pairs(ours, naive) -> None:
    q, k = unit(7, 5), unit(9, 5, seed=1)
    found = info_nce(q, k, 0.3, targets=TARGETS, reduction="none", rows=3, **ours)
    torch.testing.assert_close(found, by_hand(q, k, 0.3, TARGETS, **naive))
    torch.testing.assert_close(info_nce(q, k, 0.3, targets=TARGETS, rows=2, **ours), found.mean())
    torch.testing.assert_close(info_nce(q, k, 0.3, targets=TARGETS, reduction="sum", **ours), found.sum())


def test_both_directions_are_the_mean_of_two() -> None:
    q, k = unit(6, 4), unit(6, 4, seed=1)
    forth, back = (by_hand(a, b, 0.2, range(6)) for a, b in ((q, k), (k, q)))
    torch.testing.assert_close(info_nce(q, k, 0.2, symmetric=True, rows=4), (forth + back).mean() / 2)
    torch.testing.assert_close(info_nce(q, k, 0.2, symmetric=True, rows=4, reduction="none"), (forth + back) / 2)


def test_nt_xent_takes_all_other_views_as_negatives() -> None:
    z1, z2 = 3 * unit(5, 4), 0.1 * unit(5, 4, seed=1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    partners = torch.arange(10).roll(5)
    torch.testing.assert_close(nt_xent(z1, z2, 0.4), by_hand(z, z, 0.4, partners, self_out=True).mean())
    assert nt_xent(torch.eye(3), torch.eye(3), 0.5).item() == pytest.approx(math.log(math.e**2 + 4) - 2, rel=1e-6)


def test_labels_are_supcon() -> None:
    z, labels, t = unit(8, 4), torch.tensor([0, 0, 1, 1, 1, 2, 0, 1]), 0.3
    expected = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            lse = torch.stack([z[i] @ z[j] / t for j in others]).logsumexp(0)
            expected.append(lse - torch.stack([z[i] @ z[j] / t for j in positives]).mean())
    with pytest.warns(UserWarning, match="1 of 8 queries have no positive"):
        found = info_nce(z, z, t, labels=labels, exclude_self=True, rows=3)
    torch.testing.assert_close(found, torch.stack(expected).mean())
    with pytest.warns(UserWarning, match="1 of 8"):
        each = info_nce(z, z, t, labels=labels, exclude_self=True, reduction="none")
    assert each[5] == 0


def test_weights_masks_and_temperatures_of_pairs() -> None:
    q, k = unit(6, 4), unit(6, 4, seed=1)
    generator = torch.Generator().manual_seed(2)
    keep, weights, t = (torch.rand(6, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    keep, t = keep > 0.4, t + 0.2
    scores, diagonal = q @ k.T / t, torch.eye(6, dtype=torch.bool)
    weighted = torch.where(diagonal, scores.exp(), weights * keep * scores.exp())
    expected = (weighted.sum(1).log() - scores.diagonal()).mean()
    torch.testing.assert_close(info_nce(q, k, t, mask=keep, pair_weights=weights, rows=4), expected)
    functions = {
        "mask": lambda part, products: keep[part],
        "pair_weights": lambda part, products: weights[part],
    }
    torch.testing.assert_close(info_nce(q, k, lambda part, products: t[part], rows=4, **functions), expected)


def test_functions_of_pairs_see_dot_products_before_the_temperature() -> None:
    q, k = unit(6, 4), unit(6, 4, seed=1)
    cosine = q @ k.T
    weights = (9 * cosine).exp()
    for t in (0.1, torch.full((6,), 0.1, dtype=torch.float64)):
        found = info_nce(q, k, t, pair_weights=lambda part, products: (9 * products).exp(), rows=4)
        torch.testing.assert_close(found, info_nce(q, k, t, pair_weights=weights))


OPTIONS = [
    {},
    {"symmetric": True},
    {"reduction": "none", "symmetric": True},
    {"reduction": "none"},
    {"labels": torch.tensor([0, 1, 0, 2, 1, 0, 2]), "symmetric": True},
    {"labels": torch.tensor([0, 1, 0, 2, 1, 0, 2]), "exclude_self": True, "decoupled": True},
    {"labels": torch.tensor([0, 1, 0, 2, 1, 0, 2]), "margin": 0.2, "symmetric": True},
    {"decoupled": True, "symmetric": True, "margin": 0.1},
    {"mask": torch.rand(7, 7, generator=torch.Generator().manual_seed(0)) > 0.3},
    {"pair_weights": lambda part, products: (9 * products).exp(), "symmetric": True},
    {"negatives": unit(11, 5, seed=3), "symmetric": True},
    {"negatives": unit(7, 2, 5, seed=3), "sample_weights": torch.arange(7.0)},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("temperature", [0.5, 0.07, 0.01])
def test_streamed_and_plain_agree_in_value_and_gradient(options, temperature) -> None:
    # In float32 scores of 100 are rounded to 8e-6, which is then the relative error of a loss.
    for dtype, tolerance, exact in ((torch.float64, 1e-10, 1e-10), (torch.float32, 1e-4, 1e-6 / min(temperature, 0.1))):
        t = temperature
        leaves = [unit(7, 5, dtype=dtype), unit(7, 5, seed=1, dtype=dtype)]
        if "labels" not in options or "margin" not in options:
            t = torch.tensor(temperature, dtype=dtype)
        if "negatives" in options:
            options = {**options, "negatives": options["negatives"].to(dtype)}
        leaves = [leaf.requires_grad_() for leaf in (*leaves, t) if isinstance(leaf, torch.Tensor)]
        values, gradients = [], []
        for loss in (lambda *a, **o: info_nce(*a, rows=3, **o), reference_info_nce):
            value = loss(leaves[0], leaves[1], t, **options)
            values.append(value)
            weights = torch.linspace(0.5, 2, value.numel(), dtype=dtype).reshape(value.shape)
            gradients.append(torch.autograd.grad((value * weights).sum(), leaves))
        torch.testing.assert_close(*values, rtol=exact, atol=exact)
        for ours, plain in zip(*gradients, strict=True):
            assert float((ours - plain).norm()) <= tolerance * max(float(plain.norm()), 1e-3)


def test_first_and_second_derivatives() -> None:
    q, k, hard = (unit(*shape, seed=i).requires_grad_() for i, shape in enumerate([(5, 3), (5, 3), (5, 2, 3)]))
    t = torch.rand(5, dtype=torch.float64).add(0.3).requires_grad_()
    for reduction in ("mean", "none"):

        def loss(q, k, hard, t, reduction=reduction):
            return info_nce(q, k, t, negatives=hard, symmetric=True, margin=0.1, rows=2, reduction=reduction)

        assert torch.autograd.gradcheck(loss, (q, k, hard, t))
        assert torch.autograd.gradgradcheck(loss, (q, k, hard, t))
    pairs = torch.rand(5, 5, dtype=torch.float64).add(0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k, t: info_nce(q, k, t, rows=2), (q, k, pairs))


def test_a_small_loss_keeps_its_digits() -> None:
    # Two orthogonal pairs at temperature 0.05: the loss is log(1 + e^-20), far below the rounding of scores of 20.
    found = info_nce(torch.eye(2), torch.eye(2), 0.05, symmetric=True)
    assert found.item() == pytest.approx(math.log1p(math.exp(-20)), rel=1e-5)
    assert info_nce(torch.eye(2), torch.eye(2), 0.01).item() == pytest.approx(0, abs=1e-30)


def test_long_vectors_and_a_cold_temperature_do_not_overflow() -> None:
    q = (100 * unit(4, 3, dtype=torch.float32)).requires_grad_()
    value = info_nce(q, q.detach().roll(1, 0), 0.01, symmetric=True)
    value.backward()
    assert value.isfinite()
    assert q.grad.isfinite().all()
    torch.testing.assert_close(
        value.detach(), reference_info_nce(q.detach(), q.detach().roll(1, 0), 0.01, symmetric=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype) -> None:
    q, k = unit(64, 16, dtype=dtype).requires_grad_(), unit(64, 16, seed=1, dtype=dtype)
    found = info_nce(q, k, 0.05, rows=7)
    found.backward()
    expected = info_nce(q.detach().float(), k.float(), 0.05)
    assert found.dtype == torch.float32
    assert q.grad.dtype == dtype
    torch.testing.assert_close(found.detach(), expected)


def test_nothing_as_large_as_the_batch_squared_is_held() -> None:
    q, k = (unit(512, 8, seed=i, dtype=torch.float32).requires_grad_() for i in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        loss = info_nce(q, k, 0.1, symmetric=True)
    loss.backward()
    assert max(kept) <= 512 * 8


@given(st.integers(2, 12), st.integers(1, 5), st.integers(1, 12), st.booleans(), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_order_of_pairs_and_height_of_strips_do_not_matter(n, d, rows, symmetric, seed) -> None:
    q, k = unit(n, d, seed=seed), unit(n, d, seed=seed + 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    first = info_nce(q, k, 0.2, symmetric=symmetric, reduction="none", rows=rows)
    torch.testing.assert_close(info_nce(q[order], k[order], 0.2, symmetric=symmetric, reduction="none"), first[order])


def test_one_strip_or_many_give_the_gradient_of_a_broken_up_batch() -> None:
    q, k = unit(9, 4).requires_grad_(), unit(9, 4, seed=1)
    gradients = [torch.autograd.grad(info_nce(q, k, 0.1, rows=rows), q)[0] for rows in (1, 4, 9, 100)]
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


Q = unit(4, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Q, unit(4, 2)), {}, r"same width, got \[4, 3\] and \[4, 2\]"),
        ((Q, Q.float()), {}, "same dtype, got torch.float64 and torch.float32"),
        ((Q, Q, 0.0), {}, "temperature must be above 0, got 0.0"),
        ((Q, Q, torch.tensor(-1.0)), {}, "temperature must be above 0, got -1.0"),
        ((Q, Q, torch.ones(3)), {}, "temperature must have one element"),
        ((Q[:1], Q[:1]), {}, "a batch of 1 has no negatives"),
        ((Q, Q[:3]), {}, "query 3 has no positive"),
        ((Q, Q), {"targets": torch.tensor([0, 1, -1, 3])}, "query 2 has no positive: its target is -1"),
        ((Q, Q), {"labels": torch.arange(4), "exclude_self": True}, "no query has a positive"),
        ((Q, Q), {"labels": torch.arange(3)}, r"labels of the queries must be one a row, got \[3\] for 4 rows"),
        ((Q * torch.tensor([1.0, math.nan, 1.0]), Q), {}, r"query must be finite, got nan at \[0, 1\]"),
        ((Q, Q), {"negatives": unit(3, 2, 3)}, r"negatives must be \[queue, 3\] or \[4, hard, 3\]"),
        ((Q, Q), {"in_batch": False}, "negatives are needed"),
        ((Q, Q), {"symmetric": True, "targets": torch.arange(4)}, "symmetric needs as many keys"),
        ((Q, Q), {"reduction": "median"}, "reduction must be"),
        ((Q, Q), {"rows": 0}, "rows must be at least 1, got 0"),
        ((Q, Q), {"pair_weights": -torch.ones(4, 4)}, "pair_weights must not be negative, got -1.0"),
        ((Q, Q, torch.tensor(0.1)), {"labels": torch.arange(4), "margin": 0.1}, "needs a number as temperature"),
        ((Q, Q, 1e-320), {}, "1 / temperature must be finite, got inf"),
        ((Q, Q, math.inf), {}, "temperature must be finite, got inf"),
        ((Q, Q, None), {}, "temperature must be a number or a tensor with elements, got None"),
        ((Q, Q, torch.ones(8, 4)), {}, r"temperature must be \[4, 4\], one value a pair, or a function, got \[8, 4\]"),
        (
            (Q, Q),
            {"mask": torch.ones(8, 4) > 0},
            r"mask must be \[4, 4\], one value a pair, or a function, got \[8, 4\]",
        ),
        ((Q, Q), {"mask": torch.ones(4) > 0}, r"mask must be \[4, 4\].* got \[4\]"),
        ((Q, Q), {"mask": torch.ones(4, 4)}, "mask must be a boolean tensor or a function, got torch.float32"),
        ((Q, Q), {"pair_weights": torch.ones(4, 5)}, r"pair_weights must be \[4, 4\].* got \[4, 5\]"),
        ((Q, Q), {"pair_weights": torch.full((4, 4), math.inf)}, "pair_weights must be finite, got inf"),
        ((Q, Q), {"margin": math.nan}, "margin must be finite, got nan"),
        ((Q, Q.to("meta")), {}, "same device, got cpu and meta"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(arguments, options, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        info_nce(*arguments, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_decoupled_refuses_a_query_without_negatives(reduction) -> None:
    q = torch.eye(3)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    info_nce(q, q, 1.0, mask=mask, reduction=reduction)  # not decoupled, such a query costs nothing
    with pytest.raises(ValueError, match="no negative left"):
        info_nce(q, q, 1.0, mask=mask, decoupled=True, reduction=reduction)
    with pytest.raises(ValueError, match="no negative left"):
        info_nce(q, q, 1.0, labels=torch.zeros(3, dtype=torch.long), decoupled=True, reduction=reduction)


def test_views_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equally many rows, got \[6, 4\]"):
        nt_xent(torch.ones(6, 3), torch.ones(4, 3))


def test_autocast_leaves_sums_in_float32() -> None:
    q, k, hard = unit(6, 4).float(), unit(6, 4, seed=1).float(), unit(12, 4, seed=2).float().reshape(6, 2, 4)
    for options in ({"negatives": hard}, {"labels": torch.arange(6) % 2}):
        expected = info_nce(q, k, 0.02, **options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(info_nce(q, k, 0.02, **options), expected)


def test_a_number_as_temperature_keeps_its_digits_in_float64() -> None:
    q, k = unit(6, 4), unit(6, 4, seed=1)
    exact = torch.nn.functional.cross_entropy(q @ k.T / 0.07, torch.arange(6))
    torch.testing.assert_close(info_nce(q, k, 0.07), exact, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.5, torch.tensor(0.07)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": True, "normalize": True},
        {"reduction": "sum"},
        {"targets": torch.tensor([1, 0, 3, 2, 4]), "exclude_self": True},
    ],
)
def test_small_batches_take_the_plain_expression_and_say_the_same(options, temperature) -> None:
    leaves = [3 * unit(5, 4, seed=i, dtype=torch.float32) for i in range(2)]
    if "exclude_self" in options:
        leaves[1] = leaves[0]
    found = []
    for rows in (None, 2):
        given = [leaf.clone().requires_grad_() for leaf in leaves]
        value = info_nce(*given, temperature, rows=rows, **options)
        found.append((value.detach(), *torch.autograd.grad(value, given)))
    for small, streamed in zip(*found, strict=True):
        torch.testing.assert_close(small, streamed)


def test_no_query_is_compared_with_itself_and_the_queue_is_whole() -> None:
    z1, z2, queue = (unit(4, 3, seed=i) for i in range(3))
    z, partner = torch.cat([z1, z2]), torch.arange(8).roll(4)
    for keys in (queue, queue[:2]):  # a queue longer, and one shorter than the batch
        scores = torch.cat([(z * z[partner]).sum(1, keepdim=True), z @ keys.T], 1) / 0.5
        expected = F.cross_entropy(scores, torch.zeros(8, dtype=torch.long))
        torch.testing.assert_close(nt_xent(z1, z2, 0.5, negatives=keys, in_batch=False), expected)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3)])
def test_empty_negatives_are_none(shape) -> None:
    with pytest.raises(ValueError, match="negatives are needed, got empty ones"):
        info_nce(Q, Q, negatives=torch.zeros(shape, dtype=Q.dtype), in_batch=False)
    with pytest.raises(ValueError, match="a batch of 1 has no negatives"):
        info_nce(Q[:1], Q[:1], negatives=torch.zeros((*shape[:1], *shape[1:]), dtype=Q.dtype)[: 1 if shape[0] else 0])


def test_lists_and_arrays_are_refused_by_name() -> None:
    for name in ("labels", "targets", "sample_weights", "negatives"):
        for value in ([0, 1, 2, 3], np.arange(4)):
            with pytest.raises(TypeError, match=rf"{name}.* must be a tensor.*, got {type(value).__name__}"):
                info_nce(Q, Q, **{name: value})


def test_what_is_not_finite_is_found_after_the_fact_under_the_callers_name() -> None:
    bad = Q.clone()
    bad[2, 1] = -math.inf  # its scores are -inf, so that the loss alone would not show it
    for rows in (None, 2):
        with pytest.raises(ValueError, match=r"key must be finite, got -inf at \[2, 1\]"):
            info_nce(Q.abs(), bad, rows=rows)
    with pytest.raises(ValueError, match=r"key must be finite, got -inf at \[2, 1\]"):
        nt_xent(Q, bad)
    with pytest.raises(ValueError, match="negatives must be finite, got nan"):
        info_nce(Q, Q, negatives=Q * math.nan, mask=torch.zeros(4, 8) > 0)
