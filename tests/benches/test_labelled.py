"""The benches on labelled rows: worlds whose test rows no two seeds share, measures against loops, and every arm."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from palimpsest.benches import labelled
from palimpsest.benches.bench import SEEDS
from palimpsest.benches.estimators import Fitted, logistic, ridge
from palimpsest.benches.shelf import BENCHES, bench
from palimpsest.tasks.fresh import row_keys
from palimpsest.tasks.labelled import Labelled
from palimpsest.tasks.real_domains import DIRECTIONS, DOMAINS
from palimpsest.tasks.splits import Split
from palimpsest.tasks.tabular import Table

MODULES = ("mnist", "mnist_sets", "tables")
TASKS = [bench(name) for module in MODULES for name in BENCHES[module]]
# The rows of mnist1d are made for every seed, and come from no pool.
ARMS = [(one, arm) for one in (*TASKS, bench("mnist1d")) for arm in one.recipes]


@pytest.mark.parametrize(("one", "arm"), ARMS, ids=[f"{one.name}-{arm}" for one, arm in ARMS])
def test_every_arm_runs_on_few_rows_and_gives_every_measure(one, arm):
    found = one.arm(arm)(SEEDS[0], "smoke")
    assert set(one.read) <= set(found)
    assert found.get("diverged", 0.0) == 0.0
    for name, measure in one.read.items():
        if measure.bounds:
            assert measure.bounds[0] <= found[name] <= measure.bounds[1]


def drawn(rows):
    """What the rows were made from; -1 is an empty cell of a mosaic."""
    return set(rows.index.flatten().tolist()) - {-1}


@pytest.mark.parametrize("one", TASKS, ids=lambda one: one.name)
def test_no_two_seeds_of_a_claim_are_tested_on_the_same_row_and_no_arm_learns_from_one(one):
    asked = {tuple(recipe.world.items()) for recipe in (one.ceiling[1], *one.baselines.values())}
    tested = []
    for seed in SEEDS:
        worlds = [one.world(seed, False, **dict(asked_for)) for asked_for in asked]
        keys = [drawn(world.test) for world in worlds]
        assert all(key == keys[0] for key in keys)  # every arm has the same test rows
        for world in worlds:
            for rows in (world.data.rows, world.data.unlabelled, world.validation):
                assert rows is None or not keys[0] & drawn(rows)
        tested.append(keys[0])
    assert sum(map(len, tested)) == len(set.union(*tested))


def test_labels_are_few_wrong_or_rare_where_they_should_be():
    few = bench("mnist_few").world(SEEDS[0], False)
    assert few.data.counts.tolist() == [4] * 10
    assert len(few.data.unlabelled) == 2460
    assert few.data.unlabelled.y.unique().tolist() == [-1]
    assert len(bench("mnist_few").world(SEEDS[0], False, labels=0).data.rows) == 2500
    noisy = bench("mnist_noise").world(SEEDS[0], False)
    assert (noisy.data.rows.y != noisy.data.rows.clean_y).double().mean() == 0.5
    clean = bench("mnist_noise").world(SEEDS[0], False, clean=True)
    assert torch.equal(clean.data.rows.y, noisy.data.rows.clean_y)
    mosaics, known = (bench("mnist_multilabel").world(SEEDS[0], True, known=known) for known in (False, True))
    assert mosaics.data.rows.y.sum(1).unique().tolist() == [1]
    assert (mosaics.data.rows.y <= known.data.rows.y).all()
    assert torch.equal(mosaics.data.rows.x, known.data.rows.x)
    ambiguous = bench("mnist_partial").world(SEEDS[0], True).data.rows
    assert ambiguous.y.gather(1, ambiguous.clean_y[:, None]).all()
    assert 0.55 < (ambiguous.y.sum() - len(ambiguous)) / (9 * len(ambiguous)) < 0.65
    known = bench("mnist_partial").world(SEEDS[0], True, known=True).data.rows
    assert torch.equal(known.y, ambiguous.clean_y)
    tail = bench("mnist_longtail").world(SEEDS[0], False)
    assert tail.data.counts.tolist() == [250, 150, 90, 54, 32, 19, 12, 7, 4, 2]
    assert len(bench("mnist_longtail").world(SEEDS[0], False, balanced=True).data.rows) == len(tail.data.rows)


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_no_label_of_the_target_is_known_but_to_the_ceiling_and_none_of_its_images_is_tested_twice(source, target):
    one, places = bench(f"{source}_to_{target}"), {DOMAINS.index(source), DOMAINS.index(target)}
    own, others, ceiling = (one.world(SEEDS[0], True, labels=labels) for labels in ("source", "others", "target"))
    for world, known in ((own, places - {DOMAINS.index(target)}), (others, {0, 1, 2} - {DOMAINS.index(target)})):
        assert set(world.data.rows.domain.tolist()) == set(world.validation.domain.tolist()) == known
        assert world.data.unlabelled.y.unique().tolist() == [-1]
        assert world.data.unlabelled.domain.unique().tolist() == world.test.domain.unique().tolist()
    assert ceiling.data.rows.domain.unique().tolist() == own.test.domain.unique().tolist() == [DOMAINS.index(target)]
    assert not set(row_keys(ceiling.data.rows.x)) & set(row_keys(own.test.x))
    found = one.arm("source only")(SEEDS[0], "smoke")
    assert set(one.read) <= set(found)


def test_average_precision_of_labels_against_a_loop():
    generator = torch.Generator().manual_seed(4)
    logits, y = torch.randn(40, 3, generator=generator), torch.randint(2, (40, 3), generator=generator)
    precisions = []
    for scores, present in zip(logits.T, y.T, strict=True):
        ranked = present[scores.argsort(descending=True)].tolist()
        found = [sum(ranked[: i + 1]) / (i + 1) for i in range(40) if ranked[i]]
        precisions.append(sum(found) / len(found))
    assert labelled.mean_average_precision(logits, y) == pytest.approx(sum(precisions) / 3)


def test_networks_are_fresh_and_of_the_seed():
    world = bench("mnist_few").world(3, True)
    one, same = world.model("network"), world.model("network")
    assert one is not same
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


def toy(y, classes=3, n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 1, classes, generator=generator)
    rows = Split(x, y, torch.arange(n))
    return SimpleNamespace(test=rows, validation=rows), nn.Flatten(), x.flatten(1)


def test_measures_of_classes_against_loops():
    y = torch.randint(3, (60,), generator=torch.Generator().manual_seed(1))
    world, model, logits = toy(y)
    p = logits.double().softmax(1)
    found = labelled.class_scores(world, model)
    assert found["accuracy"] == sum(int(p[i].argmax()) == int(y[i]) for i in range(60)) / 60
    assert found["log loss"] == pytest.approx(-sum(float(p[i, y[i]].log()) for i in range(60)) / 60)
    assert labelled.valid_accuracy(world, model, {}) == found["accuracy"]
    assert labelled.valid_log_likelihood(world, model, {}) == pytest.approx(-found["log loss"])
    recall = [sum(int(p[i].argmax()) == c for i in range(60) if y[i] == c) / int((y == c).sum()) for c in range(3)]
    found = labelled.balanced_scores(world, model)
    assert (
        found["balanced accuracy"]
        == pytest.approx(sum(recall) / 3)
        == labelled.valid_balanced_accuracy(world, model, {})
    )
    assert found["worst class"] == pytest.approx(min(recall))


def test_r_squared_is_of_the_test_rows_and_knows_no_unit():
    y = torch.randn(60, generator=torch.Generator().manual_seed(2))
    x = 0.5 * y[:, None] + 0.1
    world = SimpleNamespace(test=Table(x, y, torch.arange(60)), validation=Table(x, y, torch.arange(60)))
    residual = float((y - x[:, 0]).square().sum() / (y - y.mean()).square().sum())
    assert labelled.number_scores(world, nn.Identity()) == {"R squared": pytest.approx(1 - residual, rel=1e-5)}
    assert labelled.valid_r_squared(world, nn.Identity(), {}) == pytest.approx(1 - residual, rel=1e-5)
    larger = SimpleNamespace(test=Table(3 * x, 3 * y, torch.arange(60)))
    assert labelled.number_scores(larger, nn.Identity())["R squared"] == pytest.approx(1 - residual, rel=1e-5)


def test_estimators_are_called_like_networks_and_know_of_classes_that_they_never_saw():
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(3)), torch.arange(30) % 2
    data = Labelled(Table(x, y, torch.arange(30)), classes=3)
    model = Fitted(partial(logistic, strength=2.0)).edit(nn.Identity(), data, steps=5)
    expected = LogisticRegression(C=0.5, max_iter=500).fit(x.numpy(), y.numpy()).predict_proba(x.numpy())
    np.testing.assert_allclose(model(x).softmax(1)[:, :2], expected, atol=1e-5)
    assert (model(x)[:, 2] < -10).all()
    assert model(x).isfinite().all()
    numbers = Labelled(Table(x, x.sum(1), torch.arange(30)), classes=0)
    assert torch.allclose(
        Fitted(partial(ridge, strength=1e-6)).edit(nn.Identity(), numbers)(x)[:, 0], x.sum(1), atol=1e-3
    )


def test_what_is_measured_is_read_in_eval_mode_and_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)).train()
    world, _, _ = toy(torch.zeros(60, dtype=torch.long))
    labelled.class_scores(world, model)
    assert model.training
    assert model[1].num_batches_tracked == 0
