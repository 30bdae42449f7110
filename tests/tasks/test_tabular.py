"""The tables: splits without leaks, standardised by the training rows, and views that hide what they should."""

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.linear_model import LogisticRegression, Ridge
from statsmodels import datasets as statsmodels_datasets

from palimpsest.tasks.tabular import (
    TABLES,
    cross_validated,
    digest,
    facts,
    feature_mask,
    masked,
    masked_batches,
    masked_views,
    one_hot,
    tabular,
)

SHAPES = {
    "iris": (149, 4),
    "wine": (178, 13),
    "breast_cancer": (569, 30),
    "diabetes": (442, 10),
    "modechoice": (210, 17),
    "randhie": (20190, 7),
    "randhie_visits": (20190, 7),
}
SCIKIT_LEARNS = TABLES[:4]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_in_one_split(name):
    task = tabular(name, 3)
    parts = (task.train, task.validation, task.test)
    index = torch.cat([part.index for part in parts])
    rows, features = SHAPES[name]
    assert len(index) == len(index.unique()) == rows
    assert all(part.x.shape == (len(part), features) and part.x.dtype == torch.float32 for part in parts)
    assert len(task.test) == pytest.approx(0.3 * rows, abs=60 if name.startswith("randhie") else 0.5)
    assert len(facts(name).features) == len(facts(name).kinds) == features
    assert task.train.y.dtype == (torch.int64 if facts(name).classes else torch.float32)


@pytest.mark.parametrize("name", SCIKIT_LEARNS)
def test_the_values_are_scikit_learns_standardised_by_the_training_rows(name):
    load = getattr(datasets, f"load_{name}")
    table = load(scaled=False) if name == "diabetes" else load()
    task = tabular(name, 1, train=60)
    train = table.data[task.train.index.numpy()]
    for part in (task.train, task.validation, task.test):
        expected = (table.data[part.index.numpy()] - train.mean(0)) / train.std(0)
        np.testing.assert_allclose(part.x.numpy(), expected, atol=1e-5, rtol=1e-5)
    targets = table.target[task.test.index.numpy()]
    if name == "diabetes":
        of_train = table.target[task.train.index.numpy()]
        targets = (targets - of_train.mean()) / of_train.std()
    np.testing.assert_allclose(task.test.y.numpy(), targets, rtol=1e-5, atol=1e-6)


def test_the_raw_table_is_in_its_units():
    task = tabular("diabetes", 0, raw=True)
    table = datasets.load_diabetes(scaled=False)
    np.testing.assert_allclose(task.train.x.numpy(), table.data[task.train.index.numpy()], rtol=1e-6)
    np.testing.assert_allclose(task.train.y.numpy(), table.target[task.train.index.numpy()])


@pytest.mark.parametrize("name", [*TABLES[:3], "modechoice", "randhie"])
def test_splits_are_stratified(name):
    task = tabular(name, 5)
    shares = [part.y.bincount(minlength=len(facts(name).classes)) / len(part) for part in vars(task).values()]
    for share in shares[1:]:
        assert (share - shares[0]).abs().max() < 0.05


@pytest.mark.parametrize("name", TABLES)
def test_twenty_seeds_are_tested_on_every_row_once(name):
    tasks = [cross_validated(name, seed) for seed in range(100, 120)]
    rows = SHAPES[name][0]
    tested = torch.cat([task.test.index for task in tasks])
    assert len(tested) == len(tested.unique()) == rows
    for task in tasks[:3]:
        assert len(task.test) == pytest.approx(rows / 20, abs=125 if name.startswith("randhie") else 1)
        index = torch.cat([part.index for part in vars(task).values()])
        assert len(index) == len(index.unique()) == rows
    assert torch.equal(cross_validated(name, 120).test.index, tasks[0].test.index)
    assert not torch.equal(cross_validated(name, 120).train.index, tasks[0].train.index)
    small = cross_validated(name, 101, train=30)
    assert torch.equal(small.train.index, tasks[1].train.index[:30])
    assert torch.equal(small.validation.index, tasks[1].validation.index)


def test_parts_of_a_fold_are_stratified():
    overall = tabular("modechoice", 0).train.y.bincount() / len(tabular("modechoice", 0).train)
    for seed in range(20):
        counts = cross_validated("modechoice", seed).test.y.bincount(minlength=4)
        assert (counts - overall * counts.sum()).abs().max() < 2.5


@pytest.mark.parametrize("split", [tabular, cross_validated])
def test_rows_of_a_household_stay_together(split):
    table = statsmodels_datasets.randhie.load_pandas().data
    plan = table[["lncoins", "idp", "lpi", "fmde"]].to_numpy()
    person = table[["physlm", "disea", "hlthg", "hlthf", "hlthp"]].to_numpy()
    for seed in (0, 1):
        part_of = np.empty(len(table))
        for number, part in enumerate(vars(split("randhie", seed)).values()):
            part_of[part.index.numpy()] = number
        train = split("randhie", seed, train=100).train
        assert len(train.index.div(100, rounding_mode="floor").unique()) > 60, "few rows are of many households"
        parted = np.flatnonzero(part_of[1:] != part_of[:-1])
        assert len(parted) > 100
        assert (plan[parted] != plan[parted + 1]).any(1).all(), "no plan, and so no family, is cut"
        assert (person[parted] != person[parted + 1]).any(1).all(), "no person is cut"


def test_randhie_holds_statsmodels_columns_and_health_as_a_category():
    table = statsmodels_datasets.randhie.load_pandas().data
    classes, numbers = (tabular(name, 0, raw=True).test for name in ("randhie", "randhie_visits"))
    rows = table.iloc[classes.index.numpy()]
    assert torch.equal(classes.index, tabular("randhie", 0).test.index)
    visits = rows["mdvis"].to_numpy()
    assert (classes.y.numpy() == np.where(visits == 0, 0, np.where(visits <= 3, 1, 2))).all()
    rows_of_numbers = table.iloc[numbers.index.numpy()]
    np.testing.assert_allclose(numbers.y.numpy(), np.log(1 + rows_of_numbers["mdvis"]), rtol=1e-5)
    known = facts("randhie")
    assert known.kinds == ("number", "binary", "number", "number", "number", "number", "category")
    np.testing.assert_allclose(classes.x[:, :6], rows[list(known.features[:6])], rtol=1e-6)
    wide = one_hot(classes.x, known)
    assert torch.equal(wide[:, :6], classes.x[:, :6])
    np.testing.assert_array_equal(wide[:, 7:], rows[["hlthg", "hlthf", "hlthp"]])
    assert torch.equal(wide[:, 6:].sum(1), torch.ones(len(wide)))
    standardised = tabular("randhie", 0).train.x
    assert set(standardised[:, 6].unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert standardised[:, :6].std(0).sub(1).abs().max() < 1e-3


def test_modechoice_has_a_row_for_every_traveller():
    table = statsmodels_datasets.modechoice.load_pandas().data
    task = tabular("modechoice", 0, raw=True).test
    known = facts("modechoice")
    for x, y, traveller in zip(task.x[:20], task.y[:20], task.index[:20], strict=True):
        rows = table[table["individual"] == int(traveller) + 1]
        assert rows[rows["choice"] == 1]["mode"].item() == int(y) + 1
        values = dict(zip(known.features, x.tolist(), strict=True))
        for place, mode in enumerate(known.classes):
            row = rows[rows["mode"] == place + 1].iloc[0]
            for column in ("invc", "invt", "gc", *(("ttme",) if mode != "car" else ())):
                assert values[f"{mode} {column}"] == row[column]
        assert values["hinc"] == rows["hinc"].iloc[0]
        assert values["psize"] == rows["psize"].iloc[0]


def test_facts_and_digests_are_of_their_table():
    kinds = dict(zip(facts("diabetes").features, facts("diabetes").kinds, strict=True))
    assert {name for name, kind in kinds.items() if kind == "binary"} == {"sex"}
    assert facts("diabetes").classes == facts("randhie_visits").classes == ()
    assert facts("wine").target == "cultivar"
    digests = {digest(name) for name in TABLES}
    assert len(digests) == len(TABLES)
    assert {len(each) for each in digests} == {64}
    with pytest.raises(ValueError, match=r"x must be \[rows, 7\], got \[3, 4\]"):
        one_hot(torch.ones(3, 4), facts("randhie"))


def test_numbers_are_stratified_by_size():
    for seed in range(5):
        task = tabular("diabetes", seed, raw=True)
        assert abs(task.test.y.mean() - task.train.y.mean()) < 10  # of a standard deviation of 77


def test_seeds_differ_and_repeat_and_smaller_training_sets_are_contained():
    a, b, other = (tabular("wine", seed).test.index for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    small, large = tabular("wine", 2, train=30), tabular("wine", 2)
    assert torch.equal(large.train.index[:30], small.train.index)
    assert torch.equal(large.test.index, small.test.index)
    assert not torch.equal(large.test.x, small.test.x), "standardised by fewer rows"


def test_a_feature_that_is_constant_in_training_stays_finite():
    task = tabular("breast_cancer", 0, train=1)
    assert task.train.x.abs().max() == 0
    assert task.test.x.isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_the_tables_can_be_learned(seed):
    for name, floor in (("iris", 0.85), ("wine", 0.9), ("breast_cancer", 0.92)):
        task = tabular(name, seed)
        score = LogisticRegression(max_iter=500).fit(task.train.x, task.train.y).score(task.test.x, task.test.y)
        assert score > floor
    task = tabular("modechoice", seed)
    assert 0.6 < LogisticRegression(max_iter=500).fit(task.train.x, task.train.y).score(task.test.x, task.test.y) < 0.95
    task = tabular("diabetes", seed)
    assert 0.2 < Ridge().fit(task.train.x, task.train.y).score(task.test.x, task.test.y) < 0.8


def test_masks_hide_an_exact_number_of_features_everywhere():
    mask = feature_mask(2000, 13, 0.3, gen())
    assert (mask.sum(1) == 4).all()
    assert mask.float().mean(0).sub(4 / 13).abs().max() < 0.05
    assert not feature_mask(5, 13, 0.0, gen()).any()
    assert feature_mask(5, 13, 1.0, gen()).all()


def test_what_is_masked_is_zero_or_another_rows_value_of_the_same_feature():
    x = torch.arange(12.0).reshape(4, 3) + 1
    mask = feature_mask(4, 3, 0.34, gen())
    hidden = masked(x, mask)
    assert torch.equal(hidden == 0, mask)
    assert torch.equal(hidden[~mask], x[~mask])
    pool = torch.arange(30.0).reshape(10, 3) + 100
    filled = masked(x, mask, pool=pool, generator=gen(1))
    assert torch.equal(filled[~mask], x[~mask])
    assert torch.equal((filled[mask].long() - 100) % 3, mask.nonzero()[:, 1])
    everything = masked(x.new_zeros(4000, 3), torch.ones(4000, 3, dtype=torch.bool), pool=pool, generator=gen(2))
    assert everything[:, 0].unique().tolist() == pool[:, 0].tolist(), "every donor occurs"


def test_views_hide_features_of_their_own_and_batches_are_a_function_of_seed_and_step():
    train = tabular("wine", 0).train
    made = masked_views(train.x, gen(), n=3, rate=0.5)
    assert made.shape == (len(train), 3, 13)
    assert not torch.equal(made[:, 0], made[:, 1])
    assert torch.equal(masked_views(train.x, gen(), n=3, rate=0.5), made)
    a, b, other = (masked_batches(train, 16, seed=seed, fill="other rows")(4) for seed in (1, 1, 2))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["views"], other["views"])
    assert torch.equal(a["labels"], train.y[a["index"]])
    shown = masked_batches(train, 16, rate=0.0)(0)
    assert torch.equal(shown["views"][:, 1], train.x[shown["index"]])


def test_rows_as_a_batch():
    train = tabular("iris", 0).train
    batch = train.batch(slice(2, 5))
    assert torch.equal(batch["x"], train.x[2:5])
    assert batch["index"].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tabular("titanic", 0), "one of iris, wine, breast_cancer, diabetes, modechoice, .* got 'titanic'"),
        (lambda: tabular("iris", 0, test=1.0), r"test must be a share in \[0, 1\), got 1.0"),
        (lambda: tabular("iris", 0, test=0.6, validation=0.4), "must leave rows to train on"),
        (lambda: cross_validated("iris", 0, folds=1), "folds must be from 2 to the 149 rows, got 1"),
        (lambda: cross_validated("iris", 0, validation=1.0), r"share in \[0, 1\), got 1.0"),
        (lambda: cross_validated("iris", 0, validation=0.99), "must leave rows to train on"),
        (lambda: tabular("iris", 0, train=100), "from 1 to the 82 rows that remain, got 100"),
        (lambda: feature_mask(2, 3, 1.5, gen()), "rate must be from 0 to 1, got 1.5"),
        (lambda: masked(torch.ones(2, 3), torch.ones(3, 2).bool()), "x and mask must be"),
        (lambda: masked(torch.ones(2, 3), torch.ones(2, 3).bool(), pool=torch.ones(4, 2)), r"pool must be \[rows, 3\]"),
        (lambda: masked_views(torch.ones(2, 3), gen(), n=0), "n must be at least 1, got 0"),
        (lambda: masked_batches(tabular("iris", 0).train, 8, fill="noise"), "got 'noise'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
