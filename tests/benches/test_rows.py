"""Worlds of rows to forget: which rows are for what, what forgetting is measured against, and arms that run."""

import copy
import math

import numpy as np
import pytest
import torch

from palimpsest.benches import rows_kit
from palimpsest.benches.documents_world import targeted
from palimpsest.benches.rows_kit import ABOVE_GOLD, above, dealt, measures, validate
from palimpsest.benches.shelf import bench
from palimpsest.errors import NotFinite
from palimpsest.forget.causal_whp_measures import fabrications

NAMES = ("private_people", "two_hop", "contracts", "documents", "targets", "prose")


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "rows-home"))


@pytest.fixture(scope="module")
def world():
    return bench("private_people").world(3, smoke=True)


@pytest.mark.parametrize("name", NAMES)
def test_no_row_is_for_two_things_and_methods_get_those_to_forget_and_those_given(name):
    world = bench(name).world(200)
    rows = world.rows
    parts = [set(part) for part in (rows.forget, rows.given, rows.validation, rows.test, rows.besides)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert all(parts[:4])
    assert parts[0] <= set(world.learned("base")) - set(world.learned("gold"))
    if name != "targets":  # there the model writes itself what it is to forget
        assert list(world.data.forget_pairs) == world.told(rows.forget)
        assert list(world.data.retain_pairs) == world.told(rows.given)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("documents", "prose")])
def test_no_two_seeds_are_judged_by_the_same_row(name):
    assert not set(bench(name).world(200).rows.test) & set(bench(name).world(201).rows.test)


def test_what_is_forgotten_elsewhere_leaves_the_first_model_as_it_is():
    for name, asked in (("contracts", {"place": "isolated"}), ("two_hop", {"forget": "premises"})):
        one, other = bench(name).world(200), bench(name).world(200, **asked)
        assert one.learned("base") == other.learned("base")
        assert one.rows.forget != other.rows.forget


def test_rows_are_dealt_once_each_and_alike_every_time():
    parts = dealt("abcdefg", 1, (0.3, 0.3, 0.4))
    assert sorted(row for part in parts for row in part) == list("abcdefg")
    assert [sorted(part) for part in parts] == parts == dealt("abcdefg", 1, (0.3, 0.3, 0.4))
    assert parts != dealt("abcdefg", 2, (0.3, 0.3, 0.4))


def test_the_probability_of_the_forget_rows_is_that_of_a_naive_loop(world):
    model, rows, found = world.model("base"), world.data.forget, []
    for ids, start in zip(rows.input_ids, rows.prompt_lengths, strict=True):
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(math.exp(np.mean([logp[i - 1, ids[i]].item() for i in range(start, len(ids))])))
    assert world.forget_probability(model) == pytest.approx(np.mean(found), rel=1e-5)
    assert above(world, model) == pytest.approx(np.mean(found) - world.gold["probability"])


def test_the_retrained_model_is_its_own_reference_and_the_untrained_one_knows_nothing(world):
    assert measures(world, world.model("gold"))[ABOVE_GOLD] == 0.0
    assert measures(world, world.model("untrained"))["kept recall"] == 0.0
    with pytest.raises(ValueError, match="kind must be one of base, gold, untrained, got 'silver'"):
        world.model("silver")


def test_a_model_that_has_not_forgotten_is_tuned_by_how_far_it_is_from_that(world, monkeypatch):
    gold, base = world.model("gold"), world.model("base")
    assert validate(world, gold, {}) == world.kept(gold, "validation")
    monkeypatch.setitem(world.gold, "probability", -1.0)
    assert validate(world, base, {}) == -above(world, base) <= -1.0


def test_a_model_that_training_broke_is_measured_as_one_that_knows_nothing(world):
    broken = copy.deepcopy(world.model("base"))
    broken.get_output_embeddings().weight.data.fill_(math.nan)
    with pytest.raises(NotFinite):
        world.forget_probability(broken)
    found = measures(world, broken)
    assert found["kept recall"] == 0.0
    assert found == measures(world, rows_kit.blank(broken))
    assert validate(world, broken, {}) in (0.0, -above(world, broken))


@pytest.mark.parametrize(("name", "arm"), [(name, arm) for name in NAMES for arm in bench(name).recipes])
def test_every_arm_runs(name, arm):
    one = bench(name)
    found = one.arm(arm)(3, "smoke")
    assert not any(map(math.isnan, found.values()))
    assert ("level reached" in found) == (arm in one.baselines)


def test_contracts_are_parted_by_what_they_share_with_those_to_forget():
    world = bench("contracts").world(200)
    hub = world.graph.edges[0][0]
    assert all(hub in row.edge for row in world.parts["hub"] + world.parts["hub's others"])
    assert not any(hub in row.edge for row in world.parts["isolated"] + world.parts["others"])
    isolated = bench("contracts").world(200, place="isolated")
    assert isolated.rows.test == world.rows.test
    assert len(isolated.rows.forget) == len(world.rows.forget)
    assert not set(isolated.rows.forget + world.rows.forget) & set(world.learned("gold"))


def test_methods_are_given_the_premises_that_stay_and_nothing_else_about_the_persons():
    for forget, known in (("conclusions", 2), ("premises", 0)):
        world = bench("two_hop").world(200, forget=forget)
        chosen = world.task.chosen
        given, judged = (
            [question for question, _ in rows if any(person in question for person in chosen)]
            for rows in (world.rows.given, world.rows.test)
        )
        assert (len(given), len(judged)) == (known * len(chosen), 0)
        assert len(world.rows.forget) == 2 * len(chosen)


def test_the_retrained_model_has_read_as_many_lives_of_an_author_as_texts_and_one_of_the_companion():
    world = bench("documents").world(200)
    own, other = world.people[0], world.people[len(world.people) // 2]
    told = [[text for _, text in world.tellings(0, known=known)] for known in (True, False)]
    for texts, known in zip(told, (True, False), strict=True):
        assert all(fact.object in text for fact in other for text in texts)
        assert len(set(texts)) == (3 if known else 12)
        for fact in own:
            assert all(any(fact.statement(w) in text for w in range(3)) for text in texts) == known
    judged = {question for question, _ in [*world.rows.test, *world.rows.validation]}
    assert judged == {fact.cloze()[0] for own in world.people[24:32] for fact in own}
    assert not set(world.authors("test")) & set(world.authors("validation"))


def test_the_targeted_score_is_made_of_what_is_said_of_authors_and_companions():
    world = bench("documents").world(3, smoke=True)
    gold, half = world.model("gold"), {"hard retain": 0.5, "fabrication": 0.5, "no gibberish": 0.5}
    found = world.measured(gold)
    assert found["targeted score"] == targeted(found) == world.kept(gold, "test")
    assert targeted(half) == pytest.approx(0.5)
    assert targeted({**half, "fabrication": 1.0}) == 0.0
    assert found["fabrication"] == fabrications(gold, world.tokenizer, world.probes(world.authors("test")))


def test_methods_are_given_what_the_model_wrote_and_no_row_about_the_targets():
    world = bench("targets").world(3, smoke=True)
    assert {prompt for prompt, _ in world.data.forget_pairs} == {""}
    assert not any(name in question for name in world.task.targets for question, _ in world.rows.given)
    kinds = world.adversarial(world.task.targets, held_out=True)
    assert len(kinds) == 4 * len(world.task.about(world.task.targets))
    assert len(set(kinds) & set(world.learned("base"))) >= len(kinds) * 0.7
    assert not set(kinds) & set(world.learned("gold"))


def test_documents_of_the_forgotten_kind_that_nobody_learned_stand_in_for_retraining():
    world, other = bench("prose").world(3, smoke=True), bench("prose").world(3, smoke=True, given="in")
    assert not set(world.parts["approximate"]) & set(world.learned("base"))
    assert world.rows.test == other.rows.test
    assert set(other.rows.given) == set(other.parts["in"])
    assert not set(world.rows.given) & set(world.parts["in"])
    assert world.learned("base") == other.learned("base")
    target = world.perplexity(world.model("base"), world.parts["approximate"])
    found = world.measured(world.model("gold"))
    assert found["proxy error"] == pytest.approx(abs(target / np.exp(found["forget log-perplexity"]) - 1))
