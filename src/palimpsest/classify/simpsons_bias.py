"""Simpson's bias: what is trained part by part is not what is measured on all of it (Yuan and others, 2021, arXiv
2103.11795).

F1, Dice and BLEU are measured on a whole set, and training averages them over samples, sentences or batches. Where a
measure is no mean of its parts', the mean differs from it, and can rank two models the other way round, as in Simpson's
paradox:

    bias = mean_t G(S_t) - F(S),    S_t the parts of S

Means of terms of single samples (cross-entropy, accuracy) have none when the parts are of one size. The Dice
coefficient of each level is `palimpsest.losses.multilabel.soft_dice`: "row" of each sample, "all" of a batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.losses.multilabel import soft_dice

Score = Callable[[Tensor, Tensor], Tensor]
Level = Literal["sample", "batch"]


def dice_of_tokens(
    p: Float[Tensor, "..."], targets: Tensor, gamma: float = 1.0, level: Level = "sample"
) -> Float[Tensor, ""]:
    """The Dice coefficient of one kind of token: (2 sum p y + gamma) / (sum p + sum y + gamma) of each token, averaged
    ("sample"), or with sums over all tokens ("batch"). What is trained is 1 - it.

    Raises:
        ValueError: shapes that differ, a negative gamma, or an unknown level.

    >>> p, y = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1, 0, 0])
    >>> dice_of_tokens(p, y), dice_of_tokens(p, y, level="batch")  # (1 + 1/2 + 1) / 3 and 3 / 4
    (tensor(0.8333), tensor(0.7500))
    """
    if level not in ("sample", "batch"):
        raise ValueError(f"level must be sample or batch, got {level!r}")
    p, targets = p.reshape(-1, 1), targets.reshape(-1, 1)
    return soft_dice(p, targets, gamma, over="row" if level == "sample" else "all")


def simpson_bias(
    population: Score, part: Score, predictions: Tensor, targets: Tensor, parts: Sequence[Tensor]
) -> Float[Tensor, ""]:
    """The mean over parts of `part` less `population` of all rows.

    Args:
        population, part: (predictions, targets) -> a score.
        parts: the row numbers of each part; every row belongs to one.

    Raises:
        ValueError: no parts, or parts that are not each row once.

    >>> p, y = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([1, 0, 0, 0])
    >>> f1 = lambda p, y: soft_dice(p[:, None], y[:, None], smooth=0.0)
    >>> simpson_bias(f1, f1, p, y, torch.arange(4).split(2))  # (2 / 3 + 1) / 2 - 2 / 3
    tensor(0.1667)
    """
    if not len(parts) or not torch.cat(list(parts)).sort().values.equal(torch.arange(len(predictions))):
        raise ValueError(f"parts must hold each of the {len(predictions)} rows once")
    each = torch.stack([torch.as_tensor(part(predictions[rows], targets[rows])) for rows in parts])
    return each.mean() - population(predictions, targets)


def bias_curve(
    score: Score, predictions: Tensor, targets: Tensor, sizes: Sequence[int], generator: torch.Generator
) -> dict[int, float]:
    """The absolute bias of a score against the size of randomly drawn parts; rows that fill no part are left out.

    Raises:
        ValueError: a size below 1 or above the number of rows.

    >>> y = (torch.arange(64) % 4 == 0).float()[:, None]
    >>> curve = bias_curve(lambda p, y: soft_dice(p, y, 0.0), 0.5 * y, y, (2, 64), torch.Generator().manual_seed(0))
    >>> curve[2] > 0.1 > curve[64]
    True
    """
    if not all(1 <= size <= len(predictions) for size in sizes):
        raise ValueError(f"sizes must be 1 to {len(predictions)}, got {list(sizes)}")
    found = {}
    for size in sizes:
        rows = torch.randperm(len(predictions), generator=generator)[: len(predictions) // size * size]
        p, y = predictions[rows], targets[rows]
        found[size] = abs(float(simpson_bias(score, score, p, y, torch.arange(len(rows)).split(size))))
    return found


def reversal_rate(population: Sequence[float], parts: Sequence[float]) -> float:
    """The share of pairs of models that the two scores rank in opposite ways; ties are no reversal.

    Raises:
        ValueError: fewer than two models, or different numbers of scores.

    >>> reversal_rate([0.1, 0.2, 0.3], [0.1, 0.3, 0.2])  # one of three pairs
    0.3333333333333333
    """
    if len(population) != len(parts) or len(population) < 2:
        raise ValueError(f"need two scores of each of two models at least, got {len(population)} and {len(parts)}")
    pairs = list(combinations(zip(population, parts, strict=True), 2))
    return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs) / len(pairs)


def sentence_bleu(candidate: Sequence[str], reference: Sequence[str], n: int = 4) -> float:
    """BLEU of a sentence, with 1 added to the counts of every order above the first (Lin and Och 2004).

    >>> sentence_bleu("a b c d".split(), "a b c d".split())
    1.0
    """
    return _bleu([(candidate, reference)], n, smooth=1)


def corpus_bleu(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], n: int = 4) -> float:
    """BLEU with counts summed over all pairs of candidate and reference before their ratio is taken.

    >>> corpus_bleu([("a b c d".split(), "a b c d".split()), ("x".split(), "a b".split())], n=1)  # 4/5 exp(1 - 6/5)
    0.6549846024623855
    """
    return _bleu(pairs, n, smooth=0)


def _bleu(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], n: int, smooth: int) -> float:
    logs = 0.0
    for order in range(1, n + 1):
        right = many = 0
        for candidate, reference in pairs:
            said, asked = (
                Counter(zip(*(text[i:] for i in range(order)), strict=False)) for text in (candidate, reference)
            )
            right, many = right + (said & asked).total(), many + said.total()
        more = smooth if order > 1 else 0
        if not right + more or not many + more:
            return 0.0
        logs += math.log((right + more) / (many + more)) / n
    length, wanted = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return math.exp(logs + min(0.0, 1 - wanted / length))
