"""Rehearsal by a power law: the law, its ends, equal budgets, and that what comes back follows it."""

import pytest
import torch
from scipy.stats import chisquare
from tests.retain.streams import model, stream

from palimpsest.retain.power_law_rehearsal import PowerLawRehearsal, matched_budget, rehearsal_weights, tasks_met
from palimpsest.retain.power_law_rehearsal_measures import fit_power, forward_facilitation, steps_to_reach
from palimpsest.retain.sequence import learn_stream


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["power", "exponential"])
def test_the_law_is_uniform_at_0_and_no_rehearsal_where_it_is_steep(kind):
    torch.testing.assert_close(rehearsal_weights(4, kind, 0.0), rehearsal_weights(4, "uniform"))
    torch.testing.assert_close(rehearsal_weights(4, kind, 80.0), rehearsal_weights(4, "none"))


def test_each_law_is_its_formula():
    lags = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    for kind, naive in (("power", lags**-0.7), ("exponential", torch.exp(-0.7 * (lags - 1)))):
        torch.testing.assert_close(rehearsal_weights(3, kind, 0.7), naive / naive.sum())


@pytest.mark.parametrize("kind", ["power", "exponential", "uniform"])
def test_all_environments_bring_equally_many_samples_of_new_and_of_earlier_tasks(kind):
    for n in (1, 5):
        weights = matched_budget(rehearsal_weights(n, kind), 0.3)
        assert weights[-1].item() == pytest.approx(0.7)
        assert weights.sum().item() == pytest.approx(1.0)
    assert matched_budget(rehearsal_weights(0, kind), 0.3).tolist() == [1.0]
    assert matched_budget(rehearsal_weights(3, "none"), 0.3).tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("rehearsed", [None, 0.5])
def test_samples_come_as_often_as_the_law_says(rehearsed):
    met = tasks_met(6, 20_000, d=1.0, rehearsed=rehearsed, generator=seeded())
    for phase in range(1, 6):
        law = rehearsal_weights(phase)
        law = law if rehearsed is None else matched_budget(law, rehearsed)
        assert chisquare(met[phase].bincount(), law * 20_000).pvalue > 0.01
    d, _ = fit_power([6 - task for task in range(6)], tasks_met(6, 20_000, generator=seeded(1))[5].bincount())
    assert d == pytest.approx(1.0, abs=0.1)


def test_a_stream_meets_earlier_tasks_by_the_law_and_counts_them():
    learner = learn_stream(
        model(), PowerLawRehearsal(d=2.0, rehearsed=0.5), stream(), steps=300, batch_size=8, lr=1e-3, progress=False
    )
    met = learner.state["met"]
    assert met.sum(1).tolist() == [0, 300 * 8, 300 * 8]
    assert met[1].tolist() == [2400, 0, 0]
    assert (
        chisquare(met[2, :2], rehearsal_weights(2, d=2.0)[:2] / rehearsal_weights(2, d=2.0)[:2].sum() * 2400).pvalue
        > 0.01
    )


def test_rehearsed_rows_are_those_of_their_task():
    learner = learn_stream(model(), PowerLawRehearsal(), stream(), steps=1, batch_size=8, lr=1e-3, progress=False)
    method, state = PowerLawRehearsal(d=0.0, rehearsed=0.75), {**learner.state, "current": 2}
    memory = method.replay(state, {"labels": torch.zeros(40)}, seeded())["memory"]
    assert len(memory["labels"]) == 120
    assert torch.equal(memory["labels"] // 2, memory["task"])  # two classes a task
    assert set(memory["task"].tolist()) == {0, 1}


def test_without_rehearsal_it_is_fine_tuning():
    from palimpsest.retain.replay import FineTune

    settings = {"steps": 5, "batch_size": 8, "lr": 1e-2, "progress": False}
    plain = learn_stream(model(), FineTune(), stream(), **settings)
    for method in (PowerLawRehearsal(rehearsed=0.0), PowerLawRehearsal(kind="none")):
        own = learn_stream(model(), method, stream(), **settings)
        assert all(torch.equal(a, b) for a, b in zip(own.model.parameters(), plain.model.parameters(), strict=True))


def test_facilitation_is_the_ratio_of_the_steps():
    def curve(number, place, reached):
        return [
            {"task": number, "step": step, "accuracy": [0.0] * place + [float(step >= reached)]}
            for step in range(0, 50, 10)
        ]

    alone = [curve(0, 0, 40), curve(0, 0, 40), curve(0, 0, 40)]
    together = curve(0, 0, 40) + curve(1, 1, 20) + curve(2, 2, 10)
    assert forward_facilitation(together, alone) == ([1.0, 0.5, 0.25], -1.0)
    assert steps_to_reach([0, 5], [0.9, 1.0]) == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rehearsal_weights(-1), "n and d must be at least 0"),
        (lambda: rehearsal_weights(2, "cubic"), "kind must be power"),
        (lambda: matched_budget(rehearsal_weights(2), 1.0), "rehearsed must be from 0 and below 1"),
        (lambda: fit_power([0, 1], [1, 1]), "lags must be above 0"),
        (lambda: fit_power([1, 2], [1, 0]), "two different lags"),
        (lambda: steps_to_reach([1], []), "each look needs"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
