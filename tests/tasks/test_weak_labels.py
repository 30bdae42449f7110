"""Few, confused and ambiguous labels: exact counts, the truth kept, and no dependence on the image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.tasks.splits import Split
from palimpsest.tasks.weak_labels import CONFUSIONS, candidate_sets, confused, few_labels, with_candidates


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def split_of(y):
    y = torch.as_tensor(y)
    return Split(torch.rand(len(y), 1, 1, 1, generator=gen()), y, torch.arange(len(y)))


@given(st.integers(0, 1000), st.integers(1, 30))
def test_every_class_keeps_as_many_labels_as_asked(seed, per_class):
    split = split_of(torch.arange(300) % 10)
    few = few_labels(split, per_class, gen(seed))
    labelled = few[few.y >= 0]
    assert labelled.y.bincount().tolist() == [per_class] * 10
    assert torch.equal(labelled.y, labelled.clean_y)
    assert torch.equal(few.clean_y, split.y)
    assert torch.equal(few.x, split.x)
    more = few_labels(split, 30, gen(seed))
    assert (more.y[few.y >= 0] >= 0).all()


def test_labels_are_kept_anywhere_in_the_split():
    kept = few_labels(split_of(torch.arange(20_000) % 10), 500, gen()).y.view(4, -1) >= 0
    assert (kept.float().mean(1) - 0.25).abs().max() < 0.03


@given(st.integers(0, 1000), st.floats(0, 1))
def test_confused_classes_have_the_rate_and_others_none(seed, rate):
    split = split_of(torch.arange(400) % 10)
    made = confused(split, rate, gen(seed))
    assert torch.equal(made.clean_y, split.y)
    for label in range(10):
        wrong = made.y[(split.y == label) & (made.y != split.y)]
        assert len(wrong) == (round(rate * 40) if label in CONFUSIONS else 0)
        assert (wrong == CONFUSIONS.get(label, -1)).all()


def test_which_rows_are_confused_is_random_and_a_second_round_keeps_the_truth():
    split = split_of(torch.full((8000,), 7))
    made = confused(split, 0.25, gen())
    assert ((made.y != split.y).view(4, -1).float().mean(1) - 0.25).abs().max() < 0.03
    assert torch.equal(confused(made, 0.5, gen(1)).clean_y, split.y)
    assert confused(split, 1.0, gen(), confusions={7: 4}).y.unique().tolist() == [4]


def test_candidate_sets_hold_the_truth_and_every_other_class_equally_often():
    y = torch.arange(10).repeat(2000)
    sets = candidate_sets(y, 0.3, gen())
    assert sets[torch.arange(len(y)), y].all()
    for label in range(10):
        others = torch.cat([sets[y == label, :label], sets[y == label, label + 1 :]], 1)
        assert (others.float().mean(0) - 0.3).abs().max() < 0.05
    assert torch.equal(candidate_sets(y, 0, gen()).long().argmax(1), y)
    assert candidate_sets(y, 1, gen()).all()


def test_with_candidates_shows_no_label_but_the_set():
    split = split_of(torch.arange(100) % 10)
    made = with_candidates(split, 0.4, gen())
    assert made.y.unique().tolist() == [-1]
    assert torch.equal(made.clean_y, split.y)
    assert torch.equal(made.candidates, candidate_sets(split.y, 0.4, gen()))
    assert torch.equal(made[[5, 3]].candidates, made.candidates[[5, 3]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: few_labels(split_of([0, 0, 1]), 2, gen()), "from 1 to the 1 rows of the rarest class, got 2"),
        (lambda: few_labels(split_of([0, 1]), 0, gen()), "got 0"),
        (lambda: few_labels(split_of([0, -1]), 1, gen()), "one label from 0"),
        (lambda: confused(split_of([0]), 1.1, gen()), "rate must be from 0 to 1, got 1.1"),
        (lambda: confused(split_of([-1]), 0.5, gen()), "one label from 0"),
        (lambda: candidate_sets(torch.tensor([3]), -0.1, gen()), "got -0.1"),
        (lambda: candidate_sets(torch.tensor([3]), 0.1, gen(), classes=3), "from 0 to 2, got 3"),
        (lambda: candidate_sets(torch.tensor([0.5]), 0.1, gen()), "one label from 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
