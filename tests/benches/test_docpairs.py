"""Summaries look for their bodies: words are numbered, bodies apart from training, measures agree with naive ones."""

import math

import pytest
import torch

from palimpsest.benches import docpairs_world
from palimpsest.benches.docpairs import DOCPAIRS
from palimpsest.benches.docpairs_world import (
    BUCKETS,
    FIRST,
    LONGEST,
    RETRIEVAL,
    Docstrings,
    measures,
    numbers,
    validate,
)
from palimpsest.tasks.docpairs import Pairs
from palimpsest.tasks.splits import Splits


def pairs(summaries, bodies):
    place = torch.arange(len(bodies))
    return Pairs(tuple(summaries), tuple(bodies), place, place, place < 2, place)


@pytest.fixture
def few(monkeypatch):
    """The world on a handful of pairs, so that no package's docstrings are read."""
    rows = pairs(["open a file", "close the door", "draw lines"], ["file to open", "a door to close", "lines drawn"])
    monkeypatch.setattr(docpairs_world, "docpairs", lambda seed, train: Splits(rows, rows, rows))


@pytest.mark.parametrize("name", DOCPAIRS.recipes)
def test_every_arm_runs_and_is_measured_alike(name):
    found = DOCPAIRS.arm(name)(200, "smoke")
    assert set(found) >= {RETRIEVAL, FIRST}


def test_a_text_is_its_different_words_whatever_their_case():
    found = numbers(("Fit, fit the MODEL", "the model", " ".join(f"w{n}" for n in range(300))))
    assert found.shape == (3, LONGEST)
    first, second = (set(row[row > 0].tolist()) for row in found[:2])
    assert second < first
    assert len(first) == 3
    assert found.max() <= BUCKETS


@pytest.mark.usefixtures("few")
def test_measures_are_of_the_summaries_that_ask_in_the_order_of_cosines():
    world = Docstrings(0)
    model = world.model("tf-idf")
    assert measures(world, model) == {RETRIEVAL: 1.0, FIRST: 1.0}
    assert validate(world, model, {}) == 1.0
    idf = world.inverse_frequencies
    assert float(idf[numbers(("door",))[0, 0]]) == pytest.approx(math.log(7 / 3))
    shuffled = world.splits.test
    swapped = Pairs(**{**vars(shuffled), "body": (shuffled.body[1], shuffled.body[0], shuffled.body[2])})
    world.__dict__["splits"] = Splits(shuffled, shuffled, swapped)
    assert measures(world, model)[FIRST] == 0.0
    assert 1 / 3 <= measures(world, model)[RETRIEVAL] <= 1 / 2


@pytest.mark.usefixtures("few")
def test_an_embedding_is_the_weighted_sum_of_the_vectors_of_the_words():
    world = Docstrings(3)
    model = world.model("encoder")
    text = numbers(("open the door", "file"))
    found = model(text)
    for row, embedding in zip(text, found, strict=True):
        words = row[row > 0]
        assert torch.allclose(embedding, (model.weights[words, None] * model.vectors.weight[words]).sum(0), atol=1e-5)
    found.sum().backward()
    assert model.weights.grad.count_nonzero() > 0
    assert model.weights.grad[0] == 0
