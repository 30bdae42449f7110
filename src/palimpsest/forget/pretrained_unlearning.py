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
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.pretrained_unlearning_measures import perplexity
from palimpsest.forget.procedure import Batch, ForgetData, unlearn
from palimpsest.forget.retain_term import Retain
from palimpsest.lazy import front_door
from palimpsest.models.score import IGNORED, cross_entropy, runners_up

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


_MOVED = {"forget.pretrained_unlearning_measures": ("approximate_gold", "report", "robustness")}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
