"""The bench of skills: which one goes, on which rows it is judged, and arms that run."""

import copy
import math

import pytest

from palimpsest.benches.skills import SKILLS
from palimpsest.benches.skills_world import GIVEN, NAMES, Skills, measures
from palimpsest.claims.forget import unforgettable
from palimpsest.claims.forget.skill_unlearning import claim
from palimpsest.forget.unforgettable import RandomOptions


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "skills-home"))


@pytest.fixture(scope="module")
def world():
    return Skills(3, smoke=True)


def test_the_seed_decides_which_skill_goes():
    assert {Skills(seed).forgotten for seed in range(200, 203)} == set(NAMES)
    assert Skills(200, skill="parity").forgotten == "parity"


def test_methods_are_given_rows_of_the_skill_and_of_one_other_and_none_that_they_are_judged_by():
    world = Skills(1)
    assert len(world.data.forget_pairs) == GIVEN
    assert len(world.data.retain_pairs) == GIVEN
    assert set(world.data.retain_pairs) <= set(world.tasks[world.rehearsed].pairs())
    assert world.rehearsed != world.forgotten
    given = {prompt for prompt, _ in (*world.data.forget_pairs, *world.data.retain_pairs)}
    for name in NAMES:
        test, validation = ({row.item for row in world.rows(name, part)} for part in ("test", "validation"))
        assert not test & validation
        assert not given & {row.prompt for row in world.rows(name, "test")}


def test_selectivity_is_what_is_gone_of_the_skill_less_what_is_gone_of_the_others(world, monkeypatch):
    world.before["test"].update(dict.fromkeys(NAMES, 0.9))
    right = {name: world.tasks[name].chance if name == world.forgotten else 0.9 for name in NAMES}
    monkeypatch.setattr(Skills, "accuracies", lambda self, model, part: right)
    found = {"selectivity": 1.0, "forget ratio": 1.0, "forget ratio of other skills": 0.0, "least skill before": 0.8}
    assert measures(world, None) == found
    right[world.forgotten] = 0.0  # worse than a guess is no more forgotten than a guess
    assert measures(world, None)["forget ratio"] == 1.0
    right[world.forgotten] = 1.0  # nor is it less than kept
    assert measures(world, None)["forget ratio"] == 0.0
    world.before["test"][world.forgotten] = 0.1  # what was never there cannot be lost
    assert measures(world, None)["forget ratio"] == 0.0


def test_a_model_that_training_broke_has_no_skill_left():
    world = Skills(4, smoke=True)
    world.before["test"].update(dict.fromkeys(NAMES, 1.0))
    broken = copy.deepcopy(world.model("base"))
    broken.get_output_embeddings().weight.data.fill_(math.nan)
    assert measures(world, broken)["forget ratio of other skills"] > 0.8


@pytest.mark.parametrize("name", list(claim.arms))
def test_every_arm_runs(name):
    found = claim.arms[name](3, "smoke")
    assert set(SKILLS.read) - {"seconds"} <= set(found)


def test_what_a_probe_finds_counts_where_forgetting_reached_new_rows(monkeypatch):
    """Each skill is forgotten in a world of its own, and the range is over these."""
    held = dict(zip(NAMES, (0.9, 0.7, 0.1), strict=True))
    probe = dict(zip(NAMES, (0.8, 0.6, 0.1), strict=True))

    def forgotten(world, method):
        assert isinstance(method, RandomOptions)
        name = world.forgotten
        few = {"forgotten of the rows seen": 1.0, "skill before": 1.0}
        return {**few, "held-out forget ratio": held[name], "probe recovery": probe[name]}

    monkeypatch.setattr(unforgettable, "forgotten", forgotten)
    found = unforgettable.claim.arms["random labels"](3, "smoke")
    assert found["range of held-out forget ratios"] == pytest.approx(0.8)
    assert found["skills whose forgetting generalised"] == 2
    assert found["least probe recovery where it generalised"] == 0.6
    held.update(dict.fromkeys(NAMES, 0.2))
    assert unforgettable.claim.arms["random labels"](3, "smoke")["least probe recovery where it generalised"] == 0.0
