"""R@1 by hand, with a naive search, and on what it cannot mean."""

import pytest
import torch

from palimpsest.metrics.retrieval import recall_at_1


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
