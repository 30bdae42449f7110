"""Letters that come later: none is trained on but by the ceiling, each seed asks its own, measures agree with loops."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.benches.new_letters import NEW_LETTERS
from palimpsest.benches.new_letters_world import (
    AMONG_ALL,
    AMONG_NEW,
    EXAMPLES,
    IMAGES,
    Classes,
    examples,
    means,
    measures,
    named,
    validate,
)
from palimpsest.tasks.glyphs import SEEN, digest
from palimpsest.train import loop  # noqa: F401  what takes seconds to load is no test's own


@pytest.fixture(autouse=True, scope="module")
def pool():
    digest()


@pytest.mark.parametrize("name", NEW_LETTERS.recipes)
def test_every_arm_runs_on_a_few_images_and_is_measured_alike(name):
    found = NEW_LETTERS.arm(name)(200, "smoke")
    assert all(0 <= found[measure] <= 1 for measure in (AMONG_NEW, AMONG_ALL))


def test_only_the_ceiling_trains_on_new_letters_and_none_on_what_is_asked():
    plain, known = Classes(200), Classes(200, known=True)
    search = plain.search("test")
    assert int(plain.train.y.max()) == SEEN - 1
    assert torch.equal(known.train.y.unique(), torch.arange(SEEN + len(search.gallery.y.unique())))
    for asked in (search.queries, plain.search("validation").queries, plain.splits.test):
        assert not set(known.train.index.tolist()) & set(asked.index.tolist())
    assert not set(search.queries.index.tolist()) & set(Classes(201).search("test").queries.index.tolist())


def test_a_batch_has_four_images_of_each_of_its_letters():
    batch = Classes(200).batches(128, 0)(3)
    assert batch["views"].shape == (128, 1, 1, 14, 14)
    assert batch["labels"].unique(return_counts=True)[1].tolist() == [IMAGES] * 32
    again, other = Classes(200).batches(128, 0)(3), Classes(200).batches(128, 0)(4)
    assert torch.equal(batch["views"], again["views"])
    assert not torch.equal(batch["labels"], other["labels"])


def test_a_row_is_named_by_the_nearest_mean_of_five_examples_a_letter():
    labels = torch.arange(7).repeat(9)
    rows = examples(labels, torch.Generator().manual_seed(0))
    assert labels[rows].bincount().tolist() == [EXAMPLES] * 7
    assert len(rows.unique()) == len(rows)
    drawn = F.normalize(torch.randn(63, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    classes, vectors = means(drawn, labels + 3)
    assert classes.tolist() == list(range(3, 10))
    for label, vector in zip(classes, vectors, strict=True):
        torch.testing.assert_close(vector, F.normalize(drawn[labels + 3 == label].mean(0), dim=0))
    asked = torch.randn(20, 5, generator=torch.Generator().manual_seed(2))
    nearest = [int(classes[max(range(7), key=lambda k: float(row @ vectors[k]))]) for row in asked]
    truth = torch.tensor(nearest).where(torch.arange(20) < 15, 0)
    assert named(asked, vectors, classes, truth) == 0.75


def test_settings_are_chosen_by_letters_that_no_test_asks_for():
    world = Classes(200, smoke=True)
    model = world.model("pixels")
    assert 0 < validate(world, model, {}) < 1
    found = measures(world, model)
    assert found[AMONG_ALL] < found[AMONG_NEW]  # more candidates
    assert set(world.search("validation").queries.y.tolist()).isdisjoint(world.search("test").queries.y.tolist())


def test_models_are_fresh_copies_of_the_seed_with_the_last_layer_that_is_asked_for():
    world = Classes(200, smoke=True, last=nn.Linear)
    one, other = world.model("network"), world.model("network")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.extra["last"].out_features == int(world.train.y.max()) + 1
    plain = Classes(200, smoke=True).model("network")
    assert torch.equal(plain.head.weight, one.head.weight)
    assert "last" not in plain.extra
