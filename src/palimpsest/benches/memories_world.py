"""Sentences that a small language model sees a few times: what is recognised, recalled and kept of them.

The reader of Python's language reference (`palimpsest.benches.reader`) studies 60 sentences that it never saw, then 200
updates on others follow. Foils are 60 more that nothing has read. Batches are of two sentences, so that an exposure is
30 updates, as many as one of the paper's 600 sentences at 16 a batch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.benches.reader import Reader
from palimpsest.retain.recall_retention import retention
from palimpsest.retain.recall_retention_measures import recall, recognition
from palimpsest.retain.recall_retention_texts import Stimulus, stimuli
from palimpsest.tasks.text import sentences

STUDIED, NOVEL, BATCH = 60, 60, 2
RECALL, RECOGNITION = "recall", "recognition"


@dataclass(frozen=True)
class Memories:
    """The texts and the model of a seed.

    Attributes:
        stimulus: what is studied: the sentences, or the same with less structure.
    """

    seed: int
    smoke: bool = False
    stimulus: Stimulus = "natural"

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.seed, self.smoke)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.reader.tokenizer

    @cached_property
    def sentences(self) -> dict[str, list[str]]:
        """Those to study, their foils, and those that come afterwards: 10 to 24 words each."""
        found = [text.text for text in sentences(self.reader.corpus.test, shortest=10, longest=24)]
        random.Random(self.seed).shuffle(found)
        studied, novel = (STUDIED, NOVEL) if not self.smoke else (6, 6)
        parts = {
            "studied": found[:studied],
            "novel": found[studied : studied + novel],
            "later": found[studied + novel :],
        }
        return {name: part[: 6 if self.smoke else None] for name, part in parts.items()}

    @cached_property
    def texts(self) -> list[str]:
        """What is studied."""
        return stimuli(self.sentences["studied"], self.stimulus, self.seed)

    @cached_property
    def foils(self) -> list[str]:
        """Others of the same kind, that are not studied."""
        return stimuli(self.sentences["novel"], self.stimulus, self.seed)

    @property
    def data(self) -> Memories:
        return self

    def model(self, kind: str) -> PreTrainedModel:
        """The reader, the one kind there is."""
        return self.reader.model()


def measures(world: Memories, model: nn.Module) -> dict[str, float]:
    """Recognition among two, and ROUGE-2 of what completes the second half of each text."""
    return {
        RECALL: recall(model, world.tokenizer, world.texts).rouge_2,
        RECOGNITION: recognition(model, world.tokenizer, world.texts, world.foils),
    }


def kept(world: Memories, model: nn.Module, lr: float) -> dict[str, list[float]]:
    """Recognition and recall over 200 updates on other sentences."""
    looks = (0, 1) if world.smoke else (0, 20, 200)
    texts = (world.texts, world.foils, world.sentences["later"])
    return retention(model, world.tokenizer, *texts, looks=looks, lr=lr, batch_size=BATCH, seed=world.seed)


def validate(world: Memories, model: nn.Module, cost: Any) -> float:
    """Recall: settings are chosen by it, on seeds whose texts no verdict is on."""
    return recall(model, world.tokenizer, world.texts).rouge_2
