"""The same digits in other looks, and colours that mislead.

`digits_domains` shows the digits in several looks (plain, inverted, rotated, textured, ...), for generalisation to a
look that training lacks, adaptation to it, or one task after another. `coloured_digits` is the two-class task in
which colour predicts the label better than shape does, in training; at test time it predicts the opposite.

Sources: rotated digits as domains: Ghifary et al. (2015), arXiv 1508.07680; coloured digits: Arjovsky et al. (2019),
Invariant Risk Minimization, arXiv 1907.02893, section 5.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.digits import digits
from palimpsest.tasks.digits_images import add_noise, blur, colourise, invert, rotate, shift, speckle, texture
from palimpsest.tasks.digits_labels import correlated, noisy
from palimpsest.tasks.fresh import SPLITS, check_disjoint, stratified_order
from palimpsest.tasks.fresh import generator as stream
from palimpsest.tasks.splits import Split, Splits, concatenated, numpy_rng, partition

DOMAINS = ("plain", "inverted", "rotated", "textured", "blurred", "noisy", "coloured")
GROUPS = ((0, 6, 8), (1, 4, 7))
LOOKS, COLOURS = 20, 60  # random streams of this file: one a domain, one an environment


def look(x: Float[Tensor, "n 1 height width"], domain: str, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Grey images in the look of a domain.

    plain: unchanged; inverted: 1 - x; rotated: by 90 degrees, or "rotated18" by 18 and so on (counterclockwise);
    textured: a smooth random pattern behind the ink, at strength 0.7; blurred: standard deviation 1 pixel for a side
    of 8; noisy: standard deviation 0.3; coloured: each image in a random colour, three channels.

    >>> look(torch.zeros(1, 1, 8, 8), "inverted", torch.Generator()).mean()
    tensor(1.)

    Raises:
        ValueError: the domain is unknown.
    """
    rotated = re.fullmatch(r"rotated(-?\d+(?:\.\d+)?)?", domain)
    if rotated:
        return rotate(x, float(rotated[1] or 90))
    if domain == "plain":
        return x
    if domain == "inverted":
        return invert(x)
    if domain == "textured":
        return texture(x, 0.7, generator)
    if domain == "blurred":
        return blur(x, x.shape[-1] / 8)
    if domain == "noisy":
        return add_noise(x, 0.3, generator)
    if domain == "coloured":
        return colourise(x, torch.randint(6, (len(x),), generator=generator))
    raise ValueError(f"domain must be one of {', '.join(DOMAINS)} or 'rotated' and an angle, got {domain!r}")


def digits_domains(
    seed: int,
    domains: Sequence[str] = ("plain", "inverted", "rotated", "textured"),
    *,
    shared: bool = True,
    train: int | None = None,
    validation: int = 200,
    test: int = 450,
    noise: float = 0.0,
    size: int = 8,
) -> dict[str, Splits[Split]]:
    """The digits in several looks: one task a domain, `split.domain` is its position in `domains`.

    Test images are others than training images in every domain, so that a held-out domain's test set is new in look
    and in content. With the domain "coloured" among them, all domains have three channels.

    Args:
        seed: 0 to 999,999.
        domains: names as in `look`.
        shared: every domain shows the same training images; otherwise each has its own part of them.
        train: training images a domain; None for all (a fair part of them where they are not shared).
        validation, test, noise, size: as in `digits`.

    Returns:
        The tasks by name of domain, in the order given.

    Example:
        >>> tasks = digits_domains(0, ("plain", "rotated18", "rotated36"), train=100)
        >>> list(tasks), tuple(tasks["rotated18"].train.x.shape)
        (['plain', 'rotated18', 'rotated36'], (100, 1, 8, 8))
    """
    if not domains or len(set(domains)) != len(domains):
        raise ValueError(f"domains must be distinct and at least one, got {tuple(domains)}")
    task = digits(seed, train=train if shared else None, validation=validation, test=test, noise=noise, size=size)
    parts = [task.train] * len(domains)
    if not shared:
        count = len(task.train) // len(domains) if train is None else train
        parts = partition(task.train, [count] * len(domains), stream(seed, "train", LOOKS - 1))
    channels = 3 if "coloured" in domains else 1

    def dressed(split: Split, part: str, number: int) -> Split:
        x = look(split.x, domains[number], stream(seed, part, LOOKS + number))
        if x.shape[1] != channels:
            x = x.expand(-1, channels, -1, -1)
        return dataclasses.replace(split, x=x, domain=torch.full((len(split),), number))

    return {
        domain: Splits(
            *(
                dressed(split, part, number)
                for part, split in zip(SPLITS, (parts[number], task.validation, task.test), strict=True)
            )
        )
        for number, domain in enumerate(domains)
    }


def leave_one_out(tasks: Mapping[str, Splits[Split]], held_out: str) -> Splits[Split]:
    """Train and validate on all domains but one, test on that one.

    >>> task = leave_one_out(digits_domains(0, train=100), "inverted")
    >>> len(task.train), task.train.domain.unique(), task.test.domain.unique()
    (300, tensor([0, 2, 3]), tensor([1]))
    """
    if held_out not in tasks or len(tasks) < 2:
        raise ValueError(f"held_out must be one of two domains or more, {', '.join(tasks)}; got {held_out!r}")
    sources = [task for domain, task in tasks.items() if domain != held_out]
    return Splits(
        concatenated([task.train for task in sources]),
        concatenated([task.validation for task in sources]),
        tasks[held_out].test,
    )


def rotation_classes(split: Split, turns: int = 4) -> Split:
    """Every image in `turns` quarter turns, each a class of its own: label = turns * y + turn, counterclockwise.

    Ten digits give 40 classes; `y // turns` is the digit, `domain` the turn.

    >>> part = rotation_classes(digits(0).test)
    >>> len(part), int(part.y.max())
    (1800, 39)
    """
    if turns not in range(1, 5):
        raise ValueError(f"turns must be from 1 to 4, got {turns}")
    return concatenated(
        [
            dataclasses.replace(
                split,
                x=rotate(split.x, 90 * turn),
                y=turns * split.y + turn,
                domain=torch.full((len(split),), turn),
            )
            for turn in range(turns)
        ]
    )


@dataclass(frozen=True)
class Coloured:
    """Environments to train on, one to choose settings on and one to test on, numbered in this order by `domain`."""

    environments: tuple[Split, ...]
    validation: Split
    test: Split


def coloured_digits(
    seed: int,
    *,
    agreement: Sequence[float] = (0.9, 0.8),
    test_agreement: float = 0.1,
    label_noise: float = 0.25,
    groups: tuple[Sequence[int], Sequence[int]] = GROUPS,
    n: int | None = 5000,
    test_n: int | None = 2000,
    noise: float = 0.1,
    marks: int = 0,
) -> Coloured:
    """Two classes of digits in two colours; in training the colour tells the class better than the shape does.

    The class is the group of the digit; a share `label_noise` of the classes is flipped and gives y; the colour
    equals y in a share `agreement` of an environment. With the defaults shape predicts y in 75% everywhere, colour in
    90% and 80% of the training environments and in 10% of the test. Shares are exact. Environments have images of
    their own.

    Args:
        seed: 0 to 999,999.
        agreement: share of each training environment in which the colour equals y; the validation set, made from
            other images, has their mean.
        test_agreement: the same for the test set (0.5: the colour says nothing).
        label_noise: share of flipped labels, in every environment.
        groups: the digits of class 0 and of class 1.
        n: images an environment, enlarged from its digits by shifts of up to one pixel and noise; None takes every
            digit once, as it is. A tenth of it, at least 100, validates.
        test_n: the same for the test set.
        noise: standard deviation of the noise of enlarged images.
        marks: so many random pixels of every image get a random value, by which it can be memorised.

    Returns:
        Images [n, 2, 8, 8] (channel = colour) with labels 0 and 1, `clean_y` (the group), `colour` and `domain`.

    Example:
        >>> task = coloured_digits(0)
        >>> [round((part.colour == part.y).float().mean().item(), 2) for part in (*task.environments, task.test)]
        [0.9, 0.8, 0.1]
    """
    first, second = (set(group) for group in groups)
    if first & second or not first or not second:
        raise ValueError(f"groups must be two sets of digits without a common one, got {groups}")
    if not agreement:
        raise ValueError("agreement needs a number for every training environment, got none")
    task = digits(seed, classes=sorted(first | second))
    size = len(task.train) // len(agreement)
    pools = partition(task.train, [size] * len(agreement), stream(seed, "train", COLOURS - 1))

    def environment(pool: Split, part: str, share: float, count: int | None, number: int) -> Split:
        generator = stream(seed, part, COLOURS + number)
        made = pool if count is None else enlarge(pool, count, generator, noise=noise)
        return dataclasses.replace(
            colour_environment(made, share, generator, label_noise=label_noise, groups=groups, marks=marks),
            domain=torch.full((len(made),), number),
        )

    environments = tuple(
        environment(pool, "train", share, n, number)
        for number, (pool, share) in enumerate(zip(pools, agreement, strict=True))
    )
    number = len(environments)
    held_out = None if n is None else max(100, n // 10)
    mean = sum(agreement) / number
    validation = environment(task.validation, "validation", mean, held_out, number)
    test = environment(task.test, "test", test_agreement, test_n, number + 1)
    check_disjoint(
        **{f"environment_{k}": part.index.tolist() for k, part in enumerate(environments)},
        validation=validation.index.tolist(),
        test=test.index.tolist(),
    )
    return Coloured(environments, validation, test)


def colour_environment(
    split: Split,
    agreement: float,
    generator: torch.Generator,
    *,
    label_noise: float = 0.25,
    groups: tuple[Sequence[int], Sequence[int]] = GROUPS,
    marks: int = 0,
) -> Split:
    """One environment of `coloured_digits` from digits of the two groups, each row used once."""
    group = torch.isin(split.y, torch.tensor(list(groups[1]))).long()
    if not bool(torch.isin(split.y, torch.tensor([*groups[0], *groups[1]])).all()):
        raise ValueError(f"every digit must be in one of the groups {groups}, got {split.y.unique().tolist()}")
    x = speckle(split.x, marks, generator) if marks else split.x
    flipped = noisy(dataclasses.replace(split, y=group), label_noise, generator, classes=2)
    colour = correlated(flipped.y, agreement, generator, classes=2)
    channel = torch.arange(2)[:, None, None] == colour[:, None, None, None]
    return dataclasses.replace(flipped, x=x * channel, colour=colour)


def enlarge(split: Split, n: int, generator: torch.Generator, *, pixels: int = 1, noise: float = 0.1) -> Split:
    """n rows made from fewer, each time shifted by up to `pixels` either way and with fresh noise.

    Every row is used as often as any other, give or take one.

    >>> made = enlarge(digits(0).train, 5000, torch.Generator().manual_seed(0))
    >>> tuple(made.x.shape), int(made.index.unique().numel())
    ((5000, 1, 8, 8), 1147)
    """
    if n < 0 or pixels < 0 or (n and not len(split)):
        raise ValueError(f"need n >= 0, pixels >= 0 and a row to start from, got {n}, {pixels} and {len(split)} rows")
    order = torch.from_numpy(stratified_order(split.y.numpy(), numpy_rng(generator)))
    made = split[order.repeat(-(-n // max(1, len(split))))[:n]]
    offsets: Int[Tensor, "2 n"] = torch.randint(-pixels, pixels + 1, (2, n), generator=generator)
    return made.mapped(lambda x: add_noise(shift(x, *offsets), noise, generator))
