"""A small language model that has read Python's language reference: what comparisons of learning more begin with.

It is trained once for each seed, on the documents of the seed's training part, and kept on disk. What is held out is
new to it, in a language that it knows: a reader of two layers is at 4.2 nats a token there, of 7 for a model that
knows nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.models.encoding import Encoded
from palimpsest.models.files import load, save
from palimpsest.models.language import causal_lm
from palimpsest.models.score import score
from palimpsest.models.tokenizers import train_tokenizer
from palimpsest.tasks.text import Corpus, Document, documents, passages
from palimpsest.tasks.worlds import cached
from palimpsest.train.language import fine_tune

LENGTH, VOCABULARY = 64, 1024  # tokens of a passage, entries of the tokenizer
SHAPE = {"d_model": 96, "n_layers": 2, "max_length": 128}
TRAINING = {"epochs": 6.0, "lr": 4e-3, "batch_size": 8, "warmup": 20}


@dataclass(frozen=True)
class Reader:
    """The reader of a seed.

    Attributes:
        seed: of the documents that it read and of its weights.
        smoke: a narrow model that has hardly read.
    """

    seed: int
    smoke: bool = False

    @cached_property
    def corpus(self) -> Corpus:
        """Documents of about 400 characters: seven tenths are read, a fifth is for tests, the rest for validation."""
        return documents(self.seed, validation=0.1, test=0.2, characters=400)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the documents that were read; it spells other words out."""
        return train_tokenizer([text.text for text in self.corpus.train], VOCABULARY)

    def passages(self, texts: Sequence[Document | str]) -> Encoded:
        """Texts one after the other, cut into passages all of whose tokens are learned and scored."""
        ids = passages(texts, self.tokenizer, LENGTH, packed=True).ids.tolist()
        return Encoded(ids, [0] * len(ids))

    @cached_property
    def read(self) -> Encoded:
        """What it read."""
        found = self.passages(self.corpus.train)
        return found.subset(range(16)) if self.smoke else found

    @cached_property
    def unread(self) -> Encoded:
        """What it did not read."""
        found = self.passages(self.corpus.test)
        return found.subset(range(16)) if self.smoke else found

    def nats(self, model: PreTrainedModel, rows: Encoded) -> float:
        """The loss a token of passages."""
        return float(score(model, rows, pad_id=self.tokenizer.pad_token_id).nll.mean())

    def model(self) -> PreTrainedModel:
        """A fresh copy of the reader, from the cache if it was trained before."""
        shape = {**SHAPE, **({"d_model": 16, "n_layers": 2} if self.smoke else {})}
        training = {**TRAINING, **({"epochs": 1.0, "batch_size": 16, "warmup": 0} if self.smoke else {})}

        def build(folder: Any) -> None:
            model = causal_lm(len(self.tokenizer), seed=self.seed, **shape)
            pad_id = self.tokenizer.pad_token_id
            options = {"schedule": "linear", "clip": 1.0, "seed": self.seed, "progress": False}
            fine_tune(model, self.read, pad_id=pad_id, **training, **options)
            save(model, self.tokenizer, folder, force=True)

        said = json.dumps([sorted(self.tokenizer.get_vocab().items()), self.read.input_ids])
        digest = hashlib.sha256(said.encode()).hexdigest()
        settings = {**shape, **training, "seed": self.seed, "data": digest, "recipe": 1}
        return load(cached(f"reader-{self.seed}", settings, build))[0]
