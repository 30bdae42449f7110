"""Glyphs: 512 letters in 11 faces, from the fonts that matplotlib ships; 312 to learn, 200 that training never sees.

A world of many classes with few images each, as Omniglot is: Latin, Greek and Cyrillic letters with their marks, drawn
grey on 28 x 28 pixels. Classes are letters and domains are faces: upright, bold and slanted, with serifs and without.
Letters keep their size and their place on the line, so that small letters differ from capitals. Of letters that look
alike (A of the three alphabets) only the first is kept.

- `glyphs` splits the seen classes by face: of each letter 5 faces are for training, 1 for validation and 5 for testing,
  other ones for each letter. The test images lie in 20 parts of 78; seed s is tested on part s mod 20, so that twenty
  consecutive seeds are tested on disjoint images.
- `unseen_glyphs` gives queries and a gallery of classes that training never sees: 40 for validation, 160 for testing,
  in all faces. The 1,760 test images lie in 20 parts of 88: a part asks, and all others are its gallery.
- `episode` draws a few-shot task from them.
- `augment`, `views` and `view_batches` are those of `digits_views` with one kind of change more: the stroke's
  thickness.

How often the nearest image of the gallery is the unseen query's letter, with views of strength 0.7 (as drawn): by an
untrained network 0.09 (0.43), by pixels 0.21 (0.55), by cross-entropy on the seen letters for 300 steps 0.41 (0.68), by
NT-Xent on them without labels 0.47 (0.67). Of 160 letters, chance finds 0.006; a network that was trained with labels
on the gallery too, 0.52 (0.78, one seed).

Another version of matplotlib may draw a few pixels otherwise: `digest` tells.

Source: the kind of task is Omniglot's: Lake, Salakhutdinov and Tenenbaum (2015), Human-level concept learning through
probabilistic program induction.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.nn import functional as F

from palimpsest.tasks import digits_views
from palimpsest.tasks.digits_images import Images, resize
from palimpsest.tasks.fresh import generator as stream
from palimpsest.tasks.fresh import split_seed, stratified_order
from palimpsest.tasks.splits import Split, Splits

FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
)
SIDE, SEEN, UNSEEN = 28, 312, 200
TRAIN, TEST = 5, 5
"""faces of a seen letter to train on and to test on; one more is for validation"""
PARTS = 20
"""disjoint parts of the images to test on, of the seen letters and of the unseen ones"""
STREAM = 140  # random streams of this file: this one and the next
CHOICE = 40  # unseen letters to choose settings on
FINE, BASELINE = 5, 101  # letters are drawn five times as large, with their line at this row
LETTERS = ("Lu", "Ll", "Lt", "Lo")  # categories of letters in Unicode, without those that modify others
KINDS = ("stroke", *digits_views.KINDS)


@dataclass(frozen=True)
class Search:
    """Images that ask, and the images among which those of the same class are to be found."""

    queries: Split
    gallery: Split


def glyphs(seed: int, *, train: int = TRAIN, strength: float = 0.7, size: int = SIDE) -> Splits[Split]:
    """The seen letters in faces to train on, to choose settings on, and the seed's own part of those to test on.

    Args:
        seed: 0 to 999,999.
        train: images of each letter to train on, 1 to 5, drawn by the seed; fewer are contained in more.
        strength: of the random view that is made of each image of validation and test; 0 for the letters as drawn, as
            all images of training are.
        size: side of the images; other than 28, they are resized bilinearly.

    Returns:
        Images [n, 1, size, size] float32 in [0, 1], ink is 1; labels 0 to 311; `domain` is the place of the face in
        `FACES`, `index` the image's row in the pool.

    Raises:
        ValueError: `train` is out of its range.

    >>> task = glyphs(100, train=2)
    >>> tuple(task.train.x.shape), len(task.validation), len(task.test)
    ((624, 1, 28, 28), 312, 78)
    """
    if not 1 <= train <= TRAIN:
        raise ValueError(f"train must be from 1 to {TRAIN}, got {train}")
    pool, validation, parts = _seen()
    drawn = np.random.default_rng(split_seed(seed, "train")).permuted(pool, axis=1)[:, :train].ravel()
    return Splits(
        _split(drawn, size),
        _split(validation, size, stream(0, "validation", STREAM), strength),
        _split(parts[seed % PARTS], size, stream(seed, "test", STREAM), strength),
    )


def unseen_glyphs(
    seed: int, part: Literal["validation", "test"] = "test", *, strength: float = 0.7, size: int = SIDE
) -> Search:
    """Letters that no training set holds: queries, and the gallery to find their classes in.

    Args:
        seed: 0 to 999,999; the test's queries are its own, those of validation are the same for all.
        part: "validation": 220 queries and 220 others of 40 letters; "test": 88 and 1,672 of 160 other letters.
        strength: of the random view that is made of each query; 0 for the letters as drawn, as the gallery is.
        size: as in `glyphs`.

    Returns:
        Labels run from 312 to 511.

    >>> test = unseen_glyphs(0).queries, unseen_glyphs(1).queries
    >>> len(test[0]), bool(torch.isin(test[0].index, test[1].index).any())
    (88, False)
    """
    if part not in ("validation", "test"):
        raise ValueError(f"part must be 'validation' or 'test', got {part!r}")
    parts = _unseen(part)
    asked, seed = (seed % PARTS, seed) if part == "test" else (0, 0)
    gallery = np.concatenate(parts[:asked] + parts[asked + 1 :])
    return Search(_split(parts[asked], size, stream(seed, part, STREAM + 1), strength), _split(gallery, size))


def episode(search: Search, generator: torch.Generator, *, ways: int = 5, shots: int = 1) -> tuple[Split, Split]:
    """A few-shot task: `shots` images of each of `ways` classes, labelled 0 to ways - 1, and those to classify.

    Classes are drawn among those that ask; the images to learn from come from the gallery, and all queries of the
    drawn classes are to be classified.

    Returns:
        The support [ways * shots] and the queries, at least one of a class.

    Raises:
        ValueError: there are not so many classes, or a class has not so many images.

    >>> support, queries = episode(unseen_glyphs(0), torch.Generator().manual_seed(0), ways=5, shots=2)
    >>> support.y.tolist(), queries.y.unique().tolist()
    ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 1, 2, 3, 4])
    """
    asked = search.queries.y.unique()
    if not 2 <= ways <= len(asked):
        raise ValueError(f"ways must be from 2 to {len(asked)}, got {ways}")
    classes = asked[torch.randperm(len(asked), generator=generator)[:ways]].tolist()
    rows = [(search.gallery.y == label).nonzero()[:, 0] for label in classes]
    least = min(map(len, rows))
    if not 1 <= shots <= least:
        raise ValueError(f"shots must be from 1 to {least}, got {shots}")
    drawn = torch.cat([each[torch.randperm(len(each), generator=generator)[:shots]] for each in rows])
    return search.gallery[drawn].relabelled(classes), search.queries.of(classes).relabelled(classes)


def augment(
    x: Images, generator: torch.Generator, *, kinds: Sequence[str] = KINDS[:6], strength: float = 0.7
) -> Images:
    """One random view of every image: its stroke thicker or thinner, then as in `digits_views.augment`.

    stroke: at strength s, u is uniform from -min(s, 1) to min(s, 1) for each image, which goes |u| of the way to the
    brightest (u > 0) or the darkest (u < 0) of the 3 x 3 pixels around each.

    Args:
        x: images in [0, 1].
        generator: the source of randomness; the same state gives the same views.
        kinds: which changes, out of `KINDS`; the order does not matter.
        strength: how strong, from 0.

    Raises:
        ValueError: a kind is unknown, or the strength is negative.

    >>> x = glyphs(0).test.x
    >>> view = augment(x, torch.Generator().manual_seed(0))
    >>> view.shape == x.shape, bool((view == x).all())
    (True, False)
    """
    u = 2 * torch.rand(len(x), generator=generator).to(x) - 1  # drawn whatever the kinds are, as there
    if "stroke" in kinds:
        u = (min(strength, 1) * u)[:, None, None, None]
        thick, thin = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
        x = x + u.clamp_min(0) * (thick - x) + u.clamp_max(0) * (x - thin)
    others = [kind for kind in kinds if kind != "stroke"]
    return digits_views.augment(x, generator, kinds=others, strength=strength)


def views(
    x: Images, generator: torch.Generator, *, n: int = 2, kinds: Sequence[str] = KINDS[:6], strength: float = 0.7
) -> Float[Tensor, "batch views channels height width"]:
    """n random views of every image, as in `augment`.

    >>> views(glyphs(0).test.x, torch.Generator(), n=3).shape
    torch.Size([78, 3, 1, 28, 28])
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return augment(x.repeat_interleave(n, 0), generator, kinds=kinds, strength=strength).unflatten(0, (len(x), n))


def view_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int = 0,
    n: int = 2,
    kinds: Sequence[str] = KINDS[:6],
    strength: float = 0.7,
) -> Callable[[int], dict[str, Tensor]]:
    """step -> {"views" [batch, n, 1, side, side], "labels" [batch], "index" [batch]}, as in `digits_views`.

    >>> view_batches(glyphs(0).train, 64)(0)["views"].shape
    torch.Size([64, 2, 1, 28, 28])
    """
    return digits_views.view_batches(split, batch_size, seed=seed, n=n, kinds=kinds, strength=strength, draw=views)


def letters() -> tuple[str, ...]:
    """The character of each label; those from 312 on are unseen.

    >>> len(letters()), len(set(letters()))
    (512, 512)
    """
    return _pool()[0]


@cache
def digest() -> str:
    """SHA-256 over the letters and their images, in the order of labels and faces: equal where the pool is.

    >>> len(digest())
    64
    """
    characters, x = _pool()
    return hashlib.sha256("".join(characters).encode() + x.tobytes()).hexdigest()


def _split(rows: np.ndarray, size: int, draws: torch.Generator | None = None, strength: float = 0.0) -> Split:
    """Rows of the pool, as random views of them where there is a generator to draw those from."""
    x = torch.from_numpy(_pool()[1].reshape(-1, 1, SIDE, SIDE)[rows].astype(np.float32) / 255)
    if draws is not None and strength != 0:
        x = augment(x, draws, strength=strength)
    index = torch.from_numpy(rows)
    return Split(resize(x, size), index // len(FACES), index, domain=index % len(FACES))


@cache
def _seen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the seen letters: to train on [letters, faces], of validation, and the parts to test on."""
    rng = np.random.default_rng(0)
    rows = rng.permuted(np.arange(SEEN * len(FACES)).reshape(SEEN, -1), axis=1)
    tested = rows[:, :TEST].ravel()
    order = stratified_order(tested // len(FACES), rng)
    return rows[:, TEST + 1 :], rows[:, TEST], tested[order].reshape(PARTS, -1)


@cache
def _unseen(part: str) -> list[np.ndarray]:
    """Rows of the unseen letters of validation in two parts, or of the test in twenty."""
    first, last = (SEEN, SEEN + CHOICE) if part == "validation" else (SEEN + CHOICE, SEEN + UNSEEN)
    rows = np.arange(first * len(FACES), last * len(FACES))
    order = stratified_order(rows // len(FACES), np.random.default_rng(0))
    return list(rows[order].reshape(2 if part == "validation" else PARTS, -1))


@cache
def _pool() -> tuple[tuple[str, ...], np.ndarray]:
    """The letters in the order of their labels, and their images [letters, faces, 28, 28] from 0 to 255."""
    characters, x = _drawn()
    kept = _distinct(x)[: SEEN + UNSEEN]
    order = np.random.default_rng(0).permutation(kept)
    return tuple(characters[number] for number in order), x[order]


def _drawn() -> tuple[list[str], np.ndarray]:
    """All letters that every face has, by code point, and their images.

    An em is 100 pixels, five of which become one: the 140 rows of a canvas hold marks above capitals and cedillas, its
    140 columns the widest letter, which stands in the middle.
    """
    import matplotlib
    from matplotlib import ft2font  # late: only this world needs fonts

    plain = ft2font.LoadFlags.NO_HINTING if hasattr(ft2font, "LoadFlags") else ft2font.LOAD_NO_HINTING
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = [ft2font.FT2Font(str(folder / f"{face}.ttf")) for face in FACES]
    codes = sorted(set.intersection(*(set(font.get_charmap()) for font in fonts)))
    characters = [chr(code) for code in codes if unicodedata.category(chr(code)) in LETTERS]
    x = np.zeros((len(characters), len(FACES), SIDE, SIDE), np.uint8)
    for face, font in enumerate(fonts):
        font.set_size(100, 72)
        for number, character in enumerate(characters):
            font.set_text(character, 0, flags=plain)
            font.draw_glyphs_to_bitmap(antialiased=True)
            image = np.asarray(font.get_image())
            rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
            ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            top = BASELINE - math.ceil(font.load_char(ord(character), flags=plain).bbox[3] / 64)
            left = (FINE * SIDE - ink.shape[1]) // 2
            canvas = np.zeros((FINE * SIDE, FINE * SIDE), np.uint32)
            canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
            x[number, face] = canvas.reshape(SIDE, FINE, SIDE, FINE).sum((1, 3)) // FINE**2
    return characters, x


def _distinct(x: np.ndarray) -> list[int]:
    """The letters, in their order, that look like none before: in most faces, more than 2% of the ink differs.

    Ink is compared at half the size; what is in either of two letters is half of (both sums + the difference).
    """
    half = x.reshape(*x.shape[:2], SIDE // 2, 2, SIDE // 2, 2).sum((3, 5), dtype=np.int64).reshape(*x.shape[:2], -1)
    votes = np.zeros((len(x), len(x)), np.int64)
    for face in range(x.shape[1]):
        difference = cdist(half[:, face], half[:, face], "cityblock")
        ink = half[:, face].sum(1)
        votes += 100 * difference <= ink[:, None] + ink + difference
    same = 2 * votes > x.shape[1]
    kept: list[int] = []
    for number in range(len(x)):
        if not same[number, kept].any():
            kept.append(number)
    return kept
