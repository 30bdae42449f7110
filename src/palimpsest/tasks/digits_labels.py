"""Digits whose labels are wrong, unbalanced or missing; the truth is always kept.

`digits_noisy` and `digits_longtail` are whole tasks. Their parts work on any `Split`: label noise, long tails, test
sets with other class frequencies, attributes that go with a label at a given rate, and labels of several digits of
which some are not observed.

Sources: pair flips: Han et al. (2018), Co-teaching, arXiv 1804.06872; exponential tails: Cui et al. (2019), arXiv
1901.05555; forward and backward test sets: Hong et al. (2021), LADE, arXiv 2012.00321; single positives: Cole et al.
(2021), arXiv 2106.09708.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.tasks.digits import CLASSES, digits
from palimpsest.tasks.fresh import generator as stream
from palimpsest.tasks.splits import Split, Splits

LABELS, TAIL = 10, 11  # random streams of this file


def digits_noisy(
    seed: int,
    rate: float,
    kind: str = "symmetric",
    *,
    train: int | None = None,
    validation: int = 200,
    test: int = 450,
    noise: float = 0.0,
    size: int = 8,
) -> Splits[Split]:
    """Digits with a share of wrong labels in training and validation; the test labels are right.

    The true labels are in `clean_y`, so `split.y != split.clean_y` are the wrong ones. For equally noisy test labels,
    apply `noisy` to the test split.

    Args:
        seed: 0 to 999,999; the images are those of `digits(seed, ...)`.
        rate: share of labels that are wrong, from 0 to 1, exact to one label.
        kind: "symmetric" (any other class) or "pair" (the next class).
        train, validation, test, noise, size: as in `digits`.

    Example:
        >>> task = digits_noisy(0, 0.4, train=1000)
        >>> int((task.train.y != task.train.clean_y).sum()), task.test.clean_y is None
        (400, True)
    """
    task = digits(seed, train=train, validation=validation, test=test, noise=noise, size=size)
    return Splits(
        noisy(task.train, rate, stream(seed, "train", LABELS), kind=kind),
        noisy(task.validation, rate, stream(seed, "validation", LABELS), kind=kind),
        task.test,
    )


def digits_longtail(
    seed: int,
    imbalance: float = 50,
    *,
    order: Sequence[int] = tuple(range(CLASSES)),
    validation: int = 200,
    test: int = 450,
    noise: float = 0.0,
    size: int = 8,
) -> Splits[Split]:
    """Digits whose training classes follow an exponential tail; validation and test stay balanced.

    Args:
        seed: 0 to 999,999; the images are among those of `digits(seed, ...)`.
        imbalance: images of the most frequent class for one of the rarest, at least 1.
        order: the classes from the most frequent to the rarest.
        validation, test, noise, size: as in `digits`.

    Example:
        >>> counts = digits_longtail(0, 50).train.y.bincount()
        >>> bool(counts[0] > 100), int(counts[9])
        (True, 2)
    """
    task = digits(seed, validation=validation, test=test, noise=noise, size=size)
    return dataclasses.replace(task, train=long_tail(task.train, imbalance, stream(seed, "train", TAIL), order=order))


def noisy(
    split: Split,
    rate: float,
    generator: torch.Generator,
    *,
    kind: str = "symmetric",
    classes: int = CLASSES,
) -> Split:
    """A share of wrong labels: exactly round(rate * n) rows, chosen at random, get another class.

    symmetric: each of the other classes with probability 1 / (classes - 1); pair: (y + 1) mod classes.

    Args:
        split: rows with labels 0 to classes - 1.
        rate: share of rows to change, from 0 to 1.
        generator: the source of randomness.
        kind: "symmetric" or "pair".
        classes: number of classes.

    Returns:
        The split with the changed labels as `y` and the true ones as `clean_y`.

    Raises:
        ValueError: the rate is not from 0 to 1, the kind is unknown, or a label is not one of at least two classes.
    """
    if kind not in ("symmetric", "pair"):
        raise ValueError(f"kind must be 'symmetric' or 'pair', got {kind!r}")
    wrong = _some(len(split), rate, generator)
    offset = torch.randint(1, max(2, classes), wrong.shape, generator=generator)
    _labels(split.y, classes)
    y = split.y.clone()
    y[wrong] = (y[wrong] + (offset if kind == "symmetric" else 1)) % classes
    return dataclasses.replace(split, y=y, clean_y=split.y if split.clean_y is None else split.clean_y)


def correlated(
    y: Int[Tensor, " n"],
    agreement: float,
    generator: torch.Generator,
    *,
    classes: int = CLASSES,
) -> Int[Tensor, " n"]:
    """An attribute that equals the label in exactly round(agreement * n) rows and is another class in the rest.

    With `agreement` = 1 / classes it says nothing about the label; above, it is a shortcut.

    >>> y = torch.arange(10).repeat(100)
    >>> int((correlated(y, 0.95, torch.Generator().manual_seed(0)) == y).sum())
    950
    """
    _labels(y, classes)
    agrees = round(_share(agreement, "agreement") * len(y))
    other = torch.randperm(len(y), generator=generator)[agrees:]
    attribute = y.clone()
    offset = torch.randint(1, classes, other.shape, generator=generator)
    attribute[other] = (attribute[other] + offset) % classes
    return attribute


def exponential_counts(head: int, imbalance: float, classes: int = CLASSES) -> tuple[int, ...]:
    """Class sizes head * imbalance^(-k / (classes - 1)) for k = 0 .. classes - 1, rounded, at least 1.

    >>> exponential_counts(100, 20, classes=5)
    (100, 47, 22, 11, 5)
    """
    if head < 1 or not imbalance >= 1 or classes < 2:
        raise ValueError(
            f"need head >= 1, imbalance >= 1 and two classes or more, got {head}, {imbalance} and {classes}"
        )
    return tuple(max(1, round(head * imbalance ** (-k / (classes - 1)))) for k in range(classes))


def subsample(split: Split, counts: Sequence[int | None], generator: torch.Generator) -> Split:
    """Random rows, `counts[c]` of each class c (None: all of them), in the split's order.

    >>> train = digits(0).train
    >>> rare_eights = [None] * 8 + [5, None]
    >>> int((subsample(train, rare_eights, torch.Generator().manual_seed(0)).y == 8).sum())
    5

    Raises:
        ValueError: a class has fewer rows than asked for, or a label has no count.
    """
    _labels(split.y, len(counts))
    rank = torch.rand(len(split), generator=generator)
    kept = torch.ones(len(split), dtype=torch.bool)
    for label, count in enumerate(counts):
        if count is None:
            continue
        rows = (split.y == label).nonzero().flatten()
        if not 0 <= count <= len(rows):
            raise ValueError(f"class {label} has {len(rows)} rows, asked for {count}")
        kept[rows[rank[rows].argsort()[count:]]] = False
    return split[kept]


def long_tail(
    split: Split,
    imbalance: float,
    generator: torch.Generator,
    *,
    order: Sequence[int] = tuple(range(CLASSES)),
) -> Split:
    """Class sizes along `exponential_counts`, as large as the rows allow; `order` lists the classes, most frequent
    first.

    Raises:
        ValueError: `order` is not a permutation of the classes, or a class has no row.
    """
    classes = len(order)
    if sorted(order) != list(range(classes)):
        raise ValueError(f"order must hold every class from 0 to {classes - 1} once, got {tuple(order)}")
    _labels(split.y, classes)
    available = split.y.bincount(minlength=classes)[list(order)].tolist()
    # The largest head for which every class has the rows that its place in the tail asks for.
    head = next(
        (
            head
            for head in range(available[0], 0, -1)
            if all(n <= have for n, have in zip(exponential_counts(head, imbalance, classes), available, strict=True))
        ),
        None,
    )
    if head is None:
        raise ValueError(f"every class needs a row, the classes {tuple(order)} have {tuple(available)}")
    counts = [0] * classes
    for label, count in zip(order, exponential_counts(head, imbalance, classes), strict=True):
        counts[label] = count
    return subsample(split, counts, generator)


def with_frequencies(
    split: Split,
    kind: str,
    generator: torch.Generator,
    *,
    order: Sequence[int] = tuple(range(CLASSES)),
) -> Split:
    """A test set with other class frequencies: "forward50" has the long tail of training, "backward50" its reverse.

    Args:
        split: a balanced split.
        kind: "uniform", or "forward" or "backward" followed by the imbalance, a number of at least 1.
        generator: the source of randomness.
        order: the classes from frequent to rare, as in training.

    Example:
        >>> test = digits(0).test
        >>> counts = with_frequencies(test, "backward10", torch.Generator().manual_seed(0)).y.bincount()
        >>> int(counts[0]), bool(counts[9] > 40)
        (4, True)
    """
    if kind == "uniform":
        return long_tail(split, 1, generator, order=order)
    match = re.fullmatch(r"(forward|backward)(\d+(?:\.\d+)?)", kind)
    if match is None:
        raise ValueError(f"kind must be 'uniform', or 'forward' or 'backward' and a number, got {kind!r}")
    order = order if match[1] == "forward" else tuple(reversed(order))
    return long_tail(split, float(match[2]), generator, order=order)


def single_positive(y: Float[Tensor, "n labels"], generator: torch.Generator) -> Float[Tensor, "n labels"]:
    """Of every row's positive labels one, chosen at random, is kept; the others read 0 (not observed).

    >>> single_positive(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), torch.Generator().manual_seed(0)).sum(1)
    tensor([1., 0.])
    """
    _binary(y)
    score = torch.rand(y.shape, generator=generator).masked_fill(y == 0, -1)
    kept = torch.zeros_like(y).scatter_(1, score.argmax(1, keepdim=True), 1)
    return kept * y


def drop_positives(y: Float[Tensor, "n labels"], share: float, generator: torch.Generator) -> Float[Tensor, "n labels"]:
    """Exactly round(share * p) of the p positive labels, chosen at random, read 0 (not observed).

    >>> drop_positives(torch.ones(10, 5), 0.2, torch.Generator().manual_seed(0)).sum()
    tensor(40.)
    """
    _binary(y)
    positive = y.flatten().nonzero().flatten()
    dropped = positive[_some(len(positive), share, generator)]
    return y.flatten().index_fill(0, dropped, 0).view_as(y)


def _some(n: int, share: float, generator: torch.Generator) -> Int[Tensor, " some"]:
    return torch.randperm(n, generator=generator)[: round(_share(share, "rate") * n)]


def _share(share: float, name: str) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {share}")
    return share


def _labels(y: Tensor, classes: int) -> None:
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"labels must be whole numbers [n], got {y.dtype} {tuple(y.shape)}")
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}")


def _binary(y: Tensor) -> None:
    if y.ndim != 2 or not bool(((y == 0) | (y == 1)).all()):
        raise ValueError(f"y must be [n, labels] of zeros and ones, got {y.dtype} {tuple(y.shape)}")
