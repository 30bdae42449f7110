"""Measures of continual learning against closed forms and loops."""

import pytest
import torch

from palimpsest.metrics import continual as M

R = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_measures_of_the_matrix_are_their_definitions_in_loops():
    r, T = R.tolist(), 5
    assert M.average_accuracy(R) == pytest.approx(sum(r[4]) / 5)
    assert M.average_incremental_accuracy(R) == pytest.approx(sum(sum(r[i][: i + 1]) / (i + 1) for i in range(T)) / T)
    assert M.learning_accuracy(R) == pytest.approx(sum(r[j][j] for j in range(T)) / T)
    assert M.backward_transfer(R) == pytest.approx(sum(r[4][j] - r[j][j] for j in range(4)) / 4)
    best = [max(r[i][j] for i in range(j, 4)) for j in range(4)]
    assert M.forgetting(R) == pytest.approx(sum(best[j] - r[4][j] for j in range(4)) / 4)
    untrained = torch.linspace(0, 0.4, 5)
    forward = sum(r[j - 1][j] - float(untrained[j]) for j in range(1, 5)) / 4
    assert M.forward_transfer(R, untrained) == pytest.approx(forward)
    alone = torch.full((5,), 0.9)
    assert M.intransigence(R, alone) == pytest.approx(0.9 - sum(r[j][j] for j in range(T)) / T)


def test_one_task_forgets_and_transfers_nothing():
    one = torch.tensor([[0.8]])
    assert M.forgetting(one) == M.backward_transfer(one) == M.forward_transfer(one, torch.zeros(1)) == 0.0
    assert M.average_accuracy(one) == M.average_incremental_accuracy(one) == pytest.approx(0.8)


CURVE = torch.tensor(
    [
        [0.1, 0.0, 0.0],
        [0.9, 0.0, 0.0],
        [0.9, 0.1, 0.0],
        [0.4, 0.8, 0.0],
        [0.7, 0.9, 0.0],
        [0.7, 0.9, 0.1],
        [0.5, 0.3, 0.6],
        [0.6, 0.8, 0.9],
    ]
)
LEARNED = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])


def test_minima_and_gaps_of_a_curve_by_hand():
    assert M.minimum_accuracy(CURVE, LEARNED) == pytest.approx((0.4 + 0.3) / 2)
    assert M.worst_case_accuracy(CURVE, LEARNED) == pytest.approx(0.9 / 3 + 2 / 3 * 0.35)
    found = M.gaps(CURVE, LEARNED)
    assert found[1, 0] == pytest.approx(0.5)
    assert found[2, :2].tolist() == pytest.approx([0.2, 0.6])
    assert found.isnan().sum() == 6
    assert M.minimum_accuracy(CURVE[:2], LEARNED[:2]) != M.minimum_accuracy(CURVE[:2], LEARNED[:2])  # nan
    assert M.worst_case_accuracy(CURVE[:2], LEARNED[:2]) == pytest.approx(0.9)


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_windows_against_loops(window):
    looks = CURVE.tolist()
    fall, rise = [], []
    for task in range(3):
        pairs = [(n, m) for n in range(8) for m in range(n + 1, 8) if m - n < window]
        fall.append(max([looks[n][task] - looks[m][task] for n, m in pairs] + [0.0]))
        rise.append(max([looks[m][task] - looks[n][task] for n, m in pairs] + [0.0]))
    assert M.windowed_forgetting(CURVE, window) == pytest.approx(sum(fall) / 3)
    assert M.windowed_plasticity(CURVE, window) == pytest.approx(sum(rise) / 3)


def test_a_curve_that_only_rises_has_no_gap():
    rising = torch.linspace(0, 1, 6)[:, None].expand(6, 2)
    learned = torch.tensor([0, 0, 0, 1, 1, 1])
    assert M.gaps(rising, learned)[1, 0] == 0
    assert M.windowed_forgetting(rising, 10) == 0
    assert M.recovery(rising[:, 0]) == 0


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"R must be \[tasks, tasks\], got \[2, 3\]"):
        M.forgetting(torch.ones(2, 3))
    with pytest.raises(ValueError, match="one value for each of 5 tasks, got"):
        M.forward_transfer(R, torch.zeros(4))
    with pytest.raises(ValueError, match="learned must not fall"):
        M.gaps(CURVE, LEARNED.flip(0))
    with pytest.raises(ValueError, match="there are no looks"):
        M.rows_of([])
    with pytest.raises(ValueError, match="window at least 1"):
        M.windowed_forgetting(CURVE, 0)
