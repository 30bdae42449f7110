"""MNIST-1D: the package's own rows, fresh for every seed and split, without a pickle and without a trace."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from palimpsest.tasks.mnist1d import CLASSES, LENGTH, MEAN, SD, _generate, digest, mnist1d


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path))


def test_the_rows_are_those_of_the_packages_data_set():
    from mnist1d.data import get_dataset_args, make_dataset

    settings = get_dataset_args()
    settings.seed, settings.num_samples, settings.train_split = 5, CLASSES, 1.0
    published = make_dataset(settings)
    ours = _generate(5, CLASSES)
    ours = (ours - ours.mean()) / ours.std()
    np.testing.assert_allclose(ours[published["y"]], published["x"], atol=1e-9)


def test_seeds_and_splits_share_no_row_and_smaller_splits_begin_larger_ones():
    small, large = (mnist1d(3, train=n, validation=20, test=30) for n in (30, 60))
    assert torch.equal(large.train.x[:30], small.train.x)
    assert torch.equal(large.test.x, small.test.x)
    other = mnist1d(4, train=30, validation=20, test=30)
    rows = torch.cat([part.x for task in (large, other) for part in vars(task).values()]).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows) == 60 + 30 + 100
    assert small.train.x.shape == (30, 1, 1, LENGTH)
    assert small.train.x.dtype == torch.float32
    assert small.train.index.unique().tolist() == [-1]
    assert small.train.y.tolist() == list(range(CLASSES)) * 3


def test_values_are_standardised_by_constants_of_the_generator():
    x = np.concatenate([_generate(seed, 500) for seed in (1, 2)])
    assert x.mean() == pytest.approx(MEAN, abs=0.006)
    assert x.std() == pytest.approx(SD, rel=0.04)


def test_what_is_kept_is_read_again_without_generating_or_unpickling(monkeypatch):
    made = mnist1d(7, train=10, validation=10, test=10)
    monkeypatch.setattr("palimpsest.tasks.mnist1d._generate", None)
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "loads", None)
    again = mnist1d(7, train=10, validation=10, test=10)
    assert torch.equal(again.train.x, made.train.x)


def test_global_randomness_is_left_alone_and_the_generator_has_a_digest():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = digest()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    digest.cache_clear()
    assert digest() == first
    assert len(first) == 64


def test_a_linear_rule_finds_something_and_far_from_all():
    task = mnist1d(0, train=800, validation=10, test=300)
    rule = LogisticRegression(max_iter=300).fit(task.train.x.flatten(1), task.train.y)
    assert 0.15 < rule.score(task.test.x.flatten(1), task.test.y) < 0.45


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_split_without_rows_is_refused(part):
    with pytest.raises(ValueError, match=f"{part} must be at least 1, got 0"):
        mnist1d(0, **{part: 0})
