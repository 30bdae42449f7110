"""Digits without labels: what is asked was not trained on, each seed asks its own, measures agree with loops."""

import pytest
import torch
from torch.nn import functional as F

from palimpsest.benches.digit_views import DIGIT_VIEWS, of_other_classes
from palimpsest.benches.digit_views_world import ONE_LABEL, SAME, Digits, measures, retrieval, validate
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.tasks import mnist
from palimpsest.train import loop  # noqa: F401  what takes seconds to load is no test's own


@pytest.fixture(autouse=True, scope="module")
def pool():
    mnist.digest()


@pytest.mark.parametrize("name", DIGIT_VIEWS.recipes)
def test_every_arm_runs_on_a_few_images_and_is_measured_alike(name):
    found = DIGIT_VIEWS.arm(name)(200, "smoke")
    assert set(found) >= {SAME, ONE_LABEL}
    assert all(0 <= found[measure] <= 1 for measure in DIGIT_VIEWS.read)


def test_what_training_sees_is_not_asked_and_seeds_ask_for_different_images():
    one, other = (Digits(seed, smoke=True).splits for seed in (200, 201))
    seen = set(one.train.index.tolist())
    for asked in (one.test, one.validation):
        assert not seen & set(asked.index.tolist())
    assert not set(one.test.index.tolist()) & (set(other.test.index.tolist()) | set(one.validation.index.tolist()))
    assert torch.equal(one.validation.index, other.validation.index)


def test_one_negative_in_ten_is_a_false_one():
    labels = Digits(200).batches(128, 0)(0)["labels"]
    same = (labels[:, None] == labels).float().fill_diagonal_(0).sum() / (len(labels) * (len(labels) - 1))
    assert 0.07 < same < 0.13


def test_retrieval_is_the_mean_precision_at_the_ranks_of_the_class():
    world = Digits(200, smoke=True)
    train, test = world.splits.train, world.splits.test
    gallery = F.normalize(train.x.flatten(1), dim=1)
    precisions = []
    for image, digit in zip(F.normalize(test.x.flatten(1), dim=1), test.y, strict=True):
        places = (train.y[(gallery @ image).argsort(descending=True)] == digit).nonzero()[:, 0]
        precisions.append(sum((number + 1) / (int(place) + 1) for number, place in enumerate(places)) / len(places))
    pixels = world.model("pixels")
    assert measures(world, pixels)[SAME] == pytest.approx(sum(precisions) / len(precisions), rel=1e-4)
    assert validate(world, pixels, {}) != measures(world, pixels)[SAME]
    rows = torch.eye(3)
    assert retrieval(rows, torch.arange(3), rows, torch.arange(3)) == 1.0


def test_the_ceiling_is_nt_xent_where_no_negative_is_a_false_one():
    query, key = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    apart = of_other_classes(query, key, batch={"labels": torch.arange(6)}, model=None)
    torch.testing.assert_close(apart, nt_xent(query, key, 0.2))


def test_models_are_fresh_copies_of_the_seed():
    world = Digits(200, smoke=True)
    one, other = world.model("network"), world.model("network")
    assert one is not other
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert len(set(world.model("untrained").encoder[1].running_mean.tolist())) > 1
