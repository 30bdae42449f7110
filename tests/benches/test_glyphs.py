"""Letters that no training set holds are asked for, each seed its own; measures agree with naive versions."""

import pytest
import torch
from torch.nn import functional as F

from palimpsest.benches.glyphs import GLYPHS
from palimpsest.benches.glyphs_world import (
    ASKED,
    EPISODE,
    NEAREST,
    SEEN_LETTERS,
    UNSEEN,
    Letters,
    embedded,
    measures,
    validate,
)
from palimpsest.contrast.heads import projection_head


@pytest.mark.parametrize("name", GLYPHS.recipes)
def test_every_arm_runs_on_a_few_images_and_is_measured_alike(name):
    found = GLYPHS.arm(name)(200, "smoke")
    assert set(found) >= {UNSEEN, NEAREST, EPISODE, SEEN_LETTERS}
    assert all(0 <= found[measure] <= 1 for measure in GLYPHS.read)


def test_what_training_sees_is_not_asked_and_seeds_ask_for_different_images():
    one, other = Letters(200), Letters(201)
    seen = one.splits
    of_training = set(seen.train.index.tolist())
    asked = one.search("test")
    chosen = one.search("validation")
    for images in (asked.queries, asked.gallery, chosen.queries, chosen.gallery, seen.test):
        assert not of_training & set(images.index.tolist())
    assert not set(asked.queries.y.tolist()) & (set(seen.train.y.tolist()) | set(chosen.queries.y.tolist()))
    assert not set(asked.queries.index.tolist()) & set(asked.gallery.index.tolist())
    assert not set(asked.queries.index.tolist()) & set(other.search("test").queries.index.tolist())
    assert len(asked.queries) == 88 * ASKED


def test_retrieval_is_the_mean_precision_at_the_ranks_of_the_letters_other_images():
    world = Letters(200, smoke=True)
    model = world.model("pixels")
    search = world.search("test")
    gallery = F.normalize(search.gallery.x.flatten(1), dim=1)
    precision, first = [], []
    for image, letter in zip(search.queries.x, search.queries.y, strict=True):
        ranked = search.gallery.y[(gallery @ image.flatten()).argsort(descending=True)] == letter
        places = ranked.nonzero()[:, 0]
        precision.append(sum((number + 1) / (int(place) + 1) for number, place in enumerate(places)) / len(places))
        first.append(float(ranked[0]))
    found = measures(world, model)
    assert found[UNSEEN] == pytest.approx(sum(precision) / len(precision), rel=1e-4)
    assert found[NEAREST] == pytest.approx(sum(first) / len(first), rel=1e-4)


def test_settings_are_chosen_by_letters_that_no_test_asks_for():
    world = Letters(200, smoke=True)
    model = world.model("pixels")
    found = validate(world, model, {})
    assert 0 < found < 1
    assert found != measures(world, model)[UNSEEN]
    assert torch.equal(*(Letters(seed).search("validation").queries.index for seed in (200, 201)))


def test_models_are_fresh_copies_of_the_seed_and_take_heads_and_modules_of_the_loss():
    world = Letters(
        200, smoke=True, head=lambda d: projection_head(d, 8, 4), extra={"scale": lambda d: torch.nn.ReLU()}
    )
    one, other = world.model("network"), world.model("network")
    assert one is not other
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    views = world.batches(8, 0)(0)["views"]
    assert one(views[:, 0]).shape == (8, 4)
    assert "scale" in one.extra
    assert embedded(one, views[:, 0]).norm(dim=1).sub(1).abs().max() < 1e-5
    plain = Letters(200, smoke=True)
    for a, b in zip(plain.model("network").encoder.parameters(), one.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(set(plain.model("untrained").encoder[1].running_mean.tolist())) > 1
