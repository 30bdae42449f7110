"""Homeostatic learners: the order of their states by what they see, the rate as a factor, and shifts that keep P(x)."""

import pytest
import torch
from torch.nn import functional as F

from palimpsest.models.vision import mlp
from palimpsest.retain.homeostatic import Constant, Homeostat, RandomWalk, around_shifts
from palimpsest.retain.online_learning import Online
from palimpsest.tasks.concept_shift import ConceptShift
from palimpsest.train import apply


def rows(n=60, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.randn(classes, 5, generator=generator)[y] * 2 + 0.3 * torch.randn(n, 5, generator=generator), y


def mean_state(see, homeostat, classes=10, batches=4000):
    """The mean of s for a learner that takes a label for what `see` says, on random batches of four."""
    draws, effects, s, total = torch.Generator().manual_seed(0), [1] * 5 + [-1] * 5, 0.0, 0.0
    labels = torch.randint(classes, (batches, 4), generator=draws)
    seen = see(labels, draws)
    for predicted, true in zip(seen.tolist(), labels.tolist(), strict=True):
        s = homeostat.regulated(s, predicted, true, effects, draws)
        total += s
    return total / batches


def test_who_sees_rightly_keeps_the_state_low_and_errors_within_a_group_do_not_count():
    oracle, across = (lambda y, _: y), (lambda y, _: 9 - y)
    found = {
        "oracle": mean_state(oracle, Homeostat()),
        "within": mean_state(lambda y, _: (y // 5) * 5 + (y + 1) % 5, Homeostat()),
        "random": mean_state(lambda y, draws: torch.randint(10, y.shape, generator=draws), Homeostat()),
        "wrong": mean_state(across, Homeostat()),
    }
    assert found["within"] == found["oracle"] == pytest.approx(0.36, abs=0.01)
    assert found["random"] == pytest.approx(0.43, abs=0.01)
    assert found["wrong"] == pytest.approx(0.5, abs=1e-3)
    assert mean_state(oracle, Homeostat(kappa=0.0)) == pytest.approx(0.5, abs=1e-3)
    assert Constant().regulated(0.0, [0], [1], [1, -1], None) == 0


def test_a_random_walk_stays_in_the_range():
    walk, draws, s, states = RandomWalk(), torch.Generator().manual_seed(0), 0.0, []
    for _ in range(400):
        s = walk.regulated(s, [], [], [], draws)
        states.append(s)
    assert {round(state, 6) for state in states} == {0.0, 0.3, 0.5, 0.2}


def test_the_state_is_a_factor_of_the_rate_and_answers_come_before_learning():
    x, y = rows()
    data = ConceptShift(x, y, every=7, steps=30, seed=3)
    model, mine = mlp(5, 4, hidden=(6,)), mlp(5, 4, hidden=(6,))
    learner = apply(model, Online(Homeostat()), data, batch_size=4, lr=0.2, seed=1, progress=False).model
    batch_of = data.batches(4, 1)
    for step in range(30):
        batch = batch_of(step)
        logits = mine(batch["x"]).logits
        assert learner.right[step] == (logits.argmax(1) == batch["labels"]).float().mean()
        mine.zero_grad()
        F.cross_entropy(logits, batch["labels"]).backward()
        with torch.no_grad():
            for p in mine.parameters():
                p -= 0.2 * 10 ** learner.states[step] * p.grad
    for a, b in zip(model.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert len(set(learner.states)) > 2
    constant = apply(mlp(5, 4, hidden=(6,)), Online(Constant()), data, lr=0.2, progress=False).model
    assert set(constant.states) == {0.0}


def test_shifts_change_names_across_groups_and_leave_the_rows_alone():
    x, y = rows(n=200, classes=6)
    data = ConceptShift(x, y, every=[20, None, 5], steps=120, seed=4)
    assert data.shifts == [20, *range(80, 120, 5)]
    assert data.effects == [1, 1, 1, -1, -1, -1]
    for before, after in zip(data.meanings[:-1], data.meanings[1:], strict=True):
        moved = (before != after).nonzero()[:, 0]
        assert len(moved) == 2
        assert sorted(before[moved].tolist()) == sorted(after[moved].tolist())
        assert before[moved].min() < 3 <= before[moved].max()
    same = ConceptShift(x, y, every=None, steps=120, seed=4)
    for step in (0, 50, 119):
        one, other = data.batches(8, 5)(step), same.batches(8, 5)(step)
        assert torch.equal(one["x"], other["x"])
        assert torch.equal(one["labels"], data.labels(step)[other["labels"]])
    assert torch.equal(same.labels(119), torch.arange(6))
    with pytest.raises(ValueError, match="every must be at least 1"):
        ConceptShift(x, y, every=0)


def test_means_around_shifts():
    assert around_shifts([0, 0, 1, 1, 1, 3], [2, 5], window=2) == (0.5, 5 / 3)
