import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.tasks.digits import digit_of, digits
from palimpsest.tasks.digits_domains import (
    DOMAINS,
    GROUPS,
    colour_environment,
    coloured_digits,
    digits_domains,
    enlarge,
    leave_one_out,
    look,
    rotation_classes,
)
from palimpsest.tasks.digits_images import invert, rotate


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_domains_show_the_same_digits_in_the_looks_they_name():
    tasks = digits_domains(0, ("plain", "inverted", "rotated", "rotated30"))
    plain = tasks["plain"]
    assert torch.allclose(invert(tasks["inverted"].train.x), plain.train.x, atol=1e-7)
    assert torch.equal(rotate(tasks["rotated"].test.x, -90), plain.test.x)
    assert torch.equal(tasks["rotated30"].validation.x, rotate(plain.validation.x, 30))
    for number, task in enumerate(tasks.values()):
        assert torch.equal(task.train.y, plain.train.y)
        assert task.test.domain.unique().tolist() == [number]


def test_no_training_image_of_any_domain_is_tested_in_any_other():
    tasks = digits_domains(0, DOMAINS[:4], shared=False)
    train = torch.cat([task.train.index for task in tasks.values()])
    assert len(train.unique()) == len(train)
    assert not torch.isin(torch.cat([task.test.index for task in tasks.values()]), train).any()


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_look_is_an_image_and_changes_what_it_should(domain):
    x = digits(0).test.x
    seen = look(x, domain, gen())
    assert seen.shape == (450, 3 if domain == "coloured" else 1, 8, 8)
    assert 0 <= seen.min() <= seen.max() <= 1 + 1e-6
    assert torch.equal(seen, x) == (domain == "plain")


def test_colour_gives_all_domains_three_channels():
    tasks = digits_domains(0, ("plain", "coloured"), train=50)
    assert tasks["plain"].train.x.shape == tasks["coloured"].train.x.shape == (50, 3, 8, 8)
    assert torch.equal(tasks["coloured"].train.x.amax(1), tasks["plain"].train.x[:, 0])


def test_leave_one_out_never_trains_on_the_held_out_look():
    tasks = digits_domains(0, DOMAINS[:4], train=50)
    task = leave_one_out(tasks, "rotated")
    assert set(task.train.domain.tolist()) == set(task.validation.domain.tolist()) == {0, 1, 3}
    assert torch.equal(task.test.x, tasks["rotated"].test.x)
    with pytest.raises(ValueError, match="got 'foggy'"):
        leave_one_out(tasks, "foggy")


def test_rotation_classes_are_digit_and_turn():
    split = digits(0).test
    made = rotation_classes(split)
    assert torch.equal(made.y // 4, digit_of(made.index))
    assert torch.equal(made.y % 4, made.domain)
    for turn in range(4):
        assert torch.equal(rotate(made.x[made.domain == turn], -90 * turn), split.x)
    with pytest.raises(ValueError, match="got 5"):
        rotation_classes(split, 5)


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=20)
def test_an_environment_has_exactly_the_noise_and_the_agreement_asked_for(seed, agreement, label_noise):
    pool = digits(0, classes=(0, 1, 4, 6, 7, 8)).test
    made = colour_environment(pool, agreement, gen(seed), label_noise=label_noise)
    n = len(made)
    assert (made.y != made.clean_y).sum() == round(label_noise * n)
    assert (made.colour == made.y).sum() == round(agreement * n)
    assert torch.equal(made.clean_y, torch.isin(digit_of(made.index), torch.tensor(GROUPS[1])).long())
    # The digit is in the channel of its colour, and the other channel is empty.
    channel = torch.arange(n)
    assert torch.equal(made.x[channel, made.colour], pool.x[:, 0])
    assert not made.x[channel, 1 - made.colour].any()


def test_label_flips_and_colours_are_independent_of_the_digit():
    made = coloured_digits(0, n=20_000).environments[0]
    digit = digit_of(made.index)
    for one in GROUPS[0] + GROUPS[1]:
        rows = digit == one
        assert (made.y != made.clean_y)[rows].float().mean() == pytest.approx(0.25, abs=0.03)
        assert (made.colour == made.y)[rows].float().mean() == pytest.approx(0.9, abs=0.03)


def test_coloured_digits_have_the_shares_sizes_and_images_they_say():
    task = coloured_digits(0)
    parts = (*task.environments, task.validation, task.test)
    assert [len(part) for part in parts] == [5000, 5000, 500, 2000]
    for part, agreement, number in zip(parts, (0.9, 0.8, 0.85, 0.1), range(4), strict=True):
        assert (part.colour == part.y).float().mean() == pytest.approx(agreement, abs=1e-3)
        assert (part.y == part.clean_y).float().mean() == pytest.approx(0.75, abs=1e-3)
        assert part.domain.unique().tolist() == [number]
        assert part.x.shape[1:] == (2, 8, 8)
        assert 0.45 < part.y.float().mean() < 0.55
    for one, other in itertools.combinations(parts, 2):
        assert not torch.isin(one.index, other.index).any()


def test_two_halves_of_the_digits_with_marks_and_without_noise():
    halves = (range(5), range(5, 10))
    task = coloured_digits(1, agreement=(0.95,), test_agreement=0.5, label_noise=0, groups=halves, n=None, test_n=None)
    marked = coloured_digits(
        1, agreement=(0.95,), test_agreement=0.5, label_noise=0, groups=halves, n=None, test_n=None, marks=4
    )
    train = task.environments[0]
    assert len(train) == 1147
    assert torch.equal(train.y, (digit_of(train.index) >= 5).long())
    changed = (marked.environments[0].x.sum(1) != train.x.sum(1)).flatten(1).sum(1)
    assert changed.max() <= 4
    assert changed.float().mean() > 3


def test_enlarging_uses_all_images_alike_and_repeats_none():
    train = digits(0).train
    made = enlarge(train, 3000, gen())
    uses = made.index.bincount()
    assert set(uses[uses > 0].tolist()) == {2, 3}
    assert torch.equal(digit_of(made.index), made.y)
    assert len(made.x.flatten(1).unique(dim=0)) == 3000
    still = enlarge(train, 10, gen(), pixels=0, noise=0)
    assert torch.isin(still.x.flatten(1).sum(1), train.x.flatten(1).sum(1)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: look(torch.zeros(1, 1, 8, 8), "foggy", gen()), "got 'foggy'"),
        (lambda: digits_domains(0, ("plain", "plain")), r"got \('plain', 'plain'\)"),
        (lambda: coloured_digits(0, groups=((0, 1), (1, 2))), "without a common one"),
        (lambda: coloured_digits(0, agreement=()), "got none"),
        (lambda: coloured_digits(0, test_agreement=1.1), "got 1.1"),
        (lambda: colour_environment(digits(0).test, 0.5, gen()), "every digit must be in one of the groups"),
        (lambda: enlarge(digits(0).test, -1, gen()), "got -1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
