"""Gradients of several tasks: against naive programmes in all parameters, closed forms, and what each promises."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from palimpsest.train import gradients as G

SEEDS = range(6)


def drawn(seed, tasks=5, size=12, dtype=torch.float64):
    rows = torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return rows + 0.6 * rows[0].flip(0) * torch.linspace(-1, 1, tasks, dtype=dtype)[:, None]  # some conflict


def nearest(vector, rows):
    """The vector nearest to one that has no negative product with any row, in all parameters."""
    constraints = {"type": "ineq", "fun": lambda d: rows @ d, "jac": lambda d: rows}
    found = minimize(
        lambda d: 0.5 * ((d - vector) ** 2).sum(),
        np.zeros_like(vector),
        jac=lambda d: d - vector,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


@pytest.mark.parametrize("seed", SEEDS)
def test_projections_are_the_quadratic_programme_in_all_parameters(seed):
    rows = drawn(seed)
    naive = rows.numpy()
    torch.testing.assert_close(G.dualproj(rows), torch.from_numpy(nearest(naive.mean(0), naive)), rtol=1e-6, atol=1e-6)
    each = np.mean([nearest(row, naive) for row in naive], 0)
    torch.testing.assert_close(G.upgrad(rows), torch.from_numpy(each), rtol=1e-6, atol=1e-6)
    found = G.gem(rows[0], rows[1:], margin=0.0, eps=0.0)
    torch.testing.assert_close(found, torch.from_numpy(nearest(naive[0], naive[1:])), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_gem_solves_the_dual_of_the_paper_and_keeps_its_bound(seed, margin):
    rows, eps = drawn(seed), 1e-3
    g, refs = rows[0].numpy(), rows[1:].numpy()
    assert (refs @ g).min() < 0
    K, b = refs @ refs.T + eps * np.eye(4), refs @ g
    dual = minimize(
        lambda v: 0.5 * v @ K @ v + b @ v,
        np.full(4, 1.0),
        jac=lambda v: K @ v + b,
        bounds=[(margin, None)] * 4,
        method="L-BFGS-B",
        options={"ftol": 1e-16, "gtol": 1e-12},
    ).x
    found = G.gem(rows[0], rows[1:], margin=margin, eps=eps)
    torch.testing.assert_close(found, torch.from_numpy(g + dual @ refs), rtol=1e-6, atol=1e-6)
    assert (refs @ found.numpy() >= -eps * dual - 1e-8).all()


def test_gem_leaves_what_conflicts_with_nothing_and_is_agem_for_one_reference():
    g, refs = torch.tensor([1.0, 1.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert G.gem(g, refs) is g
    rows = drawn(3)
    reference = -rows[:1] + rows[1:2]
    torch.testing.assert_close(G.gem(rows[0], reference, margin=0.0, eps=0.0), G.agem(rows[0], reference[0]))
    assert G.agem(g, refs[0]) is g
    twice = torch.cat([reference, reference])  # whose Gramian is singular
    torch.testing.assert_close(G.gem(rows[0], twice, margin=0.0, eps=0.0), G.agem(rows[0], reference[0]))


def test_a_relative_eps_turns_small_gradients_as_it_turns_large_ones():
    g, refs = drawn(1)[0], drawn(1)[1:]
    large = G.gem(g, refs, margin=0.0, relative=True)
    torch.testing.assert_close(G.gem(1e-3 * g, 1e-3 * refs, margin=0.0, relative=True), 1e-3 * large)
    assert not torch.allclose(G.gem(1e-3 * g, 1e-3 * refs, margin=0.0), 1e-3 * G.gem(g, refs, margin=0.0), rtol=1e-2)


@pytest.mark.parametrize("seed", SEEDS)
def test_mgda_is_the_shortest_vector_of_the_hull(seed):
    rows = drawn(seed) + 0.5
    found = G.mgda(rows)
    # At the shortest vector every row reaches as far along it as it does itself.
    assert (rows @ found >= found @ found - 1e-9).all()
    naive = minimize(
        lambda a: ((a @ rows.numpy()) ** 2).sum(),
        np.full(5, 0.2),
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15},
    ).x
    torch.testing.assert_close(found, torch.from_numpy(naive @ rows.numpy()), rtol=1e-4, atol=1e-5)


def test_pcgrad_is_the_loop_of_the_paper_whatever_the_order():
    rows = drawn(2)
    found = G.pcgrad(rows, torch.Generator().manual_seed(5))
    generator, total = torch.Generator().manual_seed(5), torch.zeros(12, dtype=torch.float64)
    for i, row in enumerate(rows):
        own = row.clone()
        for j in torch.randperm(5, generator=generator).tolist():
            if j != i and own @ rows[j] < 0:
                own -= (own @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += own
    torch.testing.assert_close(found, total)
    apart = torch.eye(3)
    torch.testing.assert_close(G.pcgrad(apart), apart.sum(0))


@pytest.mark.parametrize("of", [G.dualproj, G.upgrad, G.mgda])
def test_no_task_gets_worse_even_where_rows_are_equal_or_zero(of):
    for rows in (drawn(4), torch.cat([drawn(4), drawn(4)]), torch.cat([drawn(4), torch.zeros(1, 12)]), -drawn(5)):
        assert (rows.to(torch.float64) @ of(rows.to(torch.float64))).min() > -1e-9
    same = torch.ones(2, 3)
    torch.testing.assert_close(of(same), torch.ones(3))
    assert not of(torch.zeros(2, 3)).any()
    assert of(drawn(0, dtype=torch.float32)).dtype == torch.float32


def test_gradients_are_read_and_written_in_the_order_of_the_parameters():
    model = nn.Linear(3, 2)
    parameters = list(model.parameters())
    loss = model(torch.ones(1, 3)).sum()
    found = G.gradient_of(loss, parameters)
    assert all(p.grad is None for p in parameters)
    assert not G.flat_gradient(parameters).any()
    G.set_gradient(parameters, found)
    torch.testing.assert_close(model.weight.grad, torch.ones(2, 3))
    torch.testing.assert_close(G.flat_gradient(parameters), found)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\[tasks, parameters\] with at least one row, got \[3\]"):
        G.mgda(torch.ones(3))
    with pytest.raises(ValueError, match="equally long, got 3 and 2"):
        G.gem(torch.ones(2), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"at least 0, got -1\.0"):
        G.gem(torch.ones(2), -torch.ones(1, 2), margin=-1.0)
