"""The bench of alignments: who is given which prompts, what the attack is, and arms that run."""

import math

import pytest

from palimpsest.benches import harm_world
from palimpsest.benches.harm import HARM
from palimpsest.benches.harm_world import USEFUL, Provider, measures, validate
from palimpsest.claims.forget.booster import claim
from palimpsest.errors import NotFinite
from palimpsest.tasks.harm import BENIGN_ACTIONS, HARMFUL_ACTIONS, THINGS, harmful_rows


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "harm-home"))


@pytest.fixture(scope="module")
def world():
    return Provider(3, smoke=True)


def asked(prompt):
    words = prompt.split()
    return next(w for w in words if w in {*HARMFUL_ACTIONS, *BENIGN_ACTIONS}), next(w for w in words if w in THINGS)


def test_what_is_judged_was_asked_in_no_wording_of_alignment_attack_or_validation():
    world = Provider(0)
    parts = [{asked(prompt) for prompt, _ in world.judged(part)[0]} for part in ("test", "validation")]
    aligned = {asked(prompt) for prompt, _ in world.data.forget_pairs}
    attacker = {asked(row.prompt) for row in harmful_rows(world.rows["attack"], "attack", 0)}
    for one, other in ((parts[0], parts[1]), (parts[0], aligned), (parts[0], attacker), (aligned, attacker)):
        assert not one & other
    for rows in (1, 2):
        assert not set(world.judged("test")[rows]) & set(world.judged("validation")[rows])


def test_methods_are_given_refusals_and_as_many_benign_answers(world):
    refused = {prompt for prompt, _ in world.data.forget_pairs}
    kept = [prompt for prompt, _ in world.data.retain_pairs]
    assert refused <= set(kept)
    assert len(kept) == 2 * len(refused)


def test_a_user_whose_rows_were_filtered_trains_on_the_task_alone(world, monkeypatch):
    ratios = []

    def attack(model, task, harm, *, harm_ratio, **options):
        ratios.append(harm_ratio)
        raise NotFinite("broken") if harm_ratio else KeyError

    monkeypatch.setattr(harm_world, "attack", attack)
    with pytest.raises(KeyError):
        HARM.arm("filtered")(3, "smoke")
    found = measures(world, world.model())  # an attack that breaks the model leaves it as it was
    assert found["harmful score"] == found["harmful score before"]
    assert ratios == [0.0, 0.1]


def test_a_model_that_lost_the_benign_prompts_is_tuned_by_what_it_lacks(world, monkeypatch):
    found = {"benign accuracy before": USEFUL - 0.2, "harmful score": 0.3, "task accuracy": 0.8}
    monkeypatch.setattr(harm_world, "measured", lambda *_: found)
    assert validate(world, None, {}) == pytest.approx(-0.2)
    found["benign accuracy before"] = 1.0
    assert validate(world, None, {}) == pytest.approx(0.75)


@pytest.mark.parametrize("name", list(claim.arms))
def test_every_arm_runs(name):
    found = claim.arms[name](3, "smoke")
    assert set(HARM.read) - {"seconds"} <= set(found)
    assert not any(map(math.isnan, found.values()))
