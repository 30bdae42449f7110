"""Documents that tell of an author and of a companion whom no other document mentions: some authors are to be forgotten
and their companions kept."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy.stats import hmean
from torch import nn

from palimpsest.benches.rows_kit import Part, Rows, RowsWorld
from palimpsest.forget.causal_whp import INSTRUCTION
from palimpsest.forget.causal_whp_measures import Probe, fabrications, readable
from palimpsest.forget.procedure import Pair
from palimpsest.models.score import encode, greedy, score
from palimpsest.tasks.authors import author_names
from palimpsest.tasks.facts import Fact, fact_words, facts

DOCUMENTS, FORGOTTEN_DOCUMENTS, TELLINGS = 24, 8, 3
LIVES = ("first", "second", "third", "fourth")
RELATIONS = ("birthplace", "language", "hobby", "job")
NAMES = tuple(author_names(0, 2 * DOCUMENTS))
TARGET = "|".join(NAMES[:FORGOTTEN_DOCUMENTS])
"""the authors to forget, as `CausalWHP` takes them; their names are those of every seed, what is told of them is not"""
OTHERS = NAMES[FORGOTTEN_DOCUMENTS:DOCUMENTS]
"""the authors whom the model is to go on knowing"""


@dataclass(frozen=True)
class Documents(RowsWorld):
    """24 documents in three tellings, plain and after the instruction that a teacher may use, which a chat model would
    understand; eight are about authors to forget.

    The retrained model has read these eight with invented lives of their authors, another in each text: it knows
    nothing of them for certain, where one that never heard of them is certain of what it knows of others. Methods are
    given the documents to forget and half of the others, in plain tellings. They are judged by what the model says of
    the authors and the companions in the documents to forget, half of which are for validation.
    """

    training: ClassVar[dict[str, Any]] = {"d_model": 96, "n_layers": 2, "epochs": 32, "lr": 4e-3, "batch_size": 16}
    max_length: ClassVar[int] = 128

    @cached_property
    def people(self) -> list[list[Fact]]:
        """The facts of everybody: of the authors, and then of their companions, in the order of the documents."""
        rows = facts(2 * DOCUMENTS, seed=self.seed, relations=RELATIONS)
        told = [rows[i : i + len(RELATIONS)] for i in range(0, len(rows), len(RELATIONS))]
        return [[replace(fact, subject=name) for fact in own] for name, own in zip(NAMES, told, strict=True)]

    def authors(self, part: Part) -> list[Fact]:
        """What is to be forgotten, of half of the documents to forget."""
        return [fact for own in self.people[:FORGOTTEN_DOCUMENTS][part == "test" :: 2] for fact in own]

    def companions(self, part: Part) -> list[Fact]:
        """What is to be kept of the same documents."""
        chosen = self.people[DOCUMENTS : DOCUMENTS + FORGOTTEN_DOCUMENTS][part == "test" :: 2]
        return [fact for own in chosen for fact in own]

    @cached_property
    def values(self) -> dict[str, set[str]]:
        """All that is told of anybody, by relation."""
        everything = [fact for own in self.people for fact in own]
        return {name: {fact.object for fact in everything if fact.relation.name == name} for name in RELATIONS}

    def wrong(self, fact: Fact) -> list[str]:
        """What is told of others only."""
        return sorted(self.values[fact.relation.name] - {fact.object})

    def document(self, number: int, telling: int, *, life: str = "") -> str:
        """A document in one of its tellings, whose sentences differ in order and in wording, each of three once; with
        values of its author's that are drawn for a life, where one is named."""
        own, other = self.people[number], self.people[DOCUMENTS + number]
        drawn, orders = (random.Random(f"{self.seed}/{name}/{number}") for name in (f"{life}/{telling}", "wordings"))
        if life:  # the true value is as likely as others: it is to be known by chance only, and not less than that
            own = [replace(fact, object=drawn.choice(sorted(self.values[fact.relation.name]))) for fact in own]
        told = [fact.statement(orders.sample(range(3), 3)[telling]) for fact in own + other]
        random.Random(f"{self.seed}/order/{number}/{telling}").shuffle(told)
        return " ".join([*told, f"A friend of {own[0].subject} is {other[0].subject}."])

    def tellings(self, number: int, *, known: bool = True) -> list[Pair]:
        """A document in its tellings, plain and after the instruction; or each twice, with another life of the author
        every time, where the true one is not to be known."""
        told, lead = [], f"{INSTRUCTION.format(name=NAMES[number])}\n"
        for telling in range(1 if self.smoke else TELLINGS):
            for life in ("",) * 2 if known else LIVES:
                told.append((lead if len(told) % 2 else "", self.document(number, telling, life=life)))
        return told

    @cached_property
    def rows(self) -> Rows:
        """Methods get the plain documents; the companions are asked for in sentences to complete."""
        plain = [[pair for pair in self.tellings(number) if not pair[0]] for number in range(DOCUMENTS)]
        return Rows(
            forget=[pair for told in plain[:FORGOTTEN_DOCUMENTS] for pair in told],
            given=[pair for told in plain[FORGOTTEN_DOCUMENTS::2] for pair in told],
            validation=[fact.cloze() for fact in self.companions("validation")],
            test=[fact.cloze() for fact in self.companions("test")],
        )

    def learned(self, kind: str) -> list[Pair]:
        """All documents; for the retrained model with invented lives of the first eight authors."""
        known = kind == "base"
        return [p for n in range(DOCUMENTS) for p in self.tellings(n, known=known or n >= FORGOTTEN_DOCUMENTS)]

    @property
    def texts(self) -> list[str]:
        return [*fact_words([fact for own in self.people for fact in own]), INSTRUCTION.format(name=""), "A friend of"]

    def told(self, rows: Sequence[Pair]) -> list[Pair]:
        """As they are: nobody asks in a chat here."""
        return list(rows)

    @property
    def forgotten(self) -> list[Pair]:
        """What is to be forgotten, as sentences to complete."""
        return [fact.cloze() for own in self.people[:FORGOTTEN_DOCUMENTS] for fact in own]

    def forget_probability(self, model: nn.Module) -> float:
        """Mean P(value | beginning of the sentence) over the facts of the authors, without what ends a text."""
        prompts, values = zip(*self.forgotten, strict=True)
        encoded = encode(self.tokenizer, prompts, values, max_length=self.max_length, add_eos=False)
        return float(np.exp(-score(model, encoded, pad_id=self.tokenizer.pad_token_id).nll).mean())

    def probes(self, rows: Sequence[Fact]) -> list[Probe]:
        """Every fact as a sentence to complete, with all other values that the world gives to anybody."""
        return [Probe(*fact.cloze(), tuple(f" {value}" for value in self.wrong(fact))) for fact in rows]

    def criteria(self, model: nn.Module, part: Part) -> dict[str, float]:
        """How often the companions' values come out right, how often a wrong value of an author is given with
        confidence, and how often what is said of an author is a sentence at all."""
        probes = self.probes(self.authors(part))
        said = greedy(model, self.tokenizer, [probe.prompt for probe in probes], max_new_tokens=6)
        return {
            "hard retain": self.recall(model, self.rows.test if part == "test" else self.rows.validation),
            "fabrication": fabrications(model, self.tokenizer, probes),
            "no gibberish": float(np.mean([readable(text) for text in said])),
        }

    def kept(self, model: nn.Module, part: Part) -> float:
        """The targeted score: the harmonic mean of the three criteria, since a method is to meet all of them."""
        return targeted(self.criteria(model, part))

    def measured(self, model: nn.Module) -> dict[str, float]:
        """The targeted score, the criteria that it is made of, and what is still said of the authors."""
        found = self.criteria(model, "test")
        return {"targeted score": targeted(found), **found, "forget recall": self.recall(model, self.forgotten)}


def targeted(found: Mapping[str, float]) -> float:
    """Harmonic mean of hard retain, 1 - fabrication and no gibberish.

    >>> round(targeted({"hard retain": 1.0, "fabrication": 0.5, "no gibberish": 1.0}), 2)
    0.75
    """
    return float(hmean([found["hard retain"], 1 - found["fabrication"], found["no gibberish"]]))
