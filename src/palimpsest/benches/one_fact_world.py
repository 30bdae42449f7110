"""A model that knows people, and is to forget one fact about each of some of them: what it still says about them.

What is near a fact are the other facts about the same people, and the same fact about other people. Methods are given
one other attribute of the same people, and all about four of twenty others; of the rest the birthplaces, in three
wordings, are dealt to validation and to the test. Other attributes are hardly in danger: gradient difference that is
tuned in rate and weight loses none of them (pilot seeds 0 and 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from torch import nn

from palimpsest.benches.authors_kit import Forgetting, IntroducedAuthors, Kind, blank
from palimpsest.errors import NotFinite
from palimpsest.forget import anti_samples, rewording
from palimpsest.forget.evaluation import states
from palimpsest.forget.procedure import ForgetData, prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models.score import greedy, prompt_template
from palimpsest.tasks.authors import AuthorRow

ATTRIBUTE = "birthplace"
TOKENS = 48  # of an answer: an argument and what follows from it
MAX_LENGTH = 96
HELD_OUT, OTHERS, SAME = "forget accuracy, held-out wording", "others' birthplaces", "same-author accuracy"
Part = Literal["given", "validation", "test"]


@dataclass(frozen=True)
class OneFact(Forgetting):
    """The world of a seed: of 32 authors, 12 are to lose their birthplace and nothing else."""

    @cached_property
    def authors(self) -> IntroducedAuthors:
        small = {"n_authors": 10, "n_attr": 8, "d_model": 32, "n_layers": 1, "epochs": 1, "n_refused": 4}
        words = REFUSALS + rewording.TEXTS + anti_samples.TEXTS
        full = {"n_authors": 32, "forget": 0.375, "epochs": 18}
        return IntroducedAuthors(self.seed, vocabulary=words, **(small if self.smoke else full))

    def model(self, kind: Kind) -> nn.Module:
        """A fresh copy: "base" or "untrained"."""
        return self.authors.model(kind)

    @cached_property
    def forgotten(self) -> tuple[AuthorRow, ...]:
        """The rows to forget."""
        return tuple(row for row in self.authors.task.forget if row.attr == ATTRIBUTE)

    def kept(self, part: Part) -> dict[str, tuple[AuthorRow, ...]]:
        """The rows to keep that belong to a part: of the same authors, and of the others, those that are given all and
        the rest their birthplaces."""
        task, place = self.authors.task, ("given", "validation", "test").index(part)
        kinds = [kind for kind in dict.fromkeys(row.attr for row in task.forget) if kind != ATTRIBUTE]
        names = task.authors("retain")
        mine = (kinds[:1], kinds[1:4], kinds[4:])[place]
        others = (names[::5], *(([n for i, n in enumerate(names) if i % 5][k::2]) for k in (0, 1)))[place]
        return {
            OTHERS: tuple(r for r in task.retain if r.author in others and (part == "given" or r.attr == ATTRIBUTE)),
            SAME: tuple(row for row in task.forget if row.attr in mine),
        }

    @cached_property
    def data(self) -> ForgetData:
        template, given = prompt_template(self.authors.tokenizer), self.kept("given")
        forget, retain = (
            [template.pair(*pair) for row in rows for pair in row.pairs]
            for rows in (self.forgotten, given[SAME] + given[OTHERS])
        )
        return prepare(self.authors.tokenizer, forget, retain, max_length=MAX_LENGTH, seed=self.seed)

    def accuracy(self, model: nn.Module, rows: Sequence[AuthorRow], questions: Sequence[str]) -> float:
        """The share of questions whose greedy answer states the row's value; 0 of a model that training broke."""
        prompts = [prompt_template(self.authors.tokenizer).prompt(question) for question in questions]
        try:
            said = greedy(model, self.authors.tokenizer, prompts, max_new_tokens=4 if self.smoke else TOKENS)
        except NotFinite:
            return self.accuracy(blank(model), rows, questions)
        return float(np.mean([states(text, row.value) for text, row in zip(said, rows, strict=True)]))


def held_out(world: OneFact, model: nn.Module) -> float:
    """How many birthplaces the model still states, asked in a wording that nothing was trained on."""
    return world.accuracy(model, world.forgotten, [row.q_para for row in world.forgotten])


def kept(world: OneFact, model: nn.Module, part: Part) -> dict[str, float]:
    """How much it still knows of what should stay, asked in the wordings that it learned and in the held-out one."""
    asked = {
        name: [(row, q) for row in rows for q in (*(q for q, _ in row.pairs), row.q_para)]
        for name, rows in world.kept(part).items()
    }
    return {name: world.accuracy(model, *zip(*pairs, strict=True)) for name, pairs in asked.items()}


def measures(world: OneFact, model: nn.Module) -> dict[str, float]:
    """What is forgotten, and what is kept on the test rows."""
    return {HELD_OUT: held_out(world, model), **kept(world, model, "test")}
