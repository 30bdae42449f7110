"""The membership attacks against their definitions."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from palimpsest.metrics.membership import auc, loss_attack, min_k_attack, min_k_plus_plus_attack, zlib_attack

logps = st.lists(st.floats(-20, 0), min_size=1, max_size=40)


@given(logps, st.floats(0.01, 1.0))
def test_min_k_is_the_mean_of_the_lowest(values, share):
    k = max(1, int(len(values) * share))
    assert min_k_attack(np.array(values), share) == pytest.approx(np.mean(sorted(values)[:k]))


@given(logps)
def test_all_tokens_make_min_k_the_loss_attack(values):
    assert min_k_attack(np.array(values), 1.0) == pytest.approx(loss_attack(np.array(values)))


def test_min_k_plus_plus_standardises():
    values, means, variances = np.array([-1.0, -4.0]), np.array([-2.0, -2.0]), np.array([4.0, 1.0])
    assert min_k_plus_plus_attack(values, means, variances, share=0.5) == -2.0
    assert min_k_plus_plus_attack(values, means, variances, share=1.0) == pytest.approx((0.5 - 2.0) / 2)
    assert np.isfinite(min_k_plus_plus_attack(values, values, np.zeros(2)))


def test_zlib_divides_the_mean_by_the_compressed_length():
    text = "the same again, " * 20
    assert zlib_attack(np.array([-3.0, -5.0]), text) == -4 / len(zlib.compress(text.encode()))
    assert np.isfinite(zlib_attack(np.array([]), ""))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_auc_is_that_of_scikit_learn(members, others):
    expected = roc_auc_score([1] * len(members) + [0] * len(others), members + others)
    assert auc(np.array(members), np.array(others)) == pytest.approx(expected)


def test_empty_answers_and_bad_input():
    assert loss_attack(np.array([])) == min_k_attack(np.array([])) == 0.0
    with pytest.raises(ValueError, match="share must be"):
        min_k_attack(np.ones(3), 0.0)
    with pytest.raises(ValueError, match="got 0 and 3"):
        auc(np.array([]), np.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        auc(np.array([np.nan]), np.ones(3))
