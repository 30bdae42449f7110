"""Pairs of docstrings: which bodies are alike, disjoint test parts, and labels of the false negatives."""

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from palimpsest.tasks import docpairs as room
from palimpsest.tasks.docpairs import CORPORA, CORPUS, QUARTERS, VALIDATION, Pairs, alike, digest, docpairs
from palimpsest.tasks.docstrings import docstrings
from palimpsest.tasks.fresh import check_disjoint


@pytest.fixture(scope="module", autouse=True)
def pool():
    """The docstrings are read and compared once, which is no test's own time."""
    return room._pairs()


def test_texts_are_alike_by_the_share_of_their_runs_as_counted_naively():
    rng = np.random.default_rng(0)
    base = [f"w{number}" for number in rng.integers(0, 50, 60)]
    texts = [" ".join(base), "short one", "Short, one!", ""]
    for changed in (1, 1, 2, 3, 8):
        words = list(base)
        for place in rng.integers(0, 60, changed):
            words[place] = "other"
        texts.append(" ".join(words))
    runs = []
    for text in texts:
        words = room._words(text)
        runs.append({tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))})
    near = np.array([[len(a & b) >= 0.8 * len(a | b) for b in runs] for a in runs])
    for _ in texts:  # connected through others
        near = (near.astype(int) @ near) > 0
    numbers = alike(texts)
    assert ((numbers[:, None] == numbers) == near).all()
    assert 1 < len(set(numbers.tolist())) < len(texts)


def test_a_pair_is_one_line_and_a_body_of_some_words():
    body = "one two three four five six seven eight nine ten"
    assert room._pair(f"Fit the model.\n\n{body}\n\nMore.") == ("Fit the model.", f"{body}\n\nMore.")
    for text in (f"Fit the\nmodel.\n\n{body}", f"Fit it.\n\n{body}", "Fit the model.\n\nToo short.", "Fit the model."):
        assert room._pair(text) is None


def test_twenty_seeds_ask_different_questions_and_five_have_nothing_in_common(pool):
    tests = [docpairs(seed).test for seed in range(100, 120)]
    assert {len(test) for test in tests} == {CORPUS}
    asked = torch.cat([test[test.asked].index for test in tests])
    assert asked.unique().numel() == len(asked) == CORPORA * CORPUS
    check_disjoint(**{str(seed): test.index.tolist() for seed, test in enumerate(tests[:CORPORA])})
    assert torch.equal(tests[0].index, tests[CORPORA].index)
    assert torch.equal(sum(tests[CORPORA * quarter].asked.int() for quarter in range(QUARTERS)), torch.ones(CORPUS))


def test_no_body_nor_one_that_is_like_it_is_in_two_splits_of_any_seeds():
    tested = {f"test{corpus}": docpairs(corpus).test for corpus in range(CORPORA)}
    splits = {"train": docpairs(3).train, "later": docpairs(60).train, "validation": docpairs(3).validation, **tested}
    assert len(splits["validation"]) == VALIDATION
    assert splits["train"].asked.all()
    del splits["later"]
    check_disjoint(**{name: split.content.tolist() for name, split in splits.items()})
    check_disjoint(**{name: split.body for name, split in splits.items()})
    assert not torch.isin(docpairs(60).train.content, torch.cat([test.content for test in tested.values()])).any()


def test_smaller_training_sets_are_contained_in_larger_ones_and_seeds_differ():
    small, large = docpairs(3, train=50).train, docpairs(3, train=200).train
    assert torch.isin(small.index, large.index).all()
    assert not torch.equal(small.index, docpairs(4, train=50).train.index)


def test_a_pair_is_what_its_docstring_says(pool):
    for row in docpairs(0).train[:50].index.tolist():
        assert room._pair(docstrings()[row].text) is not None
    pair = docpairs(0).train[:1]
    assert docstrings()[int(pair.index)].text.startswith(pair.summary[0])
    assert docstrings()[int(pair.index)].text.endswith(pair.body[0])


def test_answers_are_the_own_body_those_like_it_and_those_of_the_same_summary():
    pairs = Pairs(
        ("Fit it.", "fit it", "Other."),
        ("a", "b", "a!"),
        torch.tensor([0, 0, 1]),
        torch.tensor([0, 1, 0]),
        torch.tensor([True, True, False]),
        torch.arange(3),
    )
    right = [[True, True, True], [True, True, False]]
    assert pairs[pairs.asked].answers(pairs).tolist() == right
    test = docpairs(0).test
    answers = test[test.asked].answers(test)
    assert answers[torch.arange(CORPUS // QUARTERS), test.asked.nonzero()[:, 0]].all()
    assert 0.05 < (answers.sum(1) > 1).float().mean() < 0.25


def test_words_in_common_find_less_than_half_of_the_bodies():
    test = docpairs(0).test
    queries = test[test.asked]
    words = TfidfVectorizer(max_features=20_000).fit(test.body)
    first = (words.transform(queries.summary) @ words.transform(test.body).T).toarray().argmax(1)
    strict = (first == test.asked.nonzero()[:, 0].numpy()).mean()
    lenient = queries.answers(test)[torch.arange(len(queries)), torch.from_numpy(first)].float().mean()
    assert 0.3 < strict < lenient < 0.6


def test_the_digest_is_of_all_pairs(pool):
    assert len(digest()) == 64
    assert len(pool) > 12_000


@pytest.mark.parametrize("train", [0, 100_000])
def test_a_training_set_that_cannot_be_had_is_refused(train):
    with pytest.raises(ValueError, match="train must be from 1 to "):
        docpairs(0, train=train)
