"""Unlearning of pre-trained language models (Yao, Chien, Du, Niu, Wang, Cheng and Yue, 2024, arXiv 2402.15159).

What a model saw in pretraining cannot be retrained without: nobody trains it twice. The paper replaces the retrained
gold standard by an approximate set, documents of the same kind that the model never saw: a model that never saw the
forget documents would find them as surprising as those. Seven methods, all at the level of tokens over whole documents,
are driven until the forget documents' perplexity reaches that of the approximate set:

    grad_ascent           -CE(f)
    random_label          CE(f, labels drawn uniformly from the vocabulary)
    adversarial_label     CE(f, labels = the model's most likely token other than the true one, recomputed, detached)
    ga+gd, ga+kl          -CE(f) + alpha CE(r),  -CE(f) + alpha KL(ref || model) on r;  r is general text ("_general")
                          or text of the forget documents' own kind ("_in")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palimpsest.forget.attacks import membership
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.procedure import Batch, ForgetData, unlearn
from palimpsest.forget.retain_term import Retain
from palimpsest.models.score import IGNORED, Encoded, cross_entropy, runners_up, score

METHODS = (
    *("grad_ascent", "random_label", "adversarial_label"),
    *("ga+gd_general", "ga+kl_general", "ga+gd_in", "ga+kl_in"),
)


@dataclass(frozen=True)
class RandomTokens(Retain):
    """CE of the forget answers' positions against tokens drawn uniformly from the vocabulary at each step, plus the
    retain term."""

    def loss(self, state: nn.Module | None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        rows = batch["forget"]
        drawn = torch.randint_like(rows["labels"], model.get_input_embeddings().num_embeddings)
        labels = torch.where(rows["labels"] == IGNORED, IGNORED, drawn)
        return {"random": cross_entropy(model, {**rows, "labels": labels}), **self.retain_term(state, model, batch)}


@dataclass(frozen=True)
class AdversarialLabel(Retain):
    """CE of the forget answers' positions against the token that the model itself would say next but for the true one,
    plus the retain term."""

    def loss(self, state: nn.Module | None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        rows = {**batch["forget"], "labels": runners_up(model, batch["forget"])}
        return {"adversarial": cross_entropy(model, rows), **self.retain_term(state, model, batch)}


def seven_methods(name: str, alpha: float = 1.0) -> GradAscent | RandomTokens | AdversarialLabel:
    """One of the paper's seven methods, by its name in `METHODS`. The retain rows of its data are general text for
    "_general" and text of the forget documents' kind for "_in".

    Args:
        alpha: weight of the retain term.

    Raises:
        ValueError: if there is no such method.

    >>> seven_methods("ga+kl_in").retain
    'kl'
    """
    if name not in METHODS:
        raise ValueError(f"name must be one of {', '.join(METHODS)}, got {name!r}")
    if name == "random_label":
        return RandomTokens(retain="none")
    if name == "adversarial_label":
        return AdversarialLabel(retain="none")
    retain = "none" if name == "grad_ascent" else "ce" if "gd" in name else "kl"
    return GradAscent(retain=retain, retain_weight=alpha)


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


def tune(
    model: nn.Module,
    method: Any,
    data: ForgetData,
    target: float,
    *,
    lr: float,
    max_steps: int = 128,
    **options: Any,
) -> tuple[nn.Module, int]:
    """Bisects the number of steps at a fixed rate until the forget perplexity is nearest to the target.

    Every trial starts anew from `model`, with the same seed: a trial of n steps is the beginning of a longer one.

    Returns:
        The unlearned copy whose forget perplexity is nearest to the target (by its logarithm), and its steps:
        `max_steps` where even they do not reach the target.
    """
    trials: dict[int, tuple[float, nn.Module]] = {}

    def reached(steps: int) -> bool:
        copy = deepcopy(model)
        if steps:
            unlearn(copy, method, data, steps=steps, lr=lr, **options)
        found = perplexity(copy, data.forget, pad_id=data.pad_id)
        trials[steps] = (abs(math.log(found) - math.log(target)) if math.isfinite(found) else math.inf, copy)
        return found >= target

    low, high = 0, max_steps
    if not reached(0) and reached(max_steps):
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) else (middle, high)
    best = min(trials, key=lambda steps: trials[steps][0])
    return trials[best][1], best
