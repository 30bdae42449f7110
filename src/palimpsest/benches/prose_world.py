"""Technical prose that a language model was trained on: some documents of one kind are to be forgotten, the rest kept.

Rows are pieces of documents, without a question. What is asked is how surprised the model is: by what it should have
forgotten, and by documents of the same kind that it should keep and that no method is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from palimpsest.benches.rows_kit import Part, Rows, RowsWorld
from palimpsest.forget.pretrained_unlearning_measures import approximate_gold, perplexity
from palimpsest.forget.procedure import Pair, encode_pairs
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.text import Document, documents, vocabulary

DOMAIN, OTHERS = "objects", 120
WORDS, VOCABULARY, MOST = 24, 2000, 1e12


@dataclass(frozen=True)
class Prose(RowsWorld):
    """Documents on Python's objects, and 120 on its statements and expressions.

    A third of those on objects is to be forgotten, a fifth given to methods, and the rest split between validation and
    test. A fifth of all text is never learned: those of it that are on objects are the approximate set.

    Attributes:
        given: what methods are given to keep: text of the forgotten documents' own kind ("in"), or as many pieces of
            the others ("general").
    """

    given: Literal["in", "general"] = "general"

    training: ClassVar[dict[str, Any]] = {"d_model": 64, "n_layers": 2, "epochs": 6, "lr": 5e-3, "batch_size": 16}
    max_length: ClassVar[int] = 128  # no piece of 24 words has more tokens

    @cached_property
    def parts(self) -> dict[str, list[Pair]]:
        """Pieces of documents by what they are for."""
        corpus = documents(self.seed, validation=0, test=0.2, characters=400)
        own = [document for document in corpus.train if document.domain == DOMAIN]
        others = [document for document in corpus.train if document.domain != DOMAIN]
        Random(self.seed).shuffle(own)
        Random(self.seed).shuffle(others)
        ends = [round(len(own) * share) for share in (0, 1 / 3, 8 / 15, 2 / 3, 1)]
        found = {
            **{n: own[a:b] for n, a, b in zip(("forget", "in", "validation", "test"), ends, ends[1:], strict=False)},
            "general": others[:OTHERS],
            "approximate": [document for document in corpus.test if document.domain == DOMAIN],
        }
        return {name: pieces(part)[: 8 if self.smoke else None] for name, part in found.items()}

    @cached_property
    def rows(self) -> Rows:
        parts, count = self.parts, len(self.parts["in"])
        chosen, left = (parts["in"], parts["general"]) if self.given == "in" else (parts["general"][:count], None)
        left = [*parts["in"], *parts["general"][count:]] if left is None else left
        return Rows(parts["forget"], chosen, parts["validation"], parts["test"], left)

    @cached_property
    def tokenizer(self):
        """Of the most frequent words."""
        return word_tokenizer(vocabulary([text for part in self.parts.values() for _, text in part], VOCABULARY))

    def perplexity(self, model: nn.Module, rows: Sequence[Pair]) -> float:
        """Of the model on some pieces."""
        encoded = encode_pairs(self.tokenizer, rows, max_length=self.max_length)
        return perplexity(model, encoded, pad_id=self.tokenizer.pad_token_id)

    def forget_probability(self, model: nn.Module) -> float:
        """The log-probability of a token of what is to be forgotten: 0.05 above another's are 5% of its perplexity."""
        return -float(np.log(min(self.perplexity(model, self.rows.forget), MOST)))

    def kept(self, model: nn.Module, part: Part) -> float:
        """The inverse of the perplexity."""
        return 1 / min(self.perplexity(model, self.rows.test if part == "test" else self.rows.validation), MOST)

    def measured(self, model: nn.Module) -> dict[str, float]:
        """Log-perplexity of what is kept and of what is forgotten; and how far off the latter the perplexity lies that
        the first model has on the approximate set, relative to it: that of the retrained model tells whether such a
        set stands in for retraining."""
        approximate = encode_pairs(self.tokenizer, self.parts["approximate"], max_length=self.max_length)
        target = approximate_gold(self.model("base"), approximate, pad_id=self.tokenizer.pad_token_id)
        forgotten = min(self.perplexity(model, self.rows.forget), MOST)
        return {
            "kept log-perplexity": -float(np.log(self.kept(model, "test"))),
            "forget log-perplexity": float(np.log(forgotten)),
            "proxy error": abs(target - forgotten) / forgotten,
        }


def pieces(texts: Sequence[Document]) -> list[Pair]:
    """Runs of 24 words; what is shorter than 8 at a document's end is left out."""
    words = [text.text.split() for text in texts]
    return [("", " ".join(w[i : i + WORDS])) for w in words for i in range(0, len(w), WORDS) if len(w[i:]) >= 8]
