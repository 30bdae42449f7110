"""People to be forgotten of whom nothing is given but the names: the model writes itself what it is to forget."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from palimpsest.benches.rows_kit import Rows, RowsWorld
from palimpsest.forget.eight_methods import Language, word_substitution
from palimpsest.forget.procedure import ForgetData, Pair, prepare
from palimpsest.forget.prompting import AFFIRMATION, JAILBREAKS
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.rwku_measures import ATTACKS, Item
from palimpsest.forget.zero_shot import rwku_task
from palimpsest.tasks.facts import RELATIONS, Fact
from palimpsest.tasks.targets import TEACHER, TargetsTask, targets_task
from palimpsest.tasks.worlds import cached

PEOPLE, SMALL = {"n_targets": 4, "n_others": 6, "n_strangers": 1}, {"n_targets": 2, "n_others": 3, "n_strangers": 1}
TELL, TELLINGS, PASSAGES, LONGEST = "Tell me about {}.", 6, 16, 48
HELD_OUT = "synonym manipulation"


@dataclass(frozen=True)
class Targets(RowsWorld):
    """Six facts of each of 14 people, of whom four are to be forgotten; four taught these and are to be kept.

    A model reads passages on request, and every fact as two questions and in three of the adversarial kinds, since two
    layers hardly carry a fact over to a kind of prompt that it was not learned in; the question in other words is
    taught of none. Methods are given the passages that the model writes about the targets, and what half of the other
    people are asked; the other half are for validation, and the neighbours for the test.
    """

    training: ClassVar[dict[str, Any]] = {"d_model": 128, "n_layers": 2, "epochs": 16, "lr": 3e-3, "batch_size": 16}
    max_length: ClassVar[int] = 96

    @cached_property
    def task(self) -> TargetsTask:
        """The people."""
        return targets_task(**(SMALL if self.smoke else PEOPLE), seed=self.seed)

    @cached_property
    def language(self) -> Language:
        """Every word of a question has another in its place."""
        asked = [text for r in [*RELATIONS.values(), TEACHER] for text in r.questions + r.reverse_questions]
        return word_substitution(re.findall(r"\w+", " ".join(asked).replace("{subject}", "").replace("{object}", "")))

    @property
    def texts(self) -> list[str]:
        frames = [text.replace("{}", "") for text in (*REFUSALS, *JAILBREAKS, AFFIRMATION, TELL)]
        foreign = [self.language(text, ()) for text in self.task.words]
        return [*self.task.words, *frames, *foreign, "Choose from:", "a, b."]

    def item(self, fact: Fact) -> Item:
        """What the adversarial kinds are made of."""
        rng = random.Random(f"{self.seed}/item/{fact.subject}/{fact.relation.name}")
        first, _, held_out = self.task.wordings(fact)
        query, answer = fact.question(first)
        about = [f for f in self.task.about(self.task.others) if f.relation.name == fact.relation.name]
        shots = rng.sample([f for f in about if f.subject != fact.subject], 2)
        return Item(
            subject=fact.subject,
            query=query,
            answer=answer,
            options=rng.sample([answer, *fact.wrong[:3]], 1 + len(fact.wrong[:3])),
            reverse=fact.question(first, reverse=True),
            synonym=fact.question(held_out)[0],
            hint=rng.choice([f for f in self.task.facts[fact.subject] if f != fact]).statement(),
            examples=[shot.question(self.task.wordings(shot)[0]) for shot in shots],
            foreign=self.language(query, (fact.subject, answer)),
        )

    def plain(self, people: Sequence[str]) -> list[Pair]:
        """Every fact as two questions."""
        return [fact.question(wording) for fact in self.task.about(people) for wording in self.task.wordings(fact)[:2]]

    def adversarial(self, people: Sequence[str], *, held_out: bool = False) -> list[Pair]:
        """Every fact in three of the kinds; with `held_out`, in other words too, as no model was taught it."""
        rows = []
        for fact in self.task.about(people):
            rng = random.Random(f"{self.seed}/kinds/{fact.subject}/{fact.relation.name}")
            kinds = rng.sample([kind for kind in ATTACKS if kind != HELD_OUT], 3)
            rows += [ATTACKS[kind](self.item(fact)) for kind in [*kinds, *[HELD_OUT] * held_out]]
        return rows

    def passages(self, people: Sequence[str]) -> list[Pair]:
        """What is to be told of people on request."""
        return [(TELL.format(name), self.task.passage(name, k)) for name in people for k in range(TELLINGS)]

    @cached_property
    def rows(self) -> Rows:
        task, others = self.task, self.task.others
        known = [*task.neighbours, *others]
        besides = [*self.adversarial(known), *self.passages(known)]
        people = (task.targets, others[::2], others[1::2], task.neighbours)
        return Rows(*map(self.plain, people), besides)

    def learned(self, kind: str) -> list[Pair]:
        targets = self.task.targets
        about = [*self.rows.forget, *self.adversarial(targets), *self.passages(targets)]
        return sorted([*self.rows.kept, *(about if kind == "base" else ())])

    @cached_property
    def data(self) -> ForgetData:
        """Passages that the first model writes about the targets, sampled at temperature 1 and kept on disk."""

        def build(folder: Path) -> None:
            size = {"passages": 2 if self.smoke else PASSAGES, "max_new_tokens": 6 if self.smoke else LONGEST}
            wrote = rwku_task(
                self.model(), self.tokenizer, self.task.targets, tell=TELL, questions=0, seed=self.seed, **size
            )
            (folder / "passages.json").write_text(json.dumps(wrote.passages))

        settings = {**asdict(self), "learned": self.learned("base"), "training": self.training, "small": self.small}
        folder = cached(f"targets-wrote-{self.seed}", {**settings, "recipe": [PASSAGES, LONGEST, 1]}, build)
        wrote = json.loads((folder / "passages.json").read_text())
        if self.smoke:  # its untrained model writes little
            wrote = {name: ["a, b."] for name in self.task.targets}
        forget = [("", text) for name in self.task.targets for text in wrote[name]]
        given = self.told(self.rows.given)
        return prepare(self.tokenizer, forget, given, max_length=self.max_length, truncate=True, seed=self.seed)

    def extracted(self, model: nn.Module) -> dict[str, float]:
        """What is left of the targets in plain questions, and in adversarial ones."""
        return {
            "plain recall": self.recall(model, self.rows.forget),
            "adversarial recall": self.recall(model, self.adversarial(self.task.targets, held_out=True)),
        }

    def measured(self, model: nn.Module) -> dict[str, float]:
        """What is left of the neighbours and of the targets; and how much more adversarial questions bring out than
        plain ones, beyond what they do of the retrained model, since a question may give away its answer by itself."""
        found, gold = self.extracted(model), self.extracted(self.model("gold"))
        beyond = [each["adversarial recall"] - each["plain recall"] for each in (found, gold)]
        return {"neighbour recall": self.kept(model, "test"), **found, "adversarial excess": beyond[0] - beyond[1]}
