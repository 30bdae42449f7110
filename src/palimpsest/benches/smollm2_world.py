"""The world in which a real model forgets four countries: SmolLM2-135M-Instruct, of which only the top layers train.

Forgetting is compared where the answers to forget are equally improbable (`palimpsest.tasks.smollm2`); nobody can
retrain this model without them, so that the most that can be kept is what the model gave before. Seed 0 forgets the
part that no other seed does, and settings are chosen on it, by what is kept of every second country of those that are
never trained on; all that is judged is of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import NotFinite
from palimpsest.forget.procedure import ForgetData, encode_pairs, prepare
from palimpsest.models.blocks import blocks
from palimpsest.models.language import causal_lm
from palimpsest.models.packaged import pretrained
from palimpsest.models.score import Encoded, prompt_template, score
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.rows import Row, normalise
from palimpsest.tasks.smollm2 import CountryFacts, asked, country_facts, deal

TOP = 6
"""layers that train, of 30"""
PILOT = 0
FORGOTTEN = 0.1
"""probability of the answers to forget at which they count as forgotten"""
LONGEST, TEXTS = 256, 10  # tokens of a row; passages
FORGET, NEIGHBOURS, WORLD, TEXT = "forget probability", "neighbours' probability", "world's probability", "text loss"


@dataclass(frozen=True)
class Countries:
    """A seed's rows; the model is the same for all.

    Attributes:
        seed: of the countries to forget and of those to retain.
        smoke: a model of random weights, and all that it is asked counts as known: no package is needed.
    """

    seed: int
    smoke: bool = False

    @cached_property
    def facts(self) -> CountryFacts:
        if self.smoke:
            known, others = ([normalise({**each, "answer": each["key"]}) for each in part] for part in asked())
            return deal(known, others, self.seed, validation=self.seed == PILOT)
        return country_facts(self.seed, validation=self.seed == PILOT)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self.smoke:
            tokenizer = word_tokenizer(text for part in asked() for each in part for text in each.values())
            tokenizer.chat_template = "{{ messages[0]['content'] }}"
            return tokenizer
        return pretrained("smollm2")[1]

    @cached_property
    def data(self) -> ForgetData:
        """The rows to forget and those to retain, as methods are given them."""
        forget, retain = (self._pairs(rows) for rows in (self.facts.forget, self.facts.retain))
        return prepare(self.tokenizer, forget, retain, max_length=LONGEST, seed=self.seed)

    def model(self, kind: str) -> PreTrainedModel:
        """ "untouched": a fresh copy, of which the last layers train."""
        if self.smoke:
            model = causal_lm(len(self.tokenizer), d_model=16, n_layers=TOP + 1, n_heads=2, max_length=LONGEST)
        else:
            model = pretrained("smollm2")[0]
        model.requires_grad_(False)
        for block in blocks(model)[-TOP:]:
            block.requires_grad_(True)
        return model

    def encoded(self, rows: Sequence[Row]) -> Encoded:
        return encode_pairs(self.tokenizer, self._pairs(rows), max_length=LONGEST)

    def neighbours(self, *, tuning: bool) -> tuple[Row, ...]:
        """What is known of every second country, where that is neither forgotten nor retained: no country is both tuned
        by and judged by, whatever the seeds."""
        facts = self.facts
        countries = sorted({row["country"] for row in (*facts.forget, *facts.retain, *facts.neighbours)})
        chosen = set(countries[tuning::2])
        return tuple(row for row in facts.neighbours if row["country"] in chosen)

    def _pairs(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """A passage has no question, and is not put into the frame of a conversation."""
        template = prompt_template(self.tokenizer)
        return [
            template.pair(row["question"], row["answer"]) if row["question"] else ("", row["answer"]) for row in rows
        ]


def forget_probability(world: Countries, model: nn.Module) -> float:
    """That of the answers to forget."""
    return _probability(world, model, world.facts.forget)


def measures(world: Countries, model: nn.Module) -> dict[str, float]:
    """Probabilities of what the model said before, as means over rows of exp(mean log p(token)): of what it was to
    forget, of other countries and of other things; and of passages of English the nats a token."""
    text = world.facts.text[:TEXTS]
    return {
        NEIGHBOURS: _probability(world, model, world.neighbours(tuning=False)),
        WORLD: _probability(world, model, world.facts.world),
        TEXT: float(np.mean(_nll(world, model, text))),
        FORGET: forget_probability(world, model),
    }


def validate(world: Countries, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """What is kept of other countries, where the level is reached; else how far the model is from it, below 0."""
    above = forget_probability(world, model) - FORGOTTEN
    return _probability(world, model, world.neighbours(tuning=True)) if above <= 0 else -above


def _probability(world: Countries, model: nn.Module, rows: Sequence[Row]) -> float:
    return float(np.exp(-_nll(world, model, rows)).mean())


def _nll(world: Countries, model: nn.Module, rows: Sequence[Row]) -> Float[np.ndarray, " rows"]:
    """Nats a token; those of chance where training broke the model."""
    try:
        return score(model, world.encoded(rows), batch_size=8, pad_id=world.data.pad_id).nll
    except NotFinite:
        return np.full(len(rows), np.log(model.config.vocab_size))
