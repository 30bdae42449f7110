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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.retain.pretraining import Bigrams, Blocks, Plan, continual_pretrain, length_of
from palimpsest.train.method import Edit
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below


def subset_epochs(corpus: Blocks, size: int, budget: int, seed: int = 0) -> Plan:
    """A random subset of `size` tokens, the same in every epoch and shuffled anew in each, until `budget` tokens are
    read. With the corpus's own size it is the corpus as it is.

    >>> plan = subset_epochs(torch.arange(12).view(6, 2), size=4, budget=8)
    >>> plan.tokens, plan.unique_tokens
    (8, 4)
    """
    length = length_of(corpus)
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
    length_of(corpus)
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
    if any(length_of(blocks) != length_of(domain.blocks) for blocks in general.values()) or (
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
