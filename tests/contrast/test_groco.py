"""GroCo against its closed form, a naive network of swap matrices, and its limits."""

import math
from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

from palimpsest.contrast import nt_xent
from palimpsest.contrast.groco import groco_loss
from palimpsest.contrast.many_views import views_nt_xent
from palimpsest.contrast.sorting_network import diff_sort, top_probability


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_sort(row, steepness=1.0, art=0.0):
    """One row, one comparison at a time, with P as a product of full matrices."""
    n = len(row)
    values, p = row.clone(), torch.eye(n, dtype=row.dtype)
    for layer in range(n):
        step = torch.eye(n, dtype=row.dtype)
        for a in range(layer % 2, n - 1, 2):
            x = values[a + 1] - values[a]
            if art:
                x = x / (x.abs() + 1e-10) ** art
            keep = 0.5 + math.atan(steepness * x) / math.pi
            step[a, a] = step[a + 1, a + 1] = keep
            step[a, a + 1] = step[a + 1, a] = 1 - keep
        values, p = values @ step, p @ step
    return values, p


def naive_groco(z, k_neg, steepness=1.0):
    """Both halves of the loss, anchor by anchor."""
    z = F.normalize(z, dim=2)
    losses = []
    for v in range(len(z)):
        for i in range(z.shape[1]):
            pos = sorted(float(z[v, i] @ z[w, i]) for w in range(len(z)) if w != v)
            neg = sorted(float(z[v, i] @ z[v, j]) for j in range(z.shape[1]) if j != i)[-k_neg:]
            _, p = naive_sort(torch.tensor(neg + pos, dtype=z.dtype), steepness)
            target = torch.tensor([0.0] * k_neg + [1.0] * len(pos), dtype=z.dtype)
            above = F.binary_cross_entropy(p[:, k_neg:].sum(1), target)
            below = F.binary_cross_entropy(p[:, :k_neg].sum(1), 1 - target)
            losses.append((above + below) / 2)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("n", [2, 3, 6, 7])
@pytest.mark.parametrize("art", [0.0, 0.25])
def test_network_is_the_product_of_its_swaps(n, art):
    s = draw(4, n)
    ranked, p = diff_sort(s, 2.5, art)
    for row in range(4):
        values, product = naive_sort(s[row], 2.5, art)
        torch.testing.assert_close(ranked[row], values)
        torch.testing.assert_close(p[row], product)


def test_one_comparison_has_a_closed_form():
    ranked, p = diff_sort(torch.tensor([[0.3, 1.3]]), steepness=2.0)
    # The network of two has a second layer without pairs.
    keep = 0.5 + math.atan(2.0) / math.pi
    torch.testing.assert_close(p, torch.tensor([[[keep, 1 - keep], [1 - keep, keep]]]))
    torch.testing.assert_close(ranked, torch.tensor([[0.3 + (1 - keep), 1.3 - (1 - keep)]]))


def test_a_steep_network_sorts_every_order():
    s = torch.tensor(list(permutations([0.0, 1.0, 3.0, 4.0])), dtype=torch.float64)
    ranked, p = diff_sort(s, steepness=1e9)
    torch.testing.assert_close(ranked, s.sort(1).values, atol=1e-6, rtol=0)
    torch.testing.assert_close(p.argmax(2), s.argsort(1).argsort(1))


def test_ranks_and_inputs_sum_to_one_and_values_are_shared_out():
    s = draw(5, 9)
    ranked, p = diff_sort(s)
    torch.testing.assert_close(p.sum(1), torch.ones(5, 9).double())
    torch.testing.assert_close(p.sum(2), torch.ones(5, 9).double())
    torch.testing.assert_close(ranked.sum(1), s.sum(1))
    torch.testing.assert_close(torch.einsum("bi,bir->br", s, p), ranked)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_top_probability_is_a_sum_over_ranks(k):
    s = draw(5, 9)
    torch.testing.assert_close(top_probability(s, k, 3.0, 0.25), diff_sort(s, 3.0, 0.25)[1][:, :, k:].sum(2))


@pytest.mark.parametrize("art", [0.0, 0.25])
def test_gradients(art):
    s = draw(3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: diff_sort(x, 2.0, art), s)
    assert torch.autograd.gradcheck(lambda x: top_probability(x, 2, 2.0, art), s)
    z = draw(3, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: groco_loss(x, 2, stop_grad=False, art=art), z)
    assert torch.autograd.gradcheck(lambda x: views_nt_xent(x, 0.5, k_neg=3), z)


def test_activation_replacement_survives_ties():
    s = torch.zeros(2, 4, requires_grad=True)
    top_probability(s, 2, art=0.25)[0].sum().backward()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize(("views", "k_neg", "steepness"), [(2, 3, 1.0), (4, 2, 1.0), (3, 5, 4.0)])
def test_loss_is_the_naive_one(views, k_neg, steepness):
    z = draw(views, 6, 4)
    torch.testing.assert_close(groco_loss(z, k_neg, steepness=steepness), naive_groco(z, k_neg, steepness))


@pytest.mark.parametrize(("views", "k_neg", "theirs"), [(2, 3, 0.44316723597424634), (3, 4, 0.41592963195043825)])
def test_value_of_the_authors_code(views, k_neg, theirs):
    """Their GroCo, in float64, gave these numbers."""
    z = torch.sin(torch.arange(views * 6 * 3, dtype=torch.float64)).reshape(views, 6, 3)
    assert groco_loss(z, k_neg).item() == pytest.approx(theirs, abs=1e-6)


def test_strips_do_not_matter(monkeypatch):
    z = draw(2, 11, 4)
    whole = groco_loss(z, 3)
    monkeypatch.setattr("palimpsest.contrast.groco.ROWS", 4)
    torch.testing.assert_close(groco_loss(z, 3), whole)


def test_order_inside_the_groups_does_not_matter_to_the_target_but_the_groups_do():
    apart = torch.tensor([[-0.8, -0.5, 0.6, 0.9]])
    mixed = torch.tensor([[-0.8, 0.6, -0.5, 0.9]])
    target = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    # A steep network says the groups are in order whatever the order inside.
    for row in (apart, apart[:, [1, 0, 2, 3]], apart[:, [0, 1, 3, 2]]):
        assert F.binary_cross_entropy(top_probability(row, 2, 1e6), target) < 1e-4
    assert F.binary_cross_entropy(top_probability(mixed, 2, 1e6), target) > 1


def test_weakest_positive_and_strongest_negative_get_the_largest_gradient():
    s = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]], requires_grad=True)
    F.binary_cross_entropy(top_probability(s, 3), torch.tensor([[0.0, 0, 0, 1, 1, 1]])).backward()
    negative, positive = s.grad[0, :3], s.grad[0, 3:]
    assert positive.abs().argmax() == 0
    assert negative.abs().argmax() == 2
    assert positive[0] < 0 < negative[2]


def test_views_and_samples_may_be_permuted():
    z = draw(3, 7, 4)
    loss = groco_loss(z, 3)
    torch.testing.assert_close(groco_loss(z[[2, 0, 1]], 3), loss)
    torch.testing.assert_close(groco_loss(z[:, torch.arange(7).flip(0)], 3), loss)
    torch.testing.assert_close(groco_loss(5 * z, 3), loss)


def test_only_the_anchor_moves_under_stop_grad():
    z = draw(2, 5, 4)
    first = z.clone().requires_grad_()
    groco_loss(first, 2).backward()
    # Moving everything by the same rule as a loss whose partners are constants.
    second = z.clone().requires_grad_()
    constant = z.clone()
    anchors, partners = F.normalize(second, dim=2), F.normalize(constant, dim=2)
    losses = []
    for v in range(2):
        neg = (anchors[v] @ partners[v].T).fill_diagonal_(-torch.inf).topk(2, 1).values.flip(1)
        pos = (anchors[v] * partners[1 - v]).sum(1, keepdim=True)
        q = top_probability(torch.cat([neg, pos], 1), 2)
        losses.append(F.binary_cross_entropy(q, torch.tensor([0.0, 0, 1]).double().expand(5, 3)))
    torch.stack(losses).mean().backward()
    torch.testing.assert_close(first.grad, second.grad)


def test_without_preordering_negatives_are_drawn():
    z = draw(2, 30, 8)
    same = [groco_loss(z, 4, preorder=False, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    other = groco_loss(z, 4, preorder=False, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(same[0], same[1])
    assert not torch.isclose(same[0], other)
    assert same[0] < groco_loss(z, 4)  # random negatives are easier


def test_random_negatives_leave_out_the_anchor_itself():
    z = torch.eye(6).double().expand(2, 6, 6)
    # Every sample is orthogonal to all others: with all other samples, or any two of them, cosines are 0.
    drawn = groco_loss(z, 2, preorder=False, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, groco_loss(z, 2))


def test_baseline_of_two_views_is_nt_xent():
    z = draw(2, 6, 4)
    torch.testing.assert_close(views_nt_xent(z, 0.3), nt_xent(z[0], z[1], 0.3))
    torch.testing.assert_close(views_nt_xent(z, 0.3, k_neg=10), nt_xent(z[0], z[1], 0.3))


@pytest.mark.parametrize("k_neg", [None, 2])
def test_baseline_of_many_views_is_the_naive_one(k_neg):
    z = draw(3, 4, 5)
    unit = F.normalize(z, dim=2)
    losses = []
    for v in range(3):
        for i in range(4):
            negatives = torch.stack([unit[w, j] @ unit[v, i] for w in range(3) for j in range(4) if j != i])
            negatives = negatives.sort(descending=True).values[:k_neg]
            for w in {0, 1, 2} - {v}:
                scores = torch.cat([(unit[w, i] @ unit[v, i])[None], negatives]) / 0.4
                losses.append(scores.logsumexp(0) - scores[0])
    torch.testing.assert_close(views_nt_xent(z, 0.4, k_neg=k_neg), torch.stack(losses).mean())


def test_baseline_with_stopped_keys_has_the_same_value_and_another_gradient():
    free, stopped = draw(2, 5, 3).requires_grad_(), draw(2, 5, 3).requires_grad_()
    losses = views_nt_xent(free, k_neg=3), views_nt_xent(stopped, k_neg=3, stop_grad=True)
    torch.testing.assert_close(*losses)
    sum(losses).backward()
    assert not torch.allclose(free.grad, stopped.grad)


def test_the_generator_says_where_negatives_are_drawn(monkeypatch):
    drawn, rand = [], torch.rand

    def noted(*shape, **options):
        drawn.append(options.pop("device"))
        return rand(*shape, **options)

    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(torch, "rand", noted)
    groco_loss(draw(2, 6, 4), 2, preorder=False, generator=generator)
    assert drawn == [generator.device] * 2


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda: diff_sort(torch.ones(3)), ValueError, r"\[batch, n\]"),
        (lambda: diff_sort(torch.ones(3, 1)), ValueError, "n of at least 2"),
        (lambda: diff_sort(torch.ones(3, 2, dtype=torch.long)), TypeError, "int64"),
        (lambda: diff_sort(torch.tensor([[1.0, torch.nan]])), ValueError, "nan"),
        (lambda: diff_sort(torch.ones(3, 2), steepness=0), ValueError, "steepness"),
        (lambda: diff_sort(torch.ones(3, 2), steepness=math.inf), ValueError, "steepness must be .* finite, got inf"),
        (lambda: diff_sort(torch.ones(3, 2), art=1.0), ValueError, "art"),
        (lambda: top_probability(torch.ones(3, 2), 2), ValueError, "k must be a whole number from 1 to 1, got 2"),
        (lambda: top_probability(torch.ones(3, 5), 2.5), ValueError, "got 2.5"),
        (lambda: groco_loss([torch.ones(3, 2)]), TypeError, "stack the views"),
        (lambda: groco_loss(torch.ones(1, 3, 2), 1), ValueError, "at least 2 views"),
        (lambda: groco_loss(torch.ones(2, 3, 2)), ValueError, "from 1 to 2 for a batch of 3, got 10"),
        (lambda: groco_loss(torch.ones(2, 3, 2), 2.0), ValueError, "k_neg must be a whole number .* got 2.0"),
        (lambda: groco_loss(torch.ones(2, 3, 2).fill_(torch.inf), 1), ValueError, "inf"),
        (lambda: views_nt_xent(torch.ones(4, 2)), ValueError, "views, batch, d"),
        (lambda: views_nt_xent(torch.ones(2, 3, 2), 0.0), ValueError, "temperature"),
        (lambda: views_nt_xent(torch.ones(2, 3, 2), k_neg=5), ValueError, "from 1 to 4"),
    ],
)
def test_refuses(call, error, word):
    with pytest.raises(error, match=word):
        call()
