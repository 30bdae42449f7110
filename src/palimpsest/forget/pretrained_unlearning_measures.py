"""How far a model has come from its forget documents towards documents that it never saw, and how forgiving a method is
of its learning rate (Yao et al. 2024, arXiv 2402.15159)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import nn

from palimpsest.forget.attacks import membership
from palimpsest.models.score import Encoded, score


def perplexity(model: nn.Module, rows: Encoded, *, pad_id: int) -> float:
    """exp of the mean negative log-likelihood over all scored tokens of the rows; infinite where that overflows."""
    found = score(model, rows, pad_id=pad_id)
    nll = -found.logp.sum() / max(1, found.length.sum())
    return math.exp(nll) if nll < 700 else math.inf


def approximate_gold(model: nn.Module, approximate_set: Encoded, *, pad_id: int) -> float:
    """The target in place of a retrained model's: the ORIGINAL model's perplexity on documents of the forget set's kind
    that it never saw."""
    return perplexity(model, approximate_set, pad_id=pad_id)


def report(
    model: nn.Module,
    target: float,
    forget: Encoded,
    approximate: Encoded,
    retain: Encoded,
    *,
    texts: Sequence[str],
    approximate_texts: Sequence[str],
    pad_id: int,
) -> dict[str, float]:
    """What became of an unlearned model, in the paper's measures.

    Args:
        target: `approximate_gold` of the original model.
        texts, approximate_texts: of the forget and the approximate rows, for the membership attacks.

    Returns:
        "forget perplexity", "retain perplexity", "gap" = |forget perplexity - target|, "relative gap" (by the target),
        and "membership AUC", that of the loss attack between forget and approximate rows: 0.5 is ideal.
    """
    found = perplexity(model, forget, pad_id=pad_id)
    attack = membership(model, forget, approximate, texts=texts, non_member_texts=approximate_texts, pad_id=pad_id)
    return {
        "forget perplexity": found,
        "retain perplexity": perplexity(model, retain, pad_id=pad_id),
        "gap": abs(found - target),
        "relative gap": abs(found - target) / target,
        "membership AUC": attack["loss"],
    }


def robustness(curve: Sequence[tuple[float, float, float]], *, max_gap: float = 0.2, max_growth: float = 0.1) -> float:
    """How forgiving a method is of its learning rate: over how many decades of it the forget perplexity stays within
    `max_gap` of the target (relative to it) and the retain perplexity grows by less than `max_growth`.

    Between the rates tried, the logarithms of both perplexities are interpolated linearly in the logarithm of the rate;
    outside of them nothing counts.

    Args:
        curve: (learning rate, forget perplexity / target, retain perplexity / its value before) for each rate tried.

    Raises:
        ValueError: for fewer than two rates, one given twice, or a number that is not positive.

    >>> round(robustness([(1e-4, 0.8, 1.0), (1e-3, 1.0, 1.0), (1e-2, 1.2, 1.0)]), 2)
    2.0
    """
    rates = [rate for rate, _, _ in curve]
    if len(curve) < 2 or len(set(rates)) < len(rates) or not min(min(point) for point in curve) > 0:
        raise ValueError(f"need positive numbers at two or more different learning rates, got {list(curve)}")
    x, forget, retain = np.log(np.clip(sorted(curve), 1e-300, 1e300)).T  # an infinite perplexity is just a large one
    fine = np.linspace(x[0], x[-1], 20_001)
    within = np.abs(np.exp(np.minimum(np.interp(fine, x, forget), 10)) - 1) <= max_gap
    within &= np.interp(fine, x, retain) < np.log1p(max_growth)
    return float(within.mean() * (x[-1] - x[0]) / np.log(10))
