import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.tasks.digits import digits
from palimpsest.tasks.digits_labels import (
    correlated,
    digits_longtail,
    digits_noisy,
    drop_positives,
    exponential_counts,
    long_tail,
    noisy,
    single_positive,
    subsample,
    with_frequencies,
)
from palimpsest.tasks.splits import Split


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def split_of(y):
    y = torch.as_tensor(y)
    return Split(torch.zeros(len(y), 1, 1, 1), y, torch.arange(len(y)))


@given(st.integers(0, 1000), st.floats(0, 1), st.sampled_from(["symmetric", "pair"]))
@settings(deadline=None)
def test_exactly_the_rate_is_wrong_and_the_truth_is_kept(seed, rate, kind):
    split = split_of(torch.arange(300) % 10)
    made = noisy(split, rate, gen(seed), kind=kind)
    assert torch.equal(made.clean_y, split.y)
    assert (made.y != made.clean_y).sum() == round(rate * 300)
    assert 0 <= made.y.min() <= made.y.max() <= 9


def test_symmetric_noise_is_uniform_over_the_other_classes_and_pairs_go_to_the_next():
    split = split_of(torch.zeros(90_000, dtype=torch.long))
    counts = noisy(split, 1.0, gen()).y.bincount(minlength=10)
    assert counts[0] == 0
    assert (counts[1:] - 10_000).abs().max() < 400  # four standard deviations
    assert noisy(split_of([9, 3, 9]), 1.0, gen(), kind="pair").y.tolist() == [0, 4, 0]
    assert noisy(split_of([1, 0]), 1.0, gen(), classes=2).y.tolist() == [0, 1]


def test_noise_does_not_depend_on_the_image_and_truth_survives_a_second_round():
    once = noisy(split_of(torch.arange(100) % 10), 0.3, gen(0))
    twice = noisy(once, 0.3, gen(1))
    assert torch.equal(twice.clean_y, once.clean_y)


def test_digits_noisy_keeps_images_and_test_labels():
    clean, made = digits(3, train=500), digits_noisy(3, 0.3, "pair", train=500)
    assert torch.equal(clean.train.x, made.train.x)
    assert torch.equal(clean.train.y, made.train.clean_y)
    assert torch.equal(clean.test.y, made.test.y)
    wrong = made.train.y != made.train.clean_y
    assert wrong.sum() == 150
    assert torch.equal(made.train.y[wrong], (made.train.clean_y[wrong] + 1) % 10)
    assert (made.validation.y != made.validation.clean_y).sum() == 60


@given(st.integers(0, 1000), st.floats(0, 1), st.integers(2, 10))
@settings(deadline=None)
def test_an_attribute_agrees_as_often_as_asked(seed, agreement, classes):
    y = torch.arange(200) % classes
    attribute = correlated(y, agreement, gen(seed), classes=classes)
    assert (attribute == y).sum() == round(agreement * 200)
    assert 0 <= attribute.min() <= attribute.max() < classes


def test_the_rows_that_are_wrong_are_random():
    y = torch.arange(20_000) % 10
    for made in (noisy(split_of(y), 0.2, gen()).y, correlated(y, 0.8, gen())):
        quarters = (made != y).view(4, -1).float().mean(1)
        assert (quarters - 0.2).abs().max() < 0.02


@given(st.integers(1, 500), st.floats(1, 200), st.integers(2, 100))
def test_exponential_counts_fall_from_head_to_head_over_imbalance(head, imbalance, classes):
    counts = exponential_counts(head, imbalance, classes)
    assert counts[0] == head
    assert counts[-1] == max(1, round(head / imbalance))
    assert list(counts) == sorted(counts, reverse=True)
    logs = np.log(np.maximum([head * imbalance ** (-k / (classes - 1)) for k in range(classes)], 1e-9))
    assert np.allclose(np.diff(logs), -np.log(imbalance) / (classes - 1))


def test_the_tail_of_100_classes_has_the_ends_of_its_definition():
    counts = exponential_counts(100, 20, 100)
    assert (counts[0], counts[-1], len(counts)) == (100, 5, 100)


@pytest.mark.parametrize("imbalance", [1, 10, 50, 100])
def test_digits_longtail_has_the_imbalance_and_a_balanced_test(imbalance):
    task = digits_longtail(1, imbalance)
    counts = task.train.y.bincount(minlength=10)
    assert counts[0] / imbalance == pytest.approx(int(counts[9]), abs=0.5 + 1e-6) or counts[9] == 1
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert torch.equal(task.test.index, digits(1).test.index)
    assert torch.isin(task.train.index, digits(1).train.index).all()


def test_the_tail_follows_the_order_of_classes():
    order = (3, 1, 4, 5, 9, 2, 6, 8, 7, 0)
    counts = digits_longtail(1, 50, order=order).train.y.bincount(minlength=10)
    assert counts[list(order)].tolist() == sorted(counts.tolist(), reverse=True)
    with pytest.raises(ValueError, match="every class from 0 to 9 once"):
        digits_longtail(1, 50, order=(0,) * 10)


def test_long_tail_shrinks_the_head_where_a_rare_class_is_short_and_refuses_an_absent_one():
    y = torch.cat([torch.full((100,), 0), torch.full((30,), 1)])
    made = long_tail(split_of(y), 1, gen(), order=(0, 1)).y.bincount()
    assert made.tolist() == [30, 30]
    with pytest.raises(ValueError, match="every class needs a row"):
        long_tail(split_of(torch.zeros(5, dtype=torch.long)), 2, gen(), order=(0, 1))


def test_subsample_takes_random_rows_in_their_order():
    split = split_of(torch.arange(100) % 2)
    made = subsample(split, (None, 5), gen())
    assert made.y.bincount().tolist() == [50, 5]
    assert made.index.tolist() == sorted(made.index.tolist())
    assert not torch.equal(made.index, subsample(split, (None, 5), gen(1)).index)
    with pytest.raises(ValueError, match="class 1 has 50 rows, asked for 51"):
        subsample(split, (1, 51), gen())
    with pytest.raises(ValueError, match="from 0 to 2, got 0 to 3"):
        subsample(split_of([0, 3]), (1, 1, 1), gen())


def test_test_distributions_mirror_each_other():
    test = digits(0).test
    forward = with_frequencies(test, "forward25", gen()).y.bincount(minlength=10)
    backward = with_frequencies(test, "backward25", gen()).y.bincount(minlength=10)
    assert forward[0] > 20 * forward[9]
    assert backward[9] > 20 * backward[0]
    assert len(with_frequencies(test, "uniform", gen()).y.bincount().unique()) == 1
    for kind in ("sideways50", "forward", "forward0.5"):
        with pytest.raises(ValueError, match=r"kind must be|imbalance >= 1"):
            with_frequencies(test, kind, gen())


@given(st.integers(0, 100))
@settings(deadline=None)
def test_a_single_positive_is_one_of_the_true_ones(seed):
    y = (torch.rand(50, 20, generator=gen(seed)) < 0.15).float()
    kept = single_positive(y, gen(seed))
    assert torch.equal(kept.sum(1), y.sum(1).clamp(max=1))
    assert (kept <= y).all()


def test_every_positive_is_kept_equally_often():
    y = torch.tensor([[1.0, 0.0, 1.0, 1.0]]).repeat(9000, 1)
    counts = single_positive(y, gen()).sum(0)
    assert counts[1] == 0
    assert (counts[[0, 2, 3]] - 3000).abs().max() < 200


def test_dropped_positives_are_as_many_as_asked():
    y = (torch.rand(100, 24, generator=gen()) < 0.1).float()
    dropped = drop_positives(y, 0.4, gen(1))
    assert dropped.sum() == y.sum() - round(0.4 * float(y.sum()))
    assert (dropped <= y).all()
    assert torch.equal(drop_positives(y, 0, gen()), y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noisy(split_of([0]), 1.2, gen()), "rate must be from 0 to 1, got 1.2"),
        (lambda: noisy(split_of([0]), 0.5, gen(), kind="odd"), "got 'odd'"),
        (lambda: noisy(split_of([0, 11]), 0.5, gen()), "from 0 to 9, got 0 to 11"),
        (lambda: noisy(split_of([0]), 0.5, gen(), classes=1), "classes must be at least 2, got 1"),
        (lambda: correlated(torch.tensor([0]), -0.1, gen()), "agreement must be from 0 to 1, got -0.1"),
        (lambda: exponential_counts(0, 2), "got 0, 2 and 10"),
        (lambda: single_positive(torch.tensor([[0.5]]), gen()), "zeros and ones"),
        (lambda: drop_positives(torch.ones(2, 2), 2, gen()), "got 2"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
