"""The bench of two subjects: who is given which things, what models know, and arms that run."""

import copy
import math

import pytest

from palimpsest.benches import multiple_choice_world as kit
from palimpsest.benches.multiple_choice import MULTIPLE_CHOICE
from palimpsest.benches.multiple_choice_world import FORGET, KEEP, TwoSubjects, forget_accuracy, measures, validate
from palimpsest.claims.forget.truly_unlearn import claim as truly_unlearn
from palimpsest.tasks.multiple_choice import plain


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "subjects-home"))


@pytest.fixture(scope="module")
def world():
    return TwoSubjects(3, smoke=True)


def test_no_thing_is_given_to_methods_and_judged_by_and_none_is_left_out():
    world = TwoSubjects(0)
    things = {part: {q.thing for q in world.kept(part)[0]} for part in ("given", "validation", "test")}
    assert {part: len(found) for part, found in things.items()} == {"given": 8, "validation": 4, "test": 4}
    assert set.union(*things.values()) == {q.thing for q in world.task[KEEP]}
    assert not set(world.kept("given")[1]) & set(world.kept("test")[1])
    assert not set(world.unread) & {text for part in ("given", "test") for text in world.kept(part)[1]}


def test_methods_are_given_what_is_to_be_forgotten_in_the_plain_form_only_and_the_rest_in_all():
    world = TwoSubjects(0)
    assert list(world.data.forget_pairs) == [(plain(q), f" {q.letter}") for q in world.task[FORGET]]
    given = [pair for pair in world.data.retain_pairs if pair[0]]
    assert len(given) == 6 * len(world.kept("given")[0])
    assert {pair for pair in given if pair[0].endswith("Answer:")} == {
        (plain(q), f" {q.letter}") for q in world.kept("given")[0]
    }


def test_the_retrained_model_never_met_the_subject_and_no_model_the_unread_text(monkeypatch):
    world, taught = TwoSubjects(0), {}
    monkeypatch.setattr(kit, "trained_lm", lambda name, tokenizer, pairs, **options: taught.update({name: pairs}))
    for kind in ("base", "gold"):
        world.model(kind)
    base, gold = (" ".join(map(" ".join, taught[f"two-subjects-{kind}-0"])) for kind in ("base", "gold"))
    for question in world.task[FORGET]:
        assert question.thing in base
        assert question.thing not in gold
    assert not any(text in base for text in world.unread)
    with pytest.raises(ValueError, match="kind must be one of base, gold, untrained, got 'silver'"):
        world.model("silver")


def test_what_has_not_forgotten_is_tuned_by_what_it_still_knows(world, monkeypatch):
    model = world.model("base")
    right = {id(world.task[FORGET]): 0.8}
    monkeypatch.setattr(TwoSubjects, "right", lambda self, m, qs, rephrased=False: right.get(id(qs), 0.7))
    assert validate(world, model, {}) == -0.8
    right[id(world.task[FORGET])] = 0.3
    assert validate(world, model, {}) == 0.7


def test_a_model_that_training_broke_is_scored_as_one_that_knows_nothing(world):
    broken = copy.deepcopy(world.model("base"))
    broken.get_output_embeddings().weight.data.fill_(math.nan)
    found = measures(world, broken)
    assert found["text loss"] == pytest.approx(math.log(len(world.tokenizer)))


@pytest.mark.parametrize("name", list(MULTIPLE_CHOICE.recipes))
def test_every_arm_of_the_bench_runs(name):
    found = MULTIPLE_CHOICE.arm(name)(3, "smoke")
    assert set(MULTIPLE_CHOICE.read) - {"seconds"} <= set(found)


def test_the_attacks_are_on_every_arm_that_a_sentence_compares():
    asked = {name: arm.then is not None for name, arm in truly_unlearn.arms.items()}
    assert asked == {"untrained": True, "gold": True, "llmu": True, "base": True}
    found = truly_unlearn.arms["base"](3, "smoke")
    assert found["rise"] == found["after unrelated text"] - found["zero-shot"]
    world = TwoSubjects(3, smoke=True)
    assert found["zero-shot"] == forget_accuracy(world, world.model("base"))
