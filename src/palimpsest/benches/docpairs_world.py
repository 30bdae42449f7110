"""The world of docstrings that comparisons of text encoders are made on: which body belongs to a summary line?

An encoder learns from 1,000 pairs of a summary and its body; then 375 other summaries look for their bodies among 1,500
(`palimpsest.tasks.docpairs`). A text is the set of its words, each hashed to one of 16,384 numbers, so that no word is
unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any
from zlib import crc32

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.metrics.retrieval import average_precision
from palimpsest.tasks.docpairs import Pairs, docpairs
from palimpsest.tasks.splits import Splits
from palimpsest.train.order import shuffled

BUCKETS, LONGEST, WIDTH = 2**14, 128, 256
RETRIEVAL, FIRST = "retrieval of bodies", "bodies found first"


@dataclass(frozen=True)
class Docstrings:
    """A seed's pairs and encoders.

    Attributes:
        seed: of the pairs, and of the weights.
        smoke: a few pairs of invented words, so that no docstring is read.
        pairs: how many to train on.
    """

    seed: int
    smoke: bool = False
    pairs: int = 1000

    @cached_property
    def splits(self) -> Splits[Pairs]:
        if self.smoke:
            return Splits(*(_invented(40 * part, 40) for part in range(3)))
        return docpairs(self.seed, train=self.pairs)

    @cached_property
    def inverse_frequencies(self) -> Float[Tensor, " words"]:
        """log((1 + n) / (1 + n_w)), where n_w of the n texts to train on have the word."""
        train = self.splits.train
        texts = numbers((*train.summary, *train.body))
        found = torch.bincount(texts[texts > 0], minlength=BUCKETS + 1)
        return ((1 + len(texts)) / (1 + found)).log()

    @property
    def data(self) -> Docstrings:
        return self

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        """step -> {"query": summaries, "key": bodies}, row by row a pair."""
        train = self.splits.train
        query, key = numbers(train.summary), numbers(train.body)
        order = shuffled(len(train), min(batch_size, len(train)), seed)

        def batch(step: int) -> dict[str, Tensor]:
            rows = order(step)
            return {"query": query[rows], "key": key[rows]}

        return batch

    def model(self, kind: str) -> nn.Module:
        """ "encoder": random vectors of words; "tf-idf": a direction for each word."""
        if kind == "tf-idf":
            return WordWeights(self.inverse_frequencies)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return WordVectors(self.inverse_frequencies, WIDTH)


class WordVectors(nn.Module):
    """Texts to embeddings: the sum of the vectors of a text's words, times the words' weights, which begin as their
    inverse frequencies; both are learned."""

    def __init__(self, weights: Tensor, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(len(weights), width)
        nn.init.normal_(self.vectors.weight, std=width**-0.5)
        self.weights = nn.Parameter(weights.clone())

    def forward(self, texts: Int[Tensor, "batch words"]) -> Float[Tensor, "batch width"]:
        weights = self.weights[texts] * (texts > 0)
        return F.embedding_bag(texts, self.vectors.weight, mode="sum", per_sample_weights=weights)


class WordWeights(nn.Module):
    """Texts to a vector with the weight of each word that they have: TF-IDF, each word counted once."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, texts: Int[Tensor, "batch words"]) -> Float[Tensor, "batch vocabulary"]:
        found = self.weights.new_zeros(len(texts), len(self.weights))
        return found.scatter_(1, texts, self.weights[texts] * (texts > 0))


def measures(world: Docstrings, model: nn.Module) -> dict[str, float]:
    """Of the seed's summaries in the corpus; a body is right where it is like the summary's own, or another body of the
    same summary. By cosine."""
    hits = _hits(model, world.splits.test)
    return {RETRIEVAL: float(average_precision(hits).mean()), FIRST: float(hits[:, 0].float().mean())}


def validate(world: Docstrings, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """The retrieval of bodies that no test asks for."""
    return float(average_precision(_hits(model, world.splits.validation)).mean())


@torch.no_grad()
def compared(model: nn.Module, pairs: Pairs) -> tuple[Float[Tensor, "asked bodies"], Bool[Tensor, "asked bodies"]]:
    """Cosines of the summaries that ask and all bodies, and which bodies answer which."""
    model.eval()
    asked = pairs[pairs.asked]
    query, key = (F.normalize(model(numbers(texts)), dim=1) for texts in (asked.summary, pairs.body))
    return query @ key.T, asked.answers(pairs)


def _hits(model: nn.Module, pairs: Pairs) -> Bool[Tensor, "asked ranks"]:
    """Whether each body, the nearest first, answers the summary that asks."""
    cosines, answers = compared(model, pairs)
    return answers.gather(1, cosines.argsort(1, descending=True))


def _invented(first: int, n: int) -> Pairs:
    """Pairs that share a word; every other one asks."""
    place = torch.arange(first, first + n)
    summaries = tuple(f"word{row} of summary{row}" for row in place.tolist())
    bodies = tuple(f"word{row} in body{row}" for row in place.tolist())
    return Pairs(summaries, bodies, place, place, place % 2 == 0, place)


@lru_cache(maxsize=16)
def numbers(texts: Sequence[str]) -> Int[Tensor, "texts words"]:
    """The numbers of each text's different words, at most 128 of them in their order; 0 where there is none."""
    rows = [list(dict.fromkeys(map(_number, re.findall(r"\w+", text.casefold()))))[:LONGEST] for text in texts]
    found = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for place, row in enumerate(rows):
        found[place, : len(row)] = torch.tensor(row)
    return found


def _number(word: str) -> int:
    return 1 + crc32(word.encode()) % BUCKETS
