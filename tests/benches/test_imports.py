"""Who imports what: held-out names are in no batch, measures are those of a sort, and full information sees them."""

import math

import pytest
import torch

from palimpsest.benches import imports_world
from palimpsest.benches.imports import IMPORTS
from palimpsest.benches.imports_world import AMONG_ALL, CANDIDATES, FOUND, SAMPLED, Imports, measures, validate
from palimpsest.tasks.interactions import Interactions, recommendation


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """40 users and 30 items, so that no package is read."""
    draws = torch.Generator().manual_seed(0)
    user, item = (torch.rand(40, 30, generator=draws) < 0.3).nonzero().T
    names = tuple(map(str, range(40))), tuple(map(str, range(30)))
    task = recommendation(Interactions(user, item), *names, 3, negatives=5)
    monkeypatch.setattr(imports_world, "imports", lambda seed: task)


@pytest.mark.parametrize("name", IMPORTS.recipes)
def test_every_arm_runs_and_is_measured_alike(name):
    assert set(IMPORTS.arm(name)(3, "smoke")) >= {AMONG_ALL, FOUND, SAMPLED}


def pairs(rows):
    return set(zip(rows.user.tolist(), rows.item.tolist(), strict=True))


def test_batches_have_what_is_trained_on_and_negatives_that_no_user_took():
    world = Imports(3)
    batches, seen = world.batches(32, 0), set()
    for step in range(20):
        batch = batches(step)
        assert batch["negatives"].shape == (32, CANDIDATES)
        assert not world.taken[batch["user"][:, None], batch["negatives"]].any()
        seen |= set(zip(batch["user"].tolist(), batch["item"].tolist(), strict=True))
    assert seen == pairs(world.task.train)
    assert not seen & (pairs(world.task.test) | pairs(world.task.validation))
    assert torch.equal(world.batches(32, 0)(7)["negatives"], batches(7)["negatives"])
    assert not torch.equal(world.batches(32, 1)(7)["negatives"], batches(7)["negatives"])


def test_full_information_has_the_held_out_names_and_is_measured_on_the_same():
    world, full = Imports(3), Imports(3, everything=True)
    assert pairs(full.train) == pairs(world.train) | pairs(world.task.test) | pairs(world.task.validation)
    model = full.model("popularity")
    assert measures(world, model) == measures(full, model)


def test_measures_are_those_of_a_sorted_list():
    world = Imports(3)
    model = world.model("factorisation")
    all_scores = model(torch.arange(40)).tolist()
    known, test = pairs(world.task.train), world.task.test
    gains, found, sampled = [], [], []
    for user, item, negatives in zip(test.user.tolist(), test.item.tolist(), test.negatives.tolist(), strict=True):
        by_score = sorted(range(30), key=lambda other, user=user: -all_scores[user][other])
        place = [other for other in by_score if (user, other) not in known].index(item)
        few = [other for other in by_score if other in (item, *negatives)].index(item)
        gains.append(1 / math.log2(place + 2) if place < 20 else 0.0)
        found.append(place < 20)
        sampled.append(1 / math.log2(few + 2))
    expected = {AMONG_ALL: gains, FOUND: found, SAMPLED: sampled}
    assert measures(world, model) == pytest.approx({name: sum(row) / len(row) for name, row in expected.items()})
    assert 0 < validate(world, model, {}) != measures(world, model)[AMONG_ALL]


def test_popularity_says_the_same_to_everybody():
    world = Imports(3)
    scores = world.model("popularity")(torch.arange(40))
    assert torch.equal(scores, scores[:1].expand(40, -1))
    assert scores[0].long().tolist() == world.task.popularity.tolist()
