"""Images with several digits: mosaics with many labels, pairs of digits, digits among clutter.

Every builder draws from the images of one split, of these digits or of others (MNIST), square and of any side, so that
no glyph of a test image occurs in training. `mosaics` fills the cells of a grid and knows, besides the labels, every
cell's digit and every pixel's class (for segmentation). `pairs` puts two digits side by side, or over each other, as
one label out of 100 or as two tasks. `cluttered` hides one digit among fragments of others.

Sources: two overlapping digits as two tasks: Sabour et al. (2017), arXiv 1710.09829; clutter: Mnih et al. (2014),
arXiv 1406.6247.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.digits import CLASSES, SIZE, digits, drawn
from palimpsest.tasks.digits_images import add_noise, place, resize
from palimpsest.tasks.fresh import generator as stream
from palimpsest.tasks.fresh import stratified_order
from palimpsest.tasks.splits import Rows, Split, Splits, numpy_rng

DISTRACTORS = ("cross", "square", "disc", "stripes")
LABELS = ("digit", "half", "quadrant")
INK = 0.4  # a pixel belongs to a digit when its ink is above this
MOSAICS, PAIRS, CLUTTER = 110, 111, 112  # random streams of this file


@dataclass(frozen=True, eq=False)
class Mosaics(Rows):
    """Images of several digits.

    Attributes:
        x: images, float32 in [0, 1].
        y: which labels are present, float32 zeros and ones.
        digits: the digit in each cell, row by row; -1 where there is none.
        mask: class of every pixel: 0 for background, 1 + digit where the ink of a digit is above 0.4.
        index: which image of the pool's table fills each cell; -1 where none does.
    """

    x: Float[Tensor, "n 1 side side"]
    y: Float[Tensor, "n labels"]
    digits: Int[Tensor, "n cells"]
    mask: Int[Tensor, "n side side"]
    index: Int[Tensor, "n cells"]


@dataclass(frozen=True, eq=False)
class Cluttered(Split):
    """Digits among clutter; `corner` holds the row and the column of the digit's upper left pixel."""

    corner: Int[Tensor, "n 2"] | None = None


def digits_multilabel(
    seed: int,
    *,
    train: int = 1000,
    validation: int = 300,
    test: int = 500,
    labels: str = "digit",
    count: tuple[int, int] = (1, 4),
    grid: int = 2,
    cell: int = SIZE,
    distractors: bool = False,
) -> Splits[Mosaics]:
    """Mosaics with several labels each; see `mosaics` for what is drawn, `digits_labels` for taking labels away.

    Example:
        >>> task = digits_multilabel(0, train=100, labels="quadrant", count=(1, 3))
        >>> tuple(task.train.x.shape), tuple(task.train.y.shape), round(task.train.y.sum(1).mean().item())
        ((100, 1, 16, 16), (100, 40), 2)
    """

    def draw(pool: Split, n: int, generator: torch.Generator) -> Mosaics:
        return mosaics(pool, n, generator, labels=labels, count=count, grid=grid, cell=cell, distractors=distractors)

    return drawn(seed, draw, train=train, validation=validation, test=test, stream=MOSAICS)


def digit_pairs(
    seed: int,
    *,
    train: int | Sequence[int] = 4000,
    validation: int = 500,
    test: int = 2000,
    noise: float = 0.25,
    overlap: int = 0,
    joint: bool = True,
) -> Splits[Split]:
    """Two digits in an image: 100 classes, or two tasks; see `pairs`.

    Args:
        seed: 0 to 999,999.
        train: how many to train on, or how many of each of the 100 classes (`exponential_counts` gives a long tail).
        validation: how many to choose settings on.
        test: how many to test on, balanced like all that is given as one number.
        noise: standard deviation of Gaussian noise, not clipped.
        overlap: by how many pixels the digits overlap.
        joint: labels 10 * left + right; otherwise [left, right].

    Example:
        >>> task = digit_pairs(0, train=200, test=100)
        >>> tuple(task.train.x.shape), task.test.y.bincount().unique()
        ((200, 1, 8, 16), tensor([1]))
    """
    counts = None if isinstance(train, int) else tuple(train)
    sizes = {"train": train if counts is None else sum(counts), "validation": validation, "test": test}
    pools = digits(seed)
    return Splits(
        *(
            pairs(
                getattr(pools, part),
                n,
                stream(seed, part, PAIRS),
                counts=counts if part == "train" else None,
                noise=noise,
                overlap=overlap,
                joint=joint,
            )
            for part, n in sizes.items()
        )
    )


def digits_cluttered(
    seed: int,
    *,
    train: int = 1000,
    validation: int = 200,
    test: int = 450,
    side: int = 24,
    scale: int = 2,
    fragments: int = 8,
    fragment: int = 4,
) -> Splits[Cluttered]:
    """One digit at a random place among fragments of others; see `cluttered`.

    >>> digits_cluttered(0, train=50).train.x.shape
    torch.Size([50, 1, 24, 24])
    """

    def draw(pool: Split, n: int, generator: torch.Generator) -> Cluttered:
        return cluttered(pool, n, generator, side=side, scale=scale, fragments=fragments, fragment=fragment)

    return drawn(seed, draw, train=train, validation=validation, test=test, stream=CLUTTER)


def mosaics(
    pool: Split,
    n: int,
    generator: torch.Generator,
    *,
    labels: str = "digit",
    count: tuple[int, int] = (1, 4),
    grid: int = 2,
    cell: int | None = None,
    distractors: bool = False,
) -> Mosaics:
    """Mosaics of grid x grid cells, each of which holds a digit or nothing.

    The number of digits is uniform on count[0] .. count[1], their cells are a random choice, their glyphs random
    images of the pool.

    Args:
        pool: images [m, 1, side, side] to draw from.
        n: how many mosaics.
        generator: the source of randomness.
        labels: "digit": label d for a digit d anywhere (10 labels); "half": 2 d in the left half, 2 d + 1 in the
            right (20); "quadrant": 4 d + q, q counting the quadrants row by row (40).
        count: fewest and most digits in a mosaic.
        grid: cells a side (even for halves and quadrants).
        cell: side of a cell in pixels; None is that of the images. Digits take a random place in a larger one.
        distractors: half of the empty cells hold one of four shapes (cross, square, disc, stripes), each with a label
            of its own after those of the digits.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> from palimpsest.tasks.digits import digits
        >>> made = mosaics(digits(0).train, 5, torch.Generator().manual_seed(0), labels="half", distractors=True)
        >>> made.x.shape, made.y.shape
        (torch.Size([5, 1, 16, 16]), torch.Size([5, 24]))
    """
    cells = grid * grid
    if labels not in LABELS:
        raise ValueError(f"labels must be one of {', '.join(LABELS)}, got {labels!r}")
    if grid < 1 or (labels != "digit" and grid % 2):
        raise ValueError(f"grid must be at least 1, and even for halves and quadrants, got {grid}")
    if not 0 <= count[0] <= count[1] <= cells:
        raise ValueError(f"count must go from 0 at least to the {cells} cells at most, got {tuple(count)}")
    side = _side(pool, n)
    cell = side if cell is None else cell
    if cell < side:
        raise ValueError(f"cell must be at least {side} pixels, got {cell}")
    many = torch.randint(count[0], count[1] + 1, (n, 1), generator=generator)
    filled = torch.rand(n, cells, generator=generator).argsort(1).argsort(1) < many
    rows = torch.randint(len(pool), (n, cells), generator=generator)
    digit = torch.where(filled, pool.y[rows], -1)
    index = torch.where(filled, pool.index[rows], -1)
    content = pool.x[rows.flatten(), 0].view(n, cells, side, side) * filled[..., None, None]
    ink = torch.where(content > INK, 1 + digit[..., None, None], 0)
    shape = torch.full((n, cells), -1)
    if distractors:
        # Drawn only if asked for; a filled cell keeps its digit.
        drawn_shape = torch.randint(2 * len(DISTRACTORS), (n, cells), generator=generator)
        shape = torch.where(filled | (drawn_shape >= len(DISTRACTORS)), -1, drawn_shape)
        content = torch.where((shape >= 0)[..., None, None], resize(_shapes(), side)[shape, 0], content)
    top, left = torch.randint(cell - side + 1, (2, n * cells), generator=generator)
    # Pixels and classes travel together, as two channels.
    both = torch.stack([content, ink.to(content)], 2).view(n * cells, 2, side, side)
    both = place(both, cell, cell, top, left).view(n, grid, grid, 2, cell, cell)
    both = both.permute(0, 3, 1, 4, 2, 5).reshape(n, 2, grid * cell, grid * cell)
    y = _present(_label(digit, labels, grid), CLASSES * {"digit": 1, "half": 2, "quadrant": 4}[labels])
    if distractors:
        y = torch.cat([y, _present(shape, len(DISTRACTORS))], 1)
    return Mosaics(both[:, :1], y, digit, both[:, 1].round().long(), index)


def pairs(
    pool: Split,
    n: int,
    generator: torch.Generator,
    *,
    counts: Sequence[int] | None = None,
    noise: float = 0.25,
    overlap: int = 0,
    joint: bool = True,
) -> Split:
    """Two digits in an image, drawn afresh: for a task that never shows an image twice, call it at every step.

    With overlap o and images of side s, the left digit begins at (0, 0) and the right one at (o, s - o) on a canvas of
    s + o by 2 s - o pixels, and where both have ink the darker counts. All 100 combinations are equally frequent, give
    or take one image, unless `counts` gives the number of each.

    Args:
        pool: images [m, 1, side, side] to draw from, with every digit among them.
        n: how many.
        generator: the source of randomness.
        counts: how many images of each of the 100 labels 10 * left + right, n together.
        noise: standard deviation of Gaussian noise, not clipped.
        overlap: in pixels, less than the side.
        joint: `y` is 10 * left + right, shape `[n]`; otherwise (left, right), shape `[n, 2]`.

    Example:
        >>> from palimpsest.tasks.digits import digits
        >>> batch = pairs(digits(0).train, 32, torch.Generator().manual_seed(0), overlap=4, joint=False)
        >>> batch.x.shape, batch.y.shape
        (torch.Size([32, 1, 12, 12]), torch.Size([32, 2]))
    """
    side = _side(pool, n)
    if overlap not in range(side):
        raise ValueError(f"overlap must be from 0 to {side - 1}, got {overlap}")
    absent = sorted(set(range(CLASSES)) - set(pool.y.tolist()))
    if absent:
        raise ValueError(f"the pool must hold every digit, {absent[0]} is missing")
    combinations = CLASSES * CLASSES
    order = torch.randperm(n, generator=generator)
    if counts is None:
        # Which classes get one more, where n is not a multiple of 100, is random too.
        label = torch.randperm(combinations, generator=generator)[order % combinations]
    else:
        if len(counts) != combinations or min(counts) < 0 or sum(counts) != n:
            raise ValueError(f"counts must be {combinations} numbers that sum to {n}, got {len(counts)}: {sum(counts)}")
        label = torch.arange(combinations).repeat_interleave(torch.tensor(list(counts)))[order]
    both = torch.stack([label // CLASSES, label % CLASSES], 1)
    rows = glyphs(pool, both, generator)
    height, width = side + overlap, 2 * side - overlap
    corner = torch.zeros(n, dtype=torch.long)
    first = place(pool.x[rows[:, 0]], height, width, corner, corner)
    second = place(pool.x[rows[:, 1]], height, width, corner + overlap, corner + side - overlap)
    x = torch.maximum(first, second)
    if noise:
        x = add_noise(x, noise, generator, clip=False)
    return Split(x, label if joint else both, pool.index[rows])


def cluttered(
    pool: Split,
    n: int,
    generator: torch.Generator,
    *,
    side: int = 24,
    scale: int = 2,
    fragments: int = 8,
    fragment: int = 4,
) -> Cluttered:
    """One digit, magnified, at a random place on a black canvas, with fragments of other digits around and behind it.

    A fragment is a random square out of a random image of another class, at the digits' own size, at a random place.
    The digit lies on top: where it has ink, the darker counts.

    Args:
        pool: images [m, 1, s, s] to draw from.
        n: how many.
        generator: the source of randomness.
        side: side of the canvas.
        scale: by how much the digit is magnified.
        fragments: how many in an image.
        fragment: side of a fragment, at most s.

    Returns:
        Images [n, 1, side, side] with the digit as label and the `corner` where it begins; it covers s * scale pixels
        either way from there.
    """
    glyph = _side(pool, n)
    size = glyph * scale
    if not scale >= 1 or size > side or not 1 <= fragment <= glyph or fragments < 0:
        raise ValueError(
            f"need 1 <= {glyph} * scale <= side, 1 <= fragment <= {glyph} and fragments >= 0, "
            f"got scale {scale}, side {side}, fragment {fragment} and fragments {fragments}"
        )
    # The pool in random order, as often as needed: all images are used equally, in proportion to the classes.
    order = torch.from_numpy(stratified_order(pool.y.numpy(), numpy_rng(generator)))
    rows = order.repeat(-(-n // max(1, len(pool))))[:n]
    corner = torch.randint(side - size + 1, (n, 2), generator=generator)
    x = place(resize(pool.x[rows], size), side, side, *corner.T)
    y = pool.y[rows]
    for _ in range(fragments):
        digit = (y + torch.randint(1, CLASSES, (n,), generator=generator)) % CLASSES
        piece = pool.x[glyphs(pool, digit[:, None], generator)[:, 0]]
        cut = torch.randint(glyph - fragment + 1, (2, n), generator=generator)
        piece = place(piece, fragment, fragment, *-cut)
        at = torch.randint(side - fragment + 1, (2, n), generator=generator)
        x = torch.maximum(x, place(piece, side, side, *at))
    return Cluttered(x, y, pool.index[rows], corner=corner)


def glyphs(pool: Split, digit: Int[Tensor, "n k"], generator: torch.Generator) -> Int[Tensor, "n k"]:
    """Random rows of the pool that show the given digits.

    >>> pool = digits(0).train
    >>> pool.y[glyphs(pool, torch.tensor([[3, 7]]), torch.Generator().manual_seed(0))]
    tensor([[3, 7]])

    Raises:
        ValueError: the pool holds no image of a digit.
    """
    by_digit = pool.y.argsort(stable=True)
    count = pool.y.bincount(minlength=CLASSES)
    absent = count[digit] == 0
    if bool(absent.any()):
        raise ValueError(f"the pool holds no image of the digit {int(digit[absent][0])}")
    first = count.cumsum(0) - count
    rank = (torch.rand(digit.shape, generator=generator) * count[digit]).long()
    return by_digit[first[digit] + rank]


def label_names(labels: str = "digit", *, distractors: bool = False) -> tuple[str, ...]:
    """What each label of a mosaic says.

    >>> label_names("half")[:3]
    ('0 left', '0 right', '1 left')
    """
    places = {
        "digit": ("",),
        "half": (" left", " right"),
        "quadrant": (" top left", " top right", " bottom left", " bottom right"),
    }
    if labels not in places:
        raise ValueError(f"labels must be one of {', '.join(LABELS)}, got {labels!r}")
    names = tuple(f"{digit}{where}" for digit in range(CLASSES) for where in places[labels])
    return names + DISTRACTORS if distractors else names


def _label(digit: Int[Tensor, "n cells"], labels: str, grid: int) -> Int[Tensor, "n cells"]:
    row, column = torch.arange(grid * grid) // grid, torch.arange(grid * grid) % grid
    right, low = column >= grid / 2, row >= grid / 2
    label = {"digit": digit, "half": 2 * digit + right, "quadrant": 4 * digit + 2 * low + right.long()}[labels]
    return torch.where(digit >= 0, label, -1)


def _present(label: Int[Tensor, "n cells"], labels: int) -> Float[Tensor, "n labels"]:
    # One column more takes the cells without a label.
    y = torch.zeros(len(label), labels + 1)
    return y.scatter_(1, torch.where(label < 0, labels, label), 1)[:, :labels]


def _shapes() -> Float[Tensor, "4 1 8 8"]:
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    down, right = axis[:, None].expand(SIZE, SIZE), axis[None, :].expand(SIZE, SIZE)
    edge = torch.maximum(down.abs(), right.abs())
    cross = torch.minimum(down.abs(), right.abs()) < 1
    square = (edge > 2) & (edge < 3)
    disc = down**2 + right**2 < 8
    stripes = torch.arange(SIZE)[:, None].expand(SIZE, SIZE) % 3 == 1
    return torch.stack([cross, square, disc, stripes])[:, None].float()


def _side(pool: Split, n: int) -> int:
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}")
    _, channels, height, width = pool.x.shape
    if channels != 1 or height != width or (n and not len(pool)):
        raise ValueError(f"the pool must hold images [m, 1, side, side], got {tuple(pool.x.shape)}")
    return height
