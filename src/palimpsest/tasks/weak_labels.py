"""Labels that say less than the truth: few of them, confused ones, and sets of candidates. The truth is kept.

What acts on a split takes any `Split` (of digits, MNIST, letters) and a `torch.Generator`. Labels that are wrong at
random, long tails and missing positives of many labels are in `palimpsest.tasks.digits_labels`.

Sources: confusions of handwritten digits: Patrini et al. (2017), arXiv 1609.03683, section 5; candidate sets by
independent flips: Lv et al. (2020), PRODEN, arXiv 2002.08053.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from palimpsest.tasks.splits import Split

CONFUSIONS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}
"""what handwritten digits are mistaken for"""


@dataclass(frozen=True, eq=False)
class Candidates(Split):
    """Images of which only a set of candidates is known: `y` is -1, `clean_y` the truth.

    Attributes:
        candidates: which classes a row may have; the true one is among them.
    """

    candidates: Bool[Tensor, "n classes"] | None = None


def few_labels(split: Split, per_class: int, generator: torch.Generator) -> Split:
    """Exactly `per_class` rows of every class, chosen at random, keep their label; the others read -1.

    `split[split.y >= 0]` is the labelled part. Fewer labels from an equally seeded generator are among the more.

    Args:
        split: rows with labels from 0.
        per_class: how many labels a class keeps, at least 1.
        generator: the source of randomness.

    Returns:
        The same rows, with the truth as `clean_y`.

    Raises:
        ValueError: a class has fewer rows than labels are asked for, or a row has no label.

    >>> from palimpsest.tasks.mnist import mnist
    >>> few = few_labels(mnist(0).train, 4, torch.Generator().manual_seed(0))
    >>> len(few), few.y.add(1).bincount().tolist()
    (2500, [2460, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4])
    """
    counts = _counts(split.y)
    fewest = int(counts[counts > 0].min())
    if not 1 <= per_class <= fewest:
        raise ValueError(f"per_class must be from 1 to the {fewest} rows of the rarest class, got {per_class}")
    rank = torch.rand(len(split), generator=generator)
    y = torch.full_like(split.y, -1)
    for label in counts.nonzero().flatten():
        rows = (split.y == label).nonzero().flatten()
        y[rows[rank[rows].argsort()[:per_class]]] = label
    return dataclasses.replace(split, y=y, clean_y=_truth(split))


def confused(
    split: Split, rate: float, generator: torch.Generator, *, confusions: Mapping[int, int] = CONFUSIONS
) -> Split:
    """Asymmetric label noise: a share of the rows of each confused class gets the label it is mistaken for.

    Of the n_c rows of a class c in `confusions` exactly round(rate * n_c), chosen at random, get the label
    confusions[c]; the labels of other classes stay right.

    Args:
        split: rows with labels from 0.
        rate: share of each confused class that is wrong, from 0 to 1.
        generator: the source of randomness.
        confusions: class to class; the default is that of handwritten digits.

    Returns:
        The split with the changed labels as `y` and the true ones as `clean_y`.

    Raises:
        ValueError: the rate is not from 0 to 1, or a row has no label.

    >>> from palimpsest.tasks.mnist import mnist
    >>> made = confused(mnist(0).train, 0.3, torch.Generator().manual_seed(0))
    >>> sevens = made.y[made.clean_y == 7].bincount()
    >>> round((sevens[1] / sevens.sum()).item(), 1), bool((made.y == made.clean_y)[made.clean_y == 4].all())
    (0.3, True)
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be from 0 to 1, got {rate}")
    _counts(split.y)
    order = torch.randperm(len(split), generator=generator)
    y = split.y.clone()
    for label, mistaken in confusions.items():
        rows = order[split.y[order] == label]
        y[rows[: round(rate * len(rows))]] = mistaken
    return dataclasses.replace(split, y=y, clean_y=_truth(split))


def candidate_sets(
    y: Int[Tensor, " n"], rate: float, generator: torch.Generator, *, classes: int = 10
) -> Bool[Tensor, "n classes"]:
    """The true class, and each of the others with probability `rate`, independently.

    >>> y = torch.arange(10).repeat(1000)
    >>> sets = candidate_sets(y, 0.3, torch.Generator().manual_seed(0))
    >>> bool(sets[torch.arange(len(y)), y].all()), round(sets.sum(1).float().mean().item(), 1)
    (True, 3.7)

    Raises:
        ValueError: the rate is not from 0 to 1, or a label is not one of the classes.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be from 0 to 1, got {rate}")
    if len(_counts(y)) > classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {int(y.max())}")
    return (torch.rand(len(y), classes, generator=generator) < rate).scatter(1, y[:, None], True)


def with_candidates(split: Split, rate: float, generator: torch.Generator, *, classes: int = 10) -> Candidates:
    """The split with `candidate_sets` for labels.

    >>> from palimpsest.tasks.mnist import mnist
    >>> made = with_candidates(mnist(0).test, 0.5, torch.Generator().manual_seed(0))
    >>> tuple(made.candidates.shape), made.y.unique(), len(made[:10])
    ((100, 10), tensor([-1]), 10)
    """
    sets = candidate_sets(split.y, rate, generator, classes=classes)
    fields = {**vars(split), "y": torch.full_like(split.y, -1), "clean_y": _truth(split)}
    return Candidates(**fields, candidates=sets)


def _truth(split: Split) -> Tensor:
    return split.y if split.clean_y is None else split.clean_y


def _counts(y: Tensor) -> Tensor:
    if y.ndim != 1 or y.is_floating_point() or not len(y) or int(y.min()) < 0:
        raise ValueError(f"every row must have one label from 0, got {y.dtype} {tuple(y.shape)} {y.unique().tolist()}")
    return y.bincount()
