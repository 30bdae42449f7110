import pytest
import torch

from palimpsest.tasks.digits import digit_of, digits, images_at
from palimpsest.tasks.digits_images import resize
from palimpsest.tasks.digits_labels import exponential_counts
from palimpsest.tasks.digits_mosaics import (
    cluttered,
    digit_pairs,
    digits_cluttered,
    digits_multilabel,
    glyphs,
    label_names,
    mosaics,
    pairs,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pool():
    return digits(0).train


def test_the_canvas_shows_exactly_the_digits_it_lists(pool):
    made = mosaics(pool, 60, gen())
    for image, digit, index, mask in zip(made.x, made.digits, made.index, made.mask, strict=True):
        for cell in range(4):
            top, left = 8 * (cell // 2), 8 * (cell % 2)
            seen = image[0, top : top + 8, left : left + 8]
            pixels = mask[top : top + 8, left : left + 8]
            if digit[cell] < 0:
                assert index[cell] == -1
                assert not seen.any()
                assert not pixels.any()
            else:
                assert digit_of(index[cell]) == digit[cell]
                assert torch.equal(seen, images_at(index[cell])[0])
                assert torch.equal(pixels, torch.where(seen > 0.4, digit[cell] + 1, 0))


@pytest.mark.parametrize(
    ("labels", "where"),
    [
        ("digit", lambda row, column: ""),
        ("half", lambda row, column: (" left", " right")[column >= 2]),
        ("quadrant", lambda row, column: (" top", " bottom")[row >= 2] + (" left", " right")[column >= 2]),
    ],
)
def test_labels_say_which_digits_are_where(pool, labels, where):
    made = mosaics(pool, 100, gen(), labels=labels, grid=4, count=(0, 9))
    names = label_names(labels)
    assert made.y.shape == (100, len(names)) == (100, {"digit": 10, "half": 20, "quadrant": 40}[labels])
    for y, digit in zip(made.y, made.digits, strict=True):
        expected = {f"{d}{where(cell // 4, cell % 4)}" for cell, d in enumerate(digit.tolist()) if d >= 0}
        assert {names[label] for label in y.nonzero().flatten().tolist()} == expected


def test_counts_and_cells_are_uniform(pool):
    made = mosaics(pool, 4000, gen(), count=(1, 4))
    filled = made.digits >= 0
    assert (filled.sum(1).bincount(minlength=5)[1:] / 4000 - 0.25).abs().max() < 0.03
    assert (filled.float().mean(0) - 2.5 / 4).abs().max() < 0.03
    assert (made.digits[filled].bincount() / filled.sum() - 0.1).abs().max() < 0.015


def test_larger_cells_place_digits_at_random_and_lose_nothing(pool):
    made = mosaics(pool, 300, gen(), cell=12, count=(4, 4))
    assert made.x.shape == (300, 1, 24, 24)
    ink = images_at(made.index).sum((2, 3, 4))
    cells = made.x.unflatten(2, (2, 12)).unflatten(4, (2, 12)).sum((1, 3, 5)).flatten(1)
    assert torch.allclose(cells, ink, atol=1e-4)
    empty_left = (made.x[:, 0, :12, 0] == 0).all(1).float().mean()
    assert 0.5 < empty_left < 1


def test_distractors_are_in_empty_cells_with_labels_of_their_own(pool):
    made = mosaics(pool, 300, gen(), labels="half", distractors=True)
    assert made.y.shape[1] == len(label_names("half", distractors=True)) == 24
    cells = made.x.unflatten(2, (2, 8)).unflatten(4, (2, 8)).permute(0, 2, 4, 1, 3, 5).reshape(300, 4, 64)
    shown = (made.digits < 0) & cells.any(2)
    assert torch.equal(shown.any(1), made.y[:, 20:].any(1))
    assert shown.sum() / (made.digits < 0).sum() == pytest.approx(0.5, abs=0.07)
    # The same label, the same shape: as many different pictures as labels.
    assert len(cells[shown].unique(dim=0)) == 4
    assert (
        not made.mask.unflatten(1, (2, 8)).unflatten(3, (2, 8)).permute(0, 1, 3, 2, 4).reshape(300, 4, 64)[shown].any()
    )


def test_sparse_canvases_have_little_foreground(pool):
    made = mosaics(pool, 200, gen(), grid=4, count=(1, 2))
    assert (made.mask > 0).float().mean() == pytest.approx(0.03, abs=0.01)


def test_builders_take_images_of_any_side(pool):
    large = pool.mapped(lambda x: resize(x, 14))
    made = mosaics(large, 20, gen(), count=(4, 4))
    rows = {int(index): row for row, index in enumerate(large.index)}
    cells = made.x.unflatten(2, (2, 14)).unflatten(4, (2, 14)).permute(0, 2, 4, 1, 3, 5).reshape(20, 4, 14, 14)
    for image, index in zip(cells, made.index, strict=True):
        assert torch.equal(image, large.x[[rows[int(each)] for each in index], 0])
    assert mosaics(large, 5, gen(), distractors=True, cell=16).x.shape == (5, 1, 32, 32)
    assert torch.equal(mosaics(large, 50, gen(), distractors=True).y, mosaics(pool, 50, gen(), distractors=True).y)
    two = pairs(large, 10, gen(), noise=0)
    assert torch.equal(two.x[..., 14:], large.x[[rows[int(each)] for each in two.index[:, 1]]])
    assert pairs(large, 10, gen(), overlap=13).x.shape == (10, 1, 27, 15)
    bare = cluttered(large, 10, gen(), side=30, fragments=0)
    for image, (top, left) in zip(bare.x[:, 0], bare.corner.tolist(), strict=True):
        assert image[top : top + 28, left : left + 28].count_nonzero() == image.count_nonzero() > 0
    with pytest.raises(ValueError, match="cell must be at least 14 pixels, got 8"):
        mosaics(large, 1, gen(), cell=8)
    with pytest.raises(ValueError, match=r"\[m, 1, side, side\], got \(1147, 1, 8, 16\)"):
        mosaics(pool.mapped(lambda x: torch.cat([x, x], 3)), 1, gen())


def test_splits_of_a_mosaic_task_share_no_glyph():
    task = digits_multilabel(0, train=300, validation=50, test=100)
    used = [set(part.index.unique().tolist()) - {-1} for part in (task.train, task.validation, task.test)]
    assert not used[0] & used[1] | used[0] & used[2] | used[1] & used[2]


def test_pairs_show_their_two_digits(pool):
    made = pairs(pool, 300, gen(), noise=0)
    assert torch.equal(made.y, 10 * digit_of(made.index[:, 0]) + digit_of(made.index[:, 1]))
    assert torch.equal(made.x[..., :8], images_at(made.index[:, 0]))
    assert torch.equal(made.x[..., 8:], images_at(made.index[:, 1]))
    assert made.y.bincount(minlength=100).tolist() == [3] * 100


def test_overlapping_pairs_are_two_tasks_and_the_darker_ink_counts(pool):
    made = pairs(pool, 200, gen(), noise=0, overlap=4, joint=False)
    assert made.x.shape == (200, 1, 12, 12)
    assert torch.equal(made.y, digit_of(made.index))
    left, right = images_at(made.index).unbind(1)
    assert (made.x[:, :, :8, :8] >= left).all()
    assert (made.x[:, :, 4:, 4:] >= right).all()
    assert torch.equal(made.x[:, :, 4:8, 4:8], torch.maximum(left[:, :, 4:, 4:], right[:, :, :4, :4]))
    assert not made.x[:, :, 8:, :4].any()


def test_pair_noise_is_not_clipped(pool):
    made = pairs(pool, 500, gen(), noise=0.25)
    noise = made.x - torch.cat(images_at(made.index).unbind(1), 3)
    assert noise.std() == pytest.approx(0.25, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.005)
    assert made.x.min() < -0.5


def test_pairs_with_a_long_tail_and_fresh_ones_each_time():
    counts = exponential_counts(100, 20, 100)
    task = digit_pairs(0, train=counts, test=200)
    assert task.train.y.bincount().tolist() == list(counts)
    assert task.test.y.bincount().tolist() == [2] * 100
    assert not torch.isin(task.train.index, task.test.index).any()
    generator, pool = gen(), digits(0).train
    assert not torch.equal(pairs(pool, 10, generator).x, pairs(pool, 10, generator).x)


def test_clutter_leaves_the_digit_on_top_at_its_corner(pool):
    made = cluttered(pool, 200, gen(), fragments=6)
    bare = cluttered(pool, 200, gen(), fragments=0)
    assert torch.equal(made.corner, bare.corner)
    assert torch.equal(made.index, bare.index)
    assert torch.equal(made.y, digit_of(made.index))
    assert (made.x >= bare.x).all()
    for x, (top, left) in zip(bare.x[:, 0], made.corner.tolist(), strict=True):
        inside = x[top : top + 16, left : left + 16]
        assert inside.sum() == x.sum() > 0
    added = ((made.x - bare.x) > 0).flatten(1).sum(1)
    assert 0 < added.min() < added.max() <= 6 * 16
    assert digits_cluttered(0, train=5, validation=5, test=5).train[[0, 1]].corner.shape == (2, 2)


def test_glyphs_show_what_is_asked_and_are_drawn_evenly(pool):
    digit = torch.full((5000, 2), 3)
    rows = glyphs(pool, digit, gen())
    assert torch.equal(pool.y[rows], digit)
    uses = rows.flatten().bincount(minlength=len(pool))[pool.y == 3]
    assert uses.min() > 0.4 * uses.float().mean()
    with pytest.raises(ValueError, match="no image of the digit 3"):
        glyphs(pool.of((1, 2)), digit, gen())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pool: mosaics(pool, 1, gen(), labels="row"), "got 'row'"),
        (lambda pool: mosaics(pool, 1, gen(), labels="half", grid=3), "even for halves and quadrants, got 3"),
        (lambda pool: mosaics(pool, 1, gen(), count=(2, 5)), r"got \(2, 5\)"),
        (lambda pool: mosaics(pool, 1, gen(), cell=7), "got 7"),
        (lambda pool: mosaics(pool, -1, gen()), "got -1"),
        (lambda pool: pairs(pool, 1, gen(), overlap=8), "got 8"),
        (lambda pool: pairs(pool, 5, gen(), counts=[1] * 100), "sum to 5, got 100: 100"),
        (lambda pool: pairs(pool.of((1, 2)), 5, gen()), "0 is missing"),
        (lambda pool: cluttered(pool, 1, gen(), scale=4), "scale 4"),
        (lambda pool: label_names("row"), "got 'row'"),
        (lambda pool: pairs(pool[:0], 3, gen()), "must hold"),
    ],
)
def test_bad_arguments_are_refused(pool, call, message):
    with pytest.raises(ValueError, match=message):
        call(pool)
