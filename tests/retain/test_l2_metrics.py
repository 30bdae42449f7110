"""Measures of a life against the authors' package, by hand, and at their limits."""

import math

import numpy as np
import pytest
from tests.retain.streams import model, stream

from palimpsest.retain import l2_metrics as M
from palimpsest.retain import l2_metrics_experts as E
from palimpsest.retain.l2_metrics_blocks import Block, normalise
from palimpsest.retain.l2_metrics_scenarios import experts, live, log_of, scenario
from palimpsest.retain.replay import ER
from palimpsest.retain.sequence import learn_stream

SETTINGS = {"steps": 6, "batch_size": 8, "lr": 1e-2, "progress": False}


def values(n, k):
    return np.sin(np.arange(n) ** 2 + k) + np.arange(n) / n + 2


def life():
    log = [Block("evaluate", task, values(2, k)) for k, task in enumerate("ab")]
    for place, task in enumerate("abab"):
        log.append(Block("learn", task, values(30, place)))
        log += [Block("evaluate", other, values(2, 5 * place + k + 7)) for k, other in enumerate("ab")]
    return log


def test_values_of_the_authors_package():
    """l2metrics at commit 5df0731 gave these for the same blocks."""
    alone = {task: [[Block("learn", task, values(25, 9 + k))]] for k, task in enumerate("ab")}
    found = M.lifetime(life(), alone)
    assert math.isnan(found.pop("performance recovery"))  # of two repeats there is one recovery time
    assert found == pytest.approx(
        {
            "performance maintenance": -0.6161508200738469,
            "forward transfer": -0.028742975116438207,
            "backward transfer": -0.18624788730724953,
            "relative performance": 0.927454646621904,
            "sample efficiency": 0.29023354942448404,
        },
        abs=1e-9,
    )


def evaluations(*rows):
    """A life of three tasks, condensed: evaluations of a, b and c before and after each is learned."""
    log = [Block("evaluate", task, [value]) for task, value in zip("abc", rows[0], strict=True)]
    for task, row in zip("abc", rows[1:], strict=True):
        log.append(Block("learn", task, [0.0, 1.0]))
        log += [Block("evaluate", other, [value]) for other, value in zip("abc", row, strict=True)]
    return log


LIFE = evaluations((0.1, 0.1, 0.2), (0.9, 0.3, 0.2), (0.6, 0.8, 0.3), (0.5, 0.7, 0.9))


def test_a_life_of_three_tasks_by_hand():
    assert M.performance_maintenance(LIFE, "a") == pytest.approx((-0.3 - 0.4) / 2)
    assert M.performance_maintenance(LIFE, "b") == pytest.approx(-0.1)
    assert math.isnan(M.performance_maintenance(LIFE, "c"))
    forward, backward = M.transfer(LIFE)
    assert forward == pytest.approx({("a", "b"): 0.2 / 0.4, ("a", "c"): 0.0, ("b", "c"): 0.1 / 0.5})
    assert backward == pytest.approx({("b", "a"): -0.3 / 1.5, ("c", "a"): -0.1 / 1.1, ("c", "b"): -0.1 / 1.5})
    ratios = M.transfer(LIFE, form="ratio")[0]
    assert ratios == pytest.approx({("a", "b"): 3.0, ("a", "c"): 1.0, ("b", "c"): 1.5})
    found = M.lifetime(LIFE, over="median")
    assert found["performance maintenance"] == pytest.approx((-0.35 - 0.1) / 2)
    assert found["backward transfer"] == pytest.approx(-0.1 / 1.1)
    assert math.isnan(found["relative performance"])


def test_who_is_its_own_expert_has_all_of_it_and_who_never_changes_nothing():
    log = life()
    own = {task: [[block for block in log if block.task == task]] for task in "ab"}
    found = M.lifetime(log, own)
    assert found["relative performance"] == pytest.approx(1)
    assert found["sample efficiency"] == pytest.approx(1)
    flat = evaluations(*[(0.5, 0.5, 0.5)] * 4)
    assert M.lifetime(flat)["performance maintenance"] == 0
    assert set(M.transfer(flat)[0].values()) == set(M.transfer(flat)[1].values()) == {0.0}
    assert set(M.transfer(flat, form="ratio")[1].values()) == {1.0}


def test_efficiency_and_recovery_at_their_limits():
    rising, falling = np.linspace(0, 1, 40), np.linspace(1, 0, 40)
    one = [Block("learn", "a", rising)]
    assert E.sample_efficiency([Block("learn", "a", 0.1 * rising)], one, "a") == 0
    assert math.isnan(E.sample_efficiency([Block("learn", "a", falling)], one, "a"))
    late = np.r_[np.zeros(20), np.linspace(0, 1, 21)[1:]]
    bump = np.r_[np.linspace(0, 2, 8), np.linspace(1, 0, 40)]
    assert E.sample_efficiency([Block("learn", "a", bump)], one, "a") == 0
    assert E.sample_efficiency([Block("learn", "a", late)], one, "a") <= 1.05
    # The last tenth of the first block is 1; back at 3, at 1, never.
    blocks = [[0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.5]]
    repeats = [Block("learn", "a", block) for block in blocks]
    assert E.recovery_times(repeats, "a") == [3, 1, 3]
    assert E.performance_recovery(repeats, "a") == 0
    assert E.performance_recovery(repeats[:3], "a") == 2
    assert math.isnan(E.performance_recovery(repeats[:2], "a"))
    assert E.smooth(np.ones(50)).tolist() == pytest.approx([1.0] * 50)
    assert len(E.smooth(np.arange(37.0))) == 37


def test_ranges_are_of_the_life_and_its_experts():
    log, alone = normalise([Block("learn", "a", [1.0, 2.0])], {"a": [[Block("learn", "a", [0.0, 5.0])]]})
    assert log[0].values.tolist() == [21.0, 41.0]
    assert alone["a"][0][0].values.tolist() == [1.0, 101.0]
    assert normalise([Block("learn", "a", [3.0, 3.0])], {})[0][0].values.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="has finite values, got learn with"):
        Block("learn", "a", [math.nan])


def test_any_method_lives_through_a_scenario():
    data = stream("domain")
    log = live(model(classes=4), ER(size=9), data, scenario("alternating", 3), every=2, **SETTINGS)
    assert [block.kind for block in log].count("learn") == 6
    assert [len(block.values) for block in log if block.kind == "learn"] == [3] * 6
    assert [block.task for block in log if block.kind == "evaluate"] == [task.name for task in data.tasks] * 7
    run = learn_stream(model(classes=4), ER(size=9), data, every=2, **SETTINGS)
    condensed = log_of(run.log, data)
    R = run.log.accuracy["test"]
    pm = ((R[1, 0] - R[0, 0]) + (R[2, 0] - R[0, 0])) / 2
    assert M.performance_maintenance(condensed, "task 0") == pytest.approx(float(pm))
    alone = experts(lambda: model(classes=4), ER(size=9), data, every=2, **SETTINGS)
    found = M.lifetime(*normalise(log, alone))
    assert not math.isnan(found["relative performance"])
    # The first task of a life is learned as its expert learns it.
    first = next(block for block in log if block.kind == "learn")
    assert first.values.tolist() == E.learning_curve(alone["task 0"][0], "task 0").tolist()
    with pytest.raises(ValueError, match="nothing was looked at while 'task 0' was learned"):
        log_of(learn_stream(model(classes=4), ER(size=9), data, **SETTINGS).log, data)


def test_orders():
    assert scenario("condensed", 2, repeats=3) == [0, 1]
    order = scenario("permuted", 4, repeats=2, seed=3)
    assert sorted(order[:4]) == sorted(order[4:]) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="kind is alternating, permuted or condensed"):
        scenario("dispersed", 2)
