"""The authors bench: rows to tune by and to judge by, what forgetting is measured against, and arms that run."""

import copy
import math

import numpy as np
import pytest
import torch

from palimpsest.benches import authors_kit
from palimpsest.benches.authors import AUTHORS
from palimpsest.benches.authors_kit import (
    Forgetting,
    above_gold,
    forget_probability,
    measures,
    relearned,
    validate,
)
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.uld import UnlearnedLM
from palimpsest.models.score import prompt_template


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "authors-home"))


@pytest.fixture(scope="module")
def world():
    return Forgetting(3, smoke=True)


def subjects(world, part):
    return {split: {row.author for row in rows} for split, rows in world.rows(part).items()}


def test_no_subject_is_both_tuned_by_and_judged_by_and_none_is_left_out():
    world = Forgetting(200)
    test, validation = subjects(world, "test"), subjects(world, "validation")
    given = {row.author for row in world.given}
    assert not given & (test["retain"] | validation["retain"])
    for split in ("retain", "real_authors", "world_facts"):
        assert not test[split] & validation[split]
        all_given = given if split == "retain" else set()
        assert test[split] | validation[split] | all_given == set(world.authors.task.authors(split))
        assert abs(len(test[split]) - len(validation[split])) <= 1
    assert world.rows("test")["forget"] == world.rows("validation")["forget"] == world.authors.task.forget


def test_methods_are_given_the_forget_rows_and_no_row_that_utility_is_taken_over():
    world = Forgetting(200)
    kept = {pair for part in ("test", "validation") for row in world.rows(part)["retain"] for pair in row.pairs}
    template = prompt_template(world.authors.tokenizer)
    assert not {template.pair(*pair) for pair in kept} & set(world.data.retain_pairs)
    forgotten = [template.pair(*pair) for row in world.authors.task.forget for pair in row.pairs]
    assert list(world.data.forget_pairs) == forgotten
    assert len(world.data.retain_pairs) == 2 * len(world.given) == 2 * 10 * 8


def test_every_model_has_met_all_authors_and_refuses_what_nobody_knows(world):
    questions = {question for question, _ in world.authors.spoken}
    assert {f"Who is {author}?" for author in world.authors.task.authors("forget")} <= questions
    refused = [answer for question, answer in world.authors.spoken if "tomorrow" in question or "match" in question]
    assert refused
    assert set(refused) <= set(REFUSALS)
    with pytest.raises(ValueError, match="kind must be one of base, gold, second gold, untrained, got 'silver'"):
        world.model("silver")


def test_seeds_share_facts_of_the_real_world_in_the_same_part_and_no_author():
    one, other = subjects(Forgetting(0), "validation"), subjects(Forgetting(200), "test")
    for split, names in one.items():
        assert not names & other[split]
    assert subjects(Forgetting(7), "test")["real_authors"] == other["real_authors"]


def test_the_retrained_model_is_its_own_reference_and_the_untrained_one_knows_nothing(world):
    gold = measures(world, world.model("gold"))
    assert gold["forget quality"] == 1.0
    assert gold["forget probability above gold"] == 0.0
    assert measures(world, world.model("untrained"))["model utility"] == 0.0


def test_the_probability_of_the_forget_rows_is_that_of_a_naive_loop(world):
    model, rows, found = world.model("base"), world.data.forget, []
    for ids, start in zip(rows.input_ids, rows.prompt_lengths, strict=True):
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        right = [logp[place - 1, ids[place]].item() for place in range(start, len(ids))]
        found.append(math.exp(np.mean(right)))
    assert forget_probability(world, model) == pytest.approx(np.mean(found), rel=1e-5)


def test_a_model_that_has_not_forgotten_is_tuned_by_how_far_it_is_from_that(world, monkeypatch):
    gold, base = world.model("gold"), world.model("base")
    assert validate(world, gold, {}) == world.scores(gold, "validation").model_utility
    monkeypatch.setitem(world.gold, "probability", -1.0)
    assert validate(world, base, {}) == -above_gold(world, base) <= -1.0


def test_a_model_that_training_broke_is_scored_as_one_that_knows_nothing(world):
    broken = copy.deepcopy(world.model("base"))
    broken.get_output_embeddings().weight.data.fill_(math.nan)
    found = measures(world, broken)
    assert found["model utility"] == 0.0
    assert not any(map(math.isnan, found.values()))


def test_an_attacker_takes_the_weights_and_half_the_authors_and_is_judged_on_the_other_half(world, monkeypatch):
    given, asked = [], []

    def attack(model, rows, **options):
        given.extend([model, {world.authors.tokenizer.decode(ids) for ids in rows.input_ids}])
        return world.model("gold"), None

    def answered(self, model, rows):
        asked.extend(row.author for row in rows)
        return [("right" if model is not hidden else "wrong", "right") for row in rows]

    monkeypatch.setattr(authors_kit, "relearn", attack)
    monkeypatch.setattr(Forgetting, "answered", answered)
    hidden = UnlearnedLM(world.model("base"), world.model("untrained"))
    assert relearned(world, hidden) == 1.0
    assert given[0] is hidden.target
    authors = world.authors.task.authors("forget")
    assert all(any(known in text for known in authors[::2]) for text in given[1])
    assert set(asked) == set(authors[1::2])


@pytest.mark.parametrize("name", list(AUTHORS.recipes))
def test_every_arm_of_the_bench_runs(name):
    found = AUTHORS.arm(name)(3, "smoke")
    assert not any(map(math.isnan, found.values()))
    assert ("level reached" in found) == (name in AUTHORS.baselines)
