"""R@1, ranks, discounted gain and average precision: by hand, with naive versions, and on what they cannot mean."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from palimpsest.metrics.retrieval import average_precision, discounted_gain, ranks, recall_at_1


def test_recall_counts_every_key_that_fits():
    query = torch.eye(3)
    key = query[[1, 0, 2]]
    assert recall_at_1(query, query) == (1.0, 1.0)
    assert recall_at_1(query, key) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    fitting = torch.eye(3, dtype=torch.bool)
    fitting[0, 1] = True  # the second key, nearest to the first query, fits it
    assert recall_at_1(query, key, fitting) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    with pytest.raises(ValueError, match=r"fitting must be \[3, 3\]"):
        recall_at_1(query, key, fitting[:2])


def test_recall_is_that_of_a_search_one_by_one():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 20, 4, generator=generator)
    fitting = (torch.rand(20, 20, generator=generator) < 0.2) | torch.eye(20, dtype=torch.bool)
    nearest = [max(range(20), key=lambda j, row=row: float(row @ key[j])) for row in query]
    forth = sum(bool(fitting[i, j]) for i, j in enumerate(nearest)) / 20
    assert recall_at_1(query, key, fitting)[0] == pytest.approx(forth)
    assert recall_at_1(key, query, fitting.T) == recall_at_1(query, key, fitting)[::-1]


@pytest.mark.parametrize(
    ("query", "key", "words"),
    [
        (torch.ones(2, 3), torch.ones(3, 3), r"\[n, dim\]"),
        (torch.ones(3), torch.ones(3), r"\[n, dim\]"),
        (torch.ones(0, 3), torch.ones(0, 3), r"\[n, dim\]"),
        (torch.ones(2, 3), torch.full((2, 3), torch.nan), "key must be finite"),
    ],
)
def test_recall_refuses_what_is_no_pairs_of_embeddings(query, key, words):
    with pytest.raises(ValueError, match=words):
        recall_at_1(query, key)


def test_a_rank_is_the_place_in_a_sorted_row_and_the_mean_place_of_equals():
    scores = torch.randint(0, 5, (50, 12), generator=torch.Generator().manual_seed(0)).float()
    right = torch.arange(50) % 12
    for row, item, rank in zip(scores.tolist(), right.tolist(), ranks(scores, right).tolist(), strict=True):
        places = [place for place, score in enumerate(sorted(row, reverse=True), start=1) if score == row[item]]
        assert rank == pytest.approx(sum(places) / len(places))


def test_an_item_that_is_left_out_has_no_place_before_the_others():
    assert ranks(torch.tensor([[-torch.inf, 0.0, 1.0]]), torch.tensor([1])).tolist() == [2.0]


def test_gain_falls_with_the_logarithm_of_the_rank_and_ends_at_k():
    found = discounted_gain(torch.arange(1.0, 6.0), 4).tolist()
    assert found == pytest.approx([1 / math.log2(1 + rank) for rank in range(1, 5)] + [0.0])


@pytest.mark.parametrize(
    ("scores", "right", "words"),
    [(torch.ones(3), torch.zeros(3), "scores must be"), (torch.full((1, 2), torch.nan), torch.tensor([0]), "NaN")],
)
def test_ranks_refuse_what_cannot_be_ranked(scores, right, words):
    with pytest.raises(ValueError, match=words):
        ranks(scores, right)


def test_average_precision_is_that_of_scikit_learn_and_0_without_a_right_answer():
    generator = torch.Generator().manual_seed(0)
    hits = torch.rand(6, 40, generator=generator) < 0.2
    hits[0] = False
    found = average_precision(hits)
    assert found[0] == 0
    scores = -np.arange(40.0)
    for row, value in zip(hits[1:], found[1:], strict=True):
        assert float(value) == pytest.approx(average_precision_score(row.numpy(), scores), rel=1e-5)
    with pytest.raises(ValueError, match=r"hits must be booleans \[queries, ranks\]"):
        average_precision(torch.ones(2, 3))
