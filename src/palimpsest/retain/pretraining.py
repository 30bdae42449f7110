"""Continual pretraining along a plan: what is read in which order, how good it is, and the dip on the way.

Source: Guo, Fu, Zhang, Zhao and Shen (2024), Efficient continual pre-training by mitigating the stability gap, arXiv
2406.14833.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from palimpsest.models.score import IGNORED, cross_entropy
from palimpsest.train.loop import fit

Blocks = Int[Tensor, "blocks length"]
WARMUP = 0.02  # of the updates


@dataclass(frozen=True, eq=False)
class Plan:
    """The blocks that a model reads, in order.

    Attributes:
        blocks: token ids; a batch is some rows one after the other.
        general: which of them are text like that of the first pretraining.
    """

    blocks: Blocks
    general: Bool[Tensor, " blocks"]

    @property
    def tokens(self) -> int:
        """How many tokens are read."""
        return self.blocks.numel()

    @property
    def unique_tokens(self) -> int:
        """How many tokens the different blocks have."""
        return len(self.blocks.unique(dim=0)) * self.blocks.shape[1]

    def batches(self, batch_size: int, pad_id: int | None = None) -> Callable[[int], dict[str, Tensor]]:
        """step -> {"input_ids", "labels"} [batch, length]; `pad_id` is not scored."""

        def batch(step: int) -> dict[str, Tensor]:
            ids = self.blocks[step * batch_size : (step + 1) * batch_size]
            return {"input_ids": ids, "labels": ids if pad_id is None else ids.masked_fill(ids == pad_id, IGNORED)}

        return batch


class Bigrams:
    """A reference model of trusted text by counts: p(token | the one before), mixed with p(token) and with a uniform
    one, as perplexity for `top_quality`.

    Args:
        trusted: blocks of text that is known to be good.
        vocabulary: how many tokens there are.
        weight: of the pair's own frequency; the rest goes to the token's, which has one count more for every token.
    """

    def __init__(self, trusted: Blocks, vocabulary: int, weight: float = 0.8) -> None:
        length_of(trusted)
        self.vocabulary, self.weight = vocabulary, weight
        # Only pairs that occur are kept: all of a large vocabulary would fill gigabytes.
        self.pairs, self.counts = self._pairs(trusted).flatten().unique(return_counts=True)
        self.before = trusted[:, :-1].flatten().bincount(minlength=vocabulary)
        single = trusted[:, 1:].flatten().bincount(minlength=vocabulary).double() + 1
        self.single = single / single.sum()

    def probabilities(self, blocks: Blocks) -> Float[Tensor, "blocks length-1"]:
        """Of each token but the first, after the one before it."""
        pairs = self._pairs(blocks)
        at = torch.searchsorted(self.pairs, pairs).clamp(max=len(self.pairs) - 1)
        counts = torch.where(self.pairs[at] == pairs, self.counts[at], 0)
        before, single = self.before[blocks[:, :-1]], self.single[blocks[:, 1:]]
        mixed = self.weight * counts / before.clamp(min=1) + (1 - self.weight) * single
        return torch.where(before > 0, mixed, single)

    def __call__(self, blocks: Blocks) -> Float[Tensor, " blocks"]:
        """The perplexity of each block."""
        return self.probabilities(blocks).log().mean(1).neg().exp()

    def _pairs(self, blocks: Blocks) -> Int[Tensor, "blocks length-1"]:
        return blocks[:, :-1] * self.vocabulary + blocks[:, 1:]


@dataclass(frozen=True)
class Gap:
    """The stability gap of a curve.

    Attributes:
        depth: how far it fell below its beginning.
        recovery: the first step, after it fell, at which it was back there; inf where it never was, 0 where it never
            fell.
        area: the mean over looks of how far below it was.
    """

    depth: float
    recovery: float
    area: float


def gap_curve(steps: Sequence[float], scores: Sequence[float]) -> Gap:
    """The gap of a score of which more is better: minus the perplexity, say.

    >>> gap_curve([0, 10, 20, 30], [0.5, 0.25, 0.375, 0.75])
    Gap(depth=0.25, recovery=30, area=0.09375)
    """
    if len(steps) != len(scores) or not len(steps) or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"every score needs its step, and steps rise: got {list(steps)} and {len(scores)} scores")
    below = [max(0.0, scores[0] - score) for score in scores]
    fell = next((i for i, gap in enumerate(below) if gap > 0), None)
    back = 0.0
    if fell is not None:
        back = next((step for step, gap in list(zip(steps, below, strict=True))[fell:] if gap == 0), math.inf)
    return Gap(max(below), back, sum(below) / len(below))


@dataclass(frozen=True, eq=False)
class Log:
    """What continual pretraining looked like: at each step looked at, every score, and |theta - theta_0|."""

    steps: list[int]
    scores: dict[str, list[float]]
    distance: list[float]

    def gap(self, name: str) -> Gap:
        """Of one of the scores."""
        return gap_curve(self.steps, self.scores[name])


def continual_pretrain(
    model: nn.Module,
    plan: Plan,
    *,
    scores: Mapping[str, Callable[[nn.Module], float]] | None = None,
    every: int = 10,
    batch_size: int = 8,
    lr: float = 3e-4,
    pad_id: int | None = None,
    **options: Any,
) -> Log:
    """Trains a causal language model in place along a plan: AdamW, 2% warm-up, cosine decay.

    Args:
        scores: name -> (model) -> a number of which more is better: of the domain, of general text.
        every: updates between looks.
        pad_id: a token that is not learned.
        options: of `palimpsest.train.fit`.
    """
    if len(plan.blocks) % batch_size:
        raise ValueError(f"a plan of {len(plan.blocks)} blocks is no whole number of batches of {batch_size}")
    first = [p.detach().clone() for p in model.parameters()]
    log = Log([], {name: [] for name in scores or {}}, [])

    def look(model: nn.Module, step: int) -> dict[str, float]:
        log.steps.append(step)
        for name, score in (scores or {}).items():
            log.scores[name].append(float(score(model)))
        moved = sum((p.detach() - q).square().sum() for p, q in zip(model.parameters(), first, strict=True))
        log.distance.append(float(moved.sqrt()))
        return {}

    steps = len(plan.blocks) // batch_size
    options = {"schedule": "cosine", "warmup": math.ceil(WARMUP * steps), "clip": 1.0, "progress": False, **options}
    batches = plan.batches(batch_size, pad_id)
    fit(model, cross_entropy, batches, steps=steps, lr=lr, evaluate=look, evaluate_every=every, **options)
    return log


def budget_table(plans: Mapping[str, Plan]) -> dict[str, dict[str, int]]:
    """name -> {"tokens", "unique tokens", "general tokens"}: what each plan reads."""
    return {
        name: {
            "tokens": plan.tokens,
            "unique tokens": plan.unique_tokens,
            "general tokens": int(plan.general.sum()) * plan.blocks.shape[1],
        }
        for name, plan in plans.items()
    }


def length_of(blocks: Tensor) -> int:
    """How many tokens a block has.

    Raises:
        ValueError: they are no blocks of token ids.
    """
    if blocks.ndim != 2 or not blocks.numel() or blocks.is_floating_point():
        raise ValueError(f"blocks must be token ids [blocks, length], got {list(blocks.shape)}")
    return blocks.shape[1]
