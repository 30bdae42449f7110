"""The ideal continual learner: nothing is lost in any order where tasks share a solution, and what else."""

from itertools import permutations

import pytest
import torch
from tests.retain.streams import draw, model, stream
from torch.nn import functional as F

from palimpsest.models.vision import cnn
from palimpsest.retain.continual import of_all
from palimpsest.retain.ideal_continual_learner import ICLFeatures, ICLRegression
from palimpsest.retain.ideal_continual_learner_measures import (
    excess,
    icl_matrix_factorisation,
    in_order,
    joint_loss,
    order_gap,
    rehearsal_relaxation,
    shared_minimizer,
)
from palimpsest.retain.input_spans import extended
from palimpsest.retain.sequence import _present, learn_stream
from palimpsest.tasks.streams import Stream
from palimpsest.train.classification import logits_of

D, TASKS, ROWS = 60, 4, 10


def tasks(noise=0.0, d=D, n=ROWS, count=TASKS, seed=0):
    """Rows of each task, labelled by one w."""
    w, found = draw(d, seed=99), []
    for number in range(count):
        X = draw(n, d, seed=100 * seed + number)
        found.append((X, X @ w + noise * draw(n, seed=1000 + 100 * seed + number)))
    return w, found


@pytest.mark.parametrize("seed", range(3))
def test_in_every_order_the_end_is_the_joint_solution_of_least_norm_and_no_task_is_lost(seed):
    _, each = tasks(seed=seed)
    joint = torch.linalg.pinv(torch.cat([X for X, _ in each])) @ torch.cat([y for _, y in each])
    for order in permutations(range(TASKS)):
        learner = ICLRegression.start(D)
        for place, number in enumerate(order):
            learner = learner.step(*each[number])
            for before in order[: place + 1]:
                X, y = each[before]
                assert (X @ learner.w - y).abs().max() < 1e-8
        torch.testing.assert_close(learner.w, joint, atol=1e-6, rtol=0)
        assert learner.B.shape == (D, D - TASKS * ROWS)
        torch.testing.assert_close(learner.B.T @ learner.B, torch.eye(D - TASKS * ROWS, dtype=torch.float64))


def test_gradient_descent_on_one_task_after_another_forgets_where_the_ideal_learner_does_not():
    _, each = tasks()
    w = torch.zeros(D, dtype=torch.float64)
    for X, y in each:
        for _ in range(3000):
            w = w - 5e-3 * X.T @ (X @ w - y)
    X, y = each[0]
    assert (X @ w - y).square().mean() > 1e-2 * y.square().mean()


def test_repeated_rows_take_nothing_and_with_no_direction_left_w_stays():
    _, each = tasks(d=ROWS)
    once = ICLRegression.start(ROWS).step(*each[0])
    assert once.B.shape == (ROWS, 0)
    again = once.step(*each[1])
    assert torch.equal(again.w, once.w)
    _, wide = tasks()
    one = ICLRegression.start(D).step(*wide[0])
    twice = one.step(*wide[0])
    assert twice.B.shape == one.B.shape
    torch.testing.assert_close(twice.w, one.w)
    with pytest.raises(ValueError, match="X must be"):
        one.step(draw(3, D + 1), draw(3))


def test_where_tasks_share_no_minimiser_more_is_lost_than_by_joint_least_squares_and_the_order_counts():
    _, fitting = tasks(noise=1.0)
    assert shared_minimizer(fitting)  # fewer rows than weights
    low, high = order_gap(fitting)
    assert high < 1e-12
    _, each = tasks(noise=1.0, d=12, n=20)
    assert not shared_minimizer(each)
    assert shared_minimizer(tasks(d=12, n=20)[1])
    X, y = (torch.cat(parts) for parts in zip(*each, strict=True))
    least = joint_loss(torch.linalg.pinv(X) @ y, each)
    low, high = order_gap(each)
    assert low > 1.05 * least
    assert high > 1.05 * low
    assert order_gap(each, [(0, 1, 2, 3)])[0] == joint_loss(in_order(each).w, each)


def test_the_relaxed_task_solves_the_equations_of_lagrange():
    _, each = tasks(noise=0.5, d=20, n=8, count=3)
    *past, (X, y) = each
    w = rehearsal_relaxation(past, (X, y), 4, torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(0)
    kept = [torch.randperm(8, generator=source)[:4] for _ in past]
    A = torch.cat([rows[each] for (rows, _), each in zip(past, kept, strict=True)])
    b = torch.cat([labels[each] for (_, labels), each in zip(past, kept, strict=True)])
    # Eight equations that can all be met: A w = b, and the least of |X w - y| among those.
    kkt = torch.cat([torch.cat([X.T @ X, A.T], 1), torch.cat([A, torch.zeros(8, 8).double()], 1)])
    solution = torch.linalg.pinv(kkt) @ torch.cat([X.T @ y, b])
    torch.testing.assert_close(A @ w, b)
    torch.testing.assert_close(X @ w, X @ solution[:20])


def test_what_rehearsal_loses_falls_at_least_as_the_root_of_the_rows_that_are_kept():
    d, sizes, found = 10, (20, 40, 80, 160, 320), []
    for s in sizes:
        losses = []
        for seed in range(20):
            w, (past, now) = tasks(noise=0.5, d=d, n=400, count=2, seed=seed)
            learned = rehearsal_relaxation([past], now, s, torch.Generator().manual_seed(seed))
            losses.append(excess(learned, w, torch.eye(d, dtype=torch.float64)))
        found.append(sum(losses) / len(losses))
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (sizes, found))
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert slope < -0.5


def test_the_growing_basis_spans_all_columns_and_repeats_none():
    M = [draw(8, 2, seed=seed) @ draw(2, 5, seed=10 + seed) for seed in range(3)]
    M.append(M[0] @ draw(5, 4))
    S = None
    for number, each in enumerate(M):
        S = icl_matrix_factorisation(S, each)
        assert S.shape[1] == min(2 * (number + 1), 6)
    torch.testing.assert_close(S.T @ S, torch.eye(6, dtype=torch.float64))
    for each in M:
        torch.testing.assert_close(S @ (S.T @ each), each)


def test_a_span_holds_its_share_with_as_few_directions_as_that_takes():
    X = draw(50, 6) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.0])
    gram, values = X.T @ X, torch.linalg.svdvals(X).square()
    for energy in (0.5, 0.9, 0.99):
        M = extended(X.new_zeros(6, 0), gram, energy)
        k = M.shape[1]
        assert values[: k - 1].sum() < energy * values.sum() <= values[:k].sum()
        torch.testing.assert_close((X @ M).square().sum(), values[:k].sum())
    full = extended(X.new_zeros(6, 0), gram)
    assert full.shape[1] == 5
    assert extended(full, gram).shape[1] == 5
    # What is protected already counts, and later tasks add only what they need.
    more = extended(M, gram + torch.eye(6, dtype=torch.float64), 0.9)
    assert torch.equal(more, M)


def learned(method, network, data, **options):
    return learn_stream(network, method, data, steps=8, batch_size=8, lr=3e-2, progress=False, **options)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_no_answer_to_an_earlier_input_changes_whatever_the_optimizer(kind, optimizer):
    data = stream(n=6)
    two = Stream(data.tasks[:2])
    network = model(classes=4) if kind == "mlp" else cnn(1, 4, width=3, image_size=4, feature_dim=40)
    said, after = [], []
    first, second = (_present(two, number, {"seed": 0}).rows for number in range(2))

    class Watched(ICLFeatures):
        def after_task(self, state, model, data):
            said.append(of_all(logits_of, model, first))
            after.append(of_all(logits_of, model, second))
            return super().after_task(state, model, data)

    learned(Watched(energy=1.0), network, two, optimizer=optimizer)
    torch.testing.assert_close(said[0], said[1], atol=2e-4, rtol=1e-3)
    # And yet it learned: what came is told better than before, not only otherwise.
    losses = [F.cross_entropy(logits, second.labels) for logits in after]
    assert losses[1] < losses[0]
    assert (after[1] - after[0]).abs().max() > 20 * (said[1] - said[0]).abs().max()


def test_projected_gradients_protect_with_plain_steps_and_not_with_adam():
    two, gaps = Stream(stream(n=6).tasks[:2]), {}
    first = _present(two, 0, {"seed": 0}).rows
    for optimizer in ("sgd", "adamw"):
        said = []

        class Watched(ICLFeatures):
            def after_task(self, state, model, data, said=said):
                said.append(of_all(logits_of, model, first))
                return super().after_task(state, model, data)

        learned(Watched(energy=1.0, project="gradient"), model(classes=4), two, optimizer=optimizer)
        gaps[optimizer] = (said[1] - said[0]).abs().max()
    assert gaps["sgd"] < 2e-4 < 1e-2 < gaps["adamw"]


def test_spans_grow_from_task_to_task_and_hold_no_more_than_their_share():
    state = learned(ICLFeatures(energy=1.0), model(classes=4), Stream(stream(n=6).tasks[:2])).state
    seen = []

    class Watched(ICLFeatures):
        def after_task(self, state, model, data):
            seen.append(super().after_task(state, model, data))
            return seen[-1]

    learned(Watched(energy=0.9), model(classes=4), Stream(stream(n=6).tasks[:2]))
    first, second = (each["spans"] for each in seen)
    for name, M in first.items():
        torch.testing.assert_close(second[name][:, : M.shape[1]], M)
        assert second[name].shape[1] < state["spans"][name].shape[1]
    assert any(second[name].shape[1] > M.shape[1] for name, M in first.items())
