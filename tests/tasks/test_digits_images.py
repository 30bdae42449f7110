import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.tasks.digits import digits
from palimpsest.tasks.digits_images import (
    DEFORMATIONS,
    add_noise,
    blur,
    colourise,
    deform,
    invert,
    mark,
    permute_pixels,
    place,
    random_permutation,
    resize,
    rotate,
    shift,
    shuffle_patches,
    speckle,
    strokes,
    texture,
    warp,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def x():
    return digits(0).test.x[:40]


def test_nothing_changes_its_input(x):
    before = x.clone()
    offsets = torch.ones(len(x), dtype=torch.long)
    for change in (
        lambda: resize(x, 16),
        lambda: add_noise(x, 0.3, gen()),
        lambda: speckle(x, 4, gen()),
        lambda: invert(x),
        lambda: rotate(x, 30),
        lambda: shift(x, offsets, offsets),
        lambda: blur(x, 1.0),
        lambda: texture(x, 0.5, gen()),
        lambda: mark(x, offsets),
        lambda: shuffle_patches(x, 2, gen()),
        lambda: colourise(x, offsets),
        *(lambda kind=kind: deform(x, kind, 3, gen()) for kind in DEFORMATIONS),
    ):
        result = change()
        assert not torch.equal(result, x)
        assert torch.equal(x, before)
        assert result.min() >= 0
        assert result.max() <= 1 + 1e-6


def test_no_images_are_no_trouble(x):
    none = x[:0]
    assert resize(none, 16).shape == (0, 1, 16, 16)
    for same in (rotate(none, 30), texture(none, 0.5, gen()), blur(none, 1.0), speckle(none, 3, gen())):
        assert same.shape == none.shape


def test_inversion_is_its_own_inverse(x):
    assert torch.allclose(invert(invert(x)), x, atol=1e-7)
    assert torch.equal(invert(x).flatten(1).argmin(1), x.flatten(1).argmax(1))


@given(st.integers(0, 3), st.integers(-2, 2))
@settings(deadline=None, max_examples=20)
def test_rotation_by_one_angle_an_image_agrees_with_quarter_turns(turn, more):
    x = digits(0).test.x[:10]
    angles = torch.full((10,), 90.0 * turn + 360 * more)
    exact = torch.rot90(x, turn, (2, 3))
    assert torch.allclose(rotate(x, angles), exact, atol=1e-4)
    assert torch.equal(rotate(x, 90 * turn + 360 * more), exact)


def test_rotation_is_counterclockwise_and_back_again(x):
    canvas = torch.zeros(1, 1, 33, 33)
    canvas[0, 0, 16, 26] = 1  # ten pixels right of the centre
    turned = rotate(canvas, 30)[0, 0]
    row, column = divmod(int(turned.argmax()), 33)
    assert (row, column) == (16 - 5, 16 + 9)  # 10 sin 30 up, 10 cos 30 right
    smooth = blur(resize(x, 32), 2.0)
    back = rotate(rotate(smooth, 20), -20)
    assert (back - smooth)[:, :, 8:24, 8:24].abs().max() < 0.1


def test_rectangles_are_rotated_without_distortion():
    wide = torch.zeros(1, 1, 9, 21)
    wide[0, 0, 4, 14] = 1  # four pixels right of the centre
    turned = rotate(wide, torch.tensor([90.0]))[0, 0]
    assert divmod(int(turned.argmax()), 21) == (0, 10)


@given(st.integers(-3, 3), st.integers(-3, 3))
@settings(deadline=None, max_examples=20)
def test_warp_by_whole_pixels_is_a_shift_and_a_shift_is_a_roll_without_return(down, right):
    x = digits(0).test.x[:5]
    n = torch.ones(5)
    moved = shift(x, down * n.long(), right * n.long())
    assert torch.allclose(warp(x, 0 * n, n, down * n, right * n), moved, atol=1e-5)
    naive = torch.zeros_like(x)
    for row in range(8):
        for column in range(8):
            if 0 <= row - down < 8 and 0 <= column - right < 8:
                naive[:, :, row, column] = x[:, :, row - down, column - right]
    assert torch.equal(moved, naive)


def test_warp_magnifies_about_the_centre():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 6] = 1
    one, zero = torch.ones(1), torch.zeros(1)
    assert divmod(int(warp(x, zero, 2 * one, zero, zero)[0, 0].argmax()), 9) == (4, 8)


def test_place_puts_every_image_where_it_is_told():
    x = torch.rand(3, 2, 4, 4, generator=gen())
    top, left = torch.tensor([0, 3, -2]), torch.tensor([5, 6, 0])
    canvas = place(x, 8, 10, top, left)
    assert torch.equal(canvas[0, :, 0:4, 5:9], x[0])
    assert torch.equal(canvas[1, :, 3:7, 6:10], x[1])
    assert torch.equal(canvas[2, :, 0:2, 0:4], x[2, :, 2:])
    assert canvas.sum() == pytest.approx(float(x[:2].sum() + x[2, :, 2:].sum()), rel=1e-5)
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        place(x, 8, 8, top[:2], left)


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(deadline=None)
def test_permutations_come_back_and_move_no_more_than_asked(seed, share):
    x = digits(0).test.x[:3].repeat(1, 2, 1, 1)
    permutation = random_permutation(64, gen(seed), share=share)
    assert permutation.sort().values.tolist() == list(range(64))
    assert (permutation != torch.arange(64)).sum() <= round(share * 64)
    permuted = permute_pixels(x, permutation)
    assert torch.equal(permuted[:, :, 3, 5], x.flatten(2)[:, :, permutation[29]])
    assert torch.equal(permute_pixels(permuted, permutation.argsort()), x)


def test_a_full_permutation_moves_nearly_all_pixels():
    moved = [(random_permutation(64, gen(seed)) != torch.arange(64)).sum() for seed in range(20)]
    assert min(moved) > 55


def test_blur_keeps_brightness_and_is_gaussian():
    x = torch.zeros(1, 1, 41, 41)
    x[0, 0, 20, 20] = 1
    blurred = blur(x, 3.0)[0, 0]
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    axis = torch.arange(41.0) - 20
    assert (blurred.sum(0) * axis**2).sum() == pytest.approx(9, rel=0.05)
    assert torch.allclose(blurred, blurred.T, atol=1e-7)
    assert blur(x, 0) is x


def test_colour_is_where_the_ink_is(x):
    colour = torch.arange(40) % 3
    inked = colourise(x, colour)
    assert torch.equal(inked.amax(1, keepdim=True), x)
    assert torch.equal((inked.sum((2, 3)) > 0).long().argmax(1), colour)
    behind = colourise(torch.zeros(3, 1, 2, 2), torch.arange(3), background=True)
    assert torch.equal(behind[:, :, 0, 0], torch.eye(3))
    with pytest.raises(ValueError, match="from 0 to 9, got 0 to 10"):
        colourise(x[:2], torch.tensor([0, 10]))


def test_marks_can_be_read_back(x):
    code = torch.arange(40) % 16
    corner = mark(x, code)[:, 0, :2, :2].flatten(1)
    assert torch.equal((corner * torch.tensor([1, 2, 4, 8])).sum(1).long(), code)
    assert torch.equal(mark(x, code)[:, :, 2:], x[:, :, 2:])
    with pytest.raises(ValueError, match="got 0 to 16"):
        mark(x[:2], torch.tensor([0, 16]))


def test_shuffled_patches_hold_the_same_pixels(x):
    shuffled = shuffle_patches(x, 2, gen())
    patches = [image.unfold(2, 2, 2).unfold(3, 2, 2).reshape(40, 16, 4) for image in (x, shuffled)]
    for before, after in zip(*(part.tolist() for part in patches), strict=True):
        assert sorted(before) == sorted(after)
    assert not torch.equal(x, shuffled)
    with pytest.raises(ValueError, match="got 3"):
        shuffle_patches(x, 3, gen())


def test_texture_fills_the_background_only(x):
    textured = texture(x, 0.7, gen())
    assert torch.equal(textured[x == 1], x[x == 1])
    assert (textured >= x).all()
    assert textured[x == 0].mean() == pytest.approx(0.35, abs=0.05)


@pytest.mark.parametrize("kind", DEFORMATIONS)
def test_deformations_grow_with_severity(x, kind):
    distance = [(deform(x, kind, severity, gen()) - x).abs().mean() for severity in (1, 3, 5)]
    if kind != "rotation":  # a digit turned by 90 degrees may be nearer to itself than one turned by 67
        assert distance[0] < distance[1] < distance[2]
    assert distance[0] > 0.01
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"got {severity}"):
            deform(x, kind, severity, gen())


def test_full_inversion_and_unknown_deformations(x):
    assert torch.allclose(deform(x, "inversion", 5, gen()), 1 - x, atol=1e-6)
    with pytest.raises(ValueError, match="got 'fog'"):
        deform(x, "fog", 1, gen())


def test_strokes_have_as_much_ink_as_digits_and_are_none_of_them(x):
    drawn = strokes(200, gen())
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert drawn.mean() == pytest.approx(float(x.mean()), rel=0.4)
    assert len(drawn.flatten(1).unique(dim=0)) == 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resize(torch.zeros(8, 8), 16), r"got torch.float32 \(8, 8\)"),
        (lambda: invert(torch.zeros(1, 1, 8, 8, dtype=torch.long)), "floating point"),
        (lambda: speckle(torch.zeros(1, 1, 2, 2), 5, gen()), "from 0 to 4, got 5"),
        (lambda: rotate(torch.zeros(2, 1, 8, 8), torch.zeros(3)), r"got the shape \(3,\)"),
        (lambda: texture(torch.zeros(1, 1, 8, 8), 1.5, gen()), "got 1.5"),
        (lambda: blur(torch.zeros(1, 1, 8, 8), float("nan")), "got nan"),
        (lambda: colourise(torch.zeros(1, 3, 8, 8), torch.zeros(1)), "one channel, got 3"),
        (lambda: permute_pixels(torch.zeros(1, 1, 8, 8), torch.arange(63)), "64 entries"),
        (lambda: random_permutation(64, gen(), share=2), "got 2"),
        (lambda: strokes(1, gen(), lines=0), "got 1, 0 and 8"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
