"""Continual pretraining without the dip: fewer tokens more often, good ones, and some like those of before.

Source: Guo, Fu, Zhang, Zhao and Shen (2024), Efficient continual pre-training by mitigating the stability gap, arXiv
2406.14833.

A language model that goes on to pretrain on a new domain first gets worse at it and at what it could do, and recovers
later. Three strategies spend the same budget of tokens better: several epochs over a random subset in the place of one
over the whole corpus; a subset of the best quality, by its perplexity under a reference model of trusted text; and
batches that hold a share of text like that of the first pretraining. Each is a plan: which blocks of tokens are read,
in which order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from palimpsest.models.score import IGNORED, cross_entropy
from palimpsest.train.loop import fit
from palimpsest.train.method import Edit
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below

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


def subset_epochs(corpus: Blocks, size: int, budget: int, seed: int = 0) -> Plan:
    """A random subset of `size` tokens, the same in every epoch and shuffled anew in each, until `budget` tokens are
    read. With the corpus's own size it is the corpus as it is.

    >>> plan = subset_epochs(torch.arange(12).view(6, 2), size=4, budget=8)
    >>> plan.tokens, plan.unique_tokens
    (8, 4)
    """
    length = _length(corpus)
    if size < length or size > corpus.numel() or size % length or budget < length or budget % length:
        raise ValueError(
            f"size must be whole blocks of {length} tokens, at most {corpus.numel()}, and budget whole blocks: "
            f"got {size} and {budget}"
        )
    draws = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(corpus), generator=draws)[: size // length]
    n = budget // length
    epochs = [chosen[torch.randperm(len(chosen), generator=draws)] for _ in range(-(-n // len(chosen)))]
    return Plan(corpus[torch.cat(epochs)[:n]], torch.zeros(n, dtype=torch.bool))


def top_quality(corpus: Blocks, share: float, scorer: Callable[[Blocks], Float[Tensor, " blocks"]]) -> Blocks:
    """The best share of the corpus: blocks that occur before are left out, then those of the lowest perplexity are
    kept, the lowest first.

    Args:
        share: of the corpus with its duplicates, above 0 and at most 1.
        scorer: the perplexity of each block under a model of trusted text, such as `Bigrams(trusted, vocabulary)`.

    >>> top_quality(torch.tensor([[3, 3], [1, 1], [1, 1], [2, 2]]), 0.5, lambda blocks: blocks[:, 0].float())
    tensor([[1, 1],
            [2, 2]])
    """
    _length(corpus)
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    first: dict[tuple[int, ...], int] = {}
    for number, block in enumerate(corpus.tolist()):
        first.setdefault(tuple(block), number)
    different = corpus[list(first.values())]
    return different[scorer(different).argsort(stable=True)[: max(1, round(share * len(corpus)))]]


def mixture(domain: Plan, general: Mapping[str, Blocks], rate: float, batch_size: int, seed: int = 0) -> Plan:
    """The plan with `rate` of each batch's blocks replaced by general text, at the same number of tokens: batches that
    cannot hold that share exactly hold one block more or less, so that the shares so far are as near as can be.

    Args:
        general: source -> blocks. Sources are drawn in the proportions that they have here, that is in those of the
            first pretraining; each source's blocks are read once before any is read again.

    Raises:
        ValueError: `rate` is not in [0, 1], or blocks differ in length.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie between 0 and 1, got {rate}")
    sizes = {name: len(blocks) for name, blocks in general.items()}
    if any(_length(blocks) != _length(domain.blocks) for blocks in general.values()) or (
        rate and not sum(sizes.values())
    ):
        raise ValueError("general text must have blocks, all of the domain's length")
    draws = torch.Generator().manual_seed(seed)
    n = len(domain.blocks)
    marks = torch.zeros(n, dtype=torch.bool)
    for start in range(0, n, batch_size):
        end = min(n, start + batch_size)
        wanted = round(rate * end) - int(marks.sum())
        marks[start + torch.randperm(end - start, generator=draws)[: max(0, wanted)]] = True
    blocks = domain.blocks.clone()
    said = dict.fromkeys(general, 0)
    queues: dict[str, list[int]] = {name: [] for name in general}
    for place in marks.nonzero().flatten().tolist():
        share = (sum(said.values()) + 1) / max(1, sum(sizes.values()))
        name = max(general, key=lambda source: sizes[source] * share - said[source])
        if not queues[name]:
            queues[name] = torch.randperm(sizes[name], generator=draws).tolist()
        blocks[place] = general[name][queues[name].pop()]
        said[name] += 1
    return Plan(blocks, marks)


class Bigrams:
    """A reference model of trusted text by counts: p(token | the one before), mixed with p(token) and with a uniform
    one, as perplexity for `top_quality`.

    Args:
        trusted: blocks of text that is known to be good.
        vocabulary: how many tokens there are.
        weight: of the pair's own frequency; the rest goes to the token's, which has one count more for every token.
    """

    def __init__(self, trusted: Blocks, vocabulary: int, weight: float = 0.8) -> None:
        counts = torch.zeros(vocabulary, vocabulary, dtype=torch.float64)
        pairs = trusted[:, :-1].flatten() * vocabulary + trusted[:, 1:].flatten()
        counts.view(-1).index_add_(0, pairs, torch.ones(len(pairs), dtype=torch.float64))
        single = counts.sum(0) + 1
        single = single / single.sum()
        seen = counts.sum(1, keepdim=True)
        self.p = torch.where(seen > 0, weight * counts / seen.clamp(min=1) + (1 - weight) * single, single)

    def __call__(self, blocks: Blocks) -> Float[Tensor, " blocks"]:
        """The perplexity of each block."""
        return self.p[blocks[:, :-1], blocks[:, 1:]].log().mean(1).neg().exp()


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


@dataclass(frozen=True)
class ContinualPretraining(Edit):
    """The three strategies together, each of which can be left out. The data have `corpus`, `trusted` (blocks),
    `general` (source -> blocks), `budget` (tokens), `vocabulary`, and `scores` to look at.

    The model that comes out has the `Log` as its attribute `log`.

    Attributes:
        subset: the share of what is left of the corpus that is read, again and again; 1 for all.
        quality: the share of the corpus that is kept for its quality; 1 for all.
        rate: of general text in each batch.
    """

    subset: Annotated[float, Above(0), AtMost(1)] = 0.25
    quality: Annotated[float, Above(0), AtMost(1)] = 0.5
    rate: Annotated[float, AtLeast(0), Below(1)] = 0.2

    def plan(self, data: Any, batch_size: int, seed: int) -> Plan:
        """What is read."""
        corpus = data.corpus
        if self.quality < 1:
            corpus = top_quality(corpus, self.quality, Bigrams(data.trusted, data.vocabulary))
        size = max(1, round(self.subset * len(corpus))) * corpus.shape[1]
        return mixture(subset_epochs(corpus, size, data.budget, seed), data.general, self.rate, batch_size, seed)

    def edit(
        self, model: nn.Module, data: Any, *, batch_size: int, seed: int, steps: int | None = None, **training: Any
    ) -> nn.Module:
        """The model, trained; `steps` counts for nothing: the budget says how many there are."""
        plan = self.plan(data, batch_size, seed)
        model.log = continual_pretrain(model, plan, scores=data.scores, batch_size=batch_size, seed=seed, **training)
        return model


def _length(blocks: Tensor) -> int:
    if blocks.ndim != 2 or not blocks.numel() or blocks.is_floating_point():
        raise ValueError(f"blocks must be token ids [blocks, length], got {list(blocks.shape)}")
    return blocks.shape[1]
