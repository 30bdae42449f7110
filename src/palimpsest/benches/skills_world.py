"""A small model with several skills, each a kind of question (`palimpsest.tasks.choices`) answered by true or false, is
to lose one of them; which one, the seed decides.

How much of a skill is gone is the forget ratio of Zhang et al. (2024): 0 where the model is right as often as before, 1
where it is right as often as a guess. A method is given a hundred training rows of the skill and as many of one other:
nobody has rows of all that a model can do. It is judged on rows of all skills, which share no item with those.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.benches.authors_kit import blank
from palimpsest.errors import NotFinite
from palimpsest.forget.procedure import ForgetData, prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.unforgettable_measures import accuracy, forget_ratio
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.choices import Choice, ChoiceTask, choice_tasks, choice_words
from palimpsest.tasks.worlds import cached, trained_lm

Part = Literal["test", "validation"]
NAMES = ("entailment", "majority", "parity")
"""skills that so small a model learns without a mistake: it did not learn modular sums, nor to compare all numbers"""
ROWS = {"n_train": 300, "n_test": 240}
FEW = {"n_train": 12, "n_test": 8}
ANSWERS = ("true", "false")
"""of all skills: where each has words of its own, one is easily taken away alone"""
GIVEN = 100
"""rows of a skill that a method sees"""
MAX_TOKENS = 32
MODEL: dict[str, Any] = {"architecture": "gpt2", "d_model": 64, "d_ff": 64, "n_layers": 2}
TRAINING: dict[str, Any] = {"epochs": 20, "lr": 2e-3, "batch_size": 16}
SMALL: dict[str, Any] = {"architecture": "gpt2", "d_model": 16, "n_layers": 1}


@dataclass(frozen=True)
class Skills:
    """The world of a seed.

    Attributes:
        seed: of all rows and weights, and of which skill is to go where none is named.
        smoke: a few rows and a model that has barely learned.
        skill: the one that is to go.
    """

    seed: int
    smoke: bool = False
    skill: str = ""

    @cached_property
    def tasks(self) -> dict[str, ChoiceTask]:
        """By name."""
        found = choice_tasks(self.seed, names=NAMES, **(FEW if self.smoke else ROWS))
        return {name: true_or_false(task) for name, task in found.items()}

    @property
    def forgotten(self) -> str:
        """The name of the skill that is to go."""
        return self.skill or NAMES[self.seed % len(NAMES)]

    @property
    def rehearsed(self) -> str:
        """The name of the skill that methods are given rows of, to keep it."""
        return NAMES[(NAMES.index(self.forgotten) + 1) % len(NAMES)]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of all words, and those of refusals."""
        tokenizer = word_tokenizer([*choice_words(self.tasks.values()), *REFUSALS])
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def model(self, kind: str = "base") -> PreTrainedModel:
        """A fresh copy of a model: "base" has all skills, "gold" all but the one that is to go.

        Raises:
            ValueError: for another kind.
        """
        if kind not in ("base", "gold"):
            raise ValueError(f"kind must be base or gold, got {kind!r}")
        known = [task for name, task in self.tasks.items() if kind == "base" or name != self.forgotten]
        pairs = [pair for task in known for pair in task.pairs()]
        shape = {**(SMALL if self.smoke else MODEL), "max_length": MAX_TOKENS}
        training = {**TRAINING, "epochs": 2, "batch_size": 4} if self.smoke else TRAINING
        seed = self.seed + (10_000_000 if kind == "gold" else 0)
        without = f"-without-{self.forgotten}" if kind == "gold" else ""
        return trained_lm(f"skills{without}-{self.seed}", self.tokenizer, pairs, seed=seed, **shape, **training)

    @cached_property
    def data(self) -> ForgetData:
        """What a method is given: of the skills that stay, the next one."""
        forget, keep = (self.tasks[name].pairs()[:GIVEN] for name in (self.forgotten, self.rehearsed))
        return prepare(self.tokenizer, forget, keep, max_length=MAX_TOKENS, seed=self.seed)

    def rows(self, name: str, part: Part) -> Sequence[Choice]:
        """The rows of a skill that a part judges by: every second one that was held out."""
        return self.tasks[name].test[part == "validation" :: 2]

    def accuracies(self, model: nn.Module, part: Part) -> dict[str, float]:
        """Of each skill, among its options."""
        return {
            name: accuracy(model, self.tokenizer, self.rows(name, part), task.options)
            for name, task in self.tasks.items()
        }

    @cached_property
    def before(self) -> dict[str, dict[str, float]]:
        """part -> the accuracies of the model that has all skills. Kept on disk."""

        def build(folder: Path) -> None:
            found = {part: self.accuracies(self.model("base"), part) for part in ("test", "validation")}
            (folder / "before.json").write_text(json.dumps(found))

        settings = {"seed": self.seed, "smoke": self.smoke, "names": NAMES, **ROWS, **MODEL, **TRAINING, "recipe": 5}
        return json.loads((cached(f"skills-before-{self.seed}", settings, build) / "before.json").read_text())

    def lost(self, model: nn.Module, part: Part) -> dict[str, float]:
        """The forget ratio of each skill, from 0 to 1; 0 for one that the model never had. A model that training broke
        has none left."""
        try:
            now = self.accuracies(model, part)
        except NotFinite:
            now = self.accuracies(blank(model), part)
        found = {}
        for name, right in self.before[part].items():
            guess = self.tasks[name].chance
            found[name] = min(1.0, max(0.0, forget_ratio(right, now[name], guess))) if right > guess else 0.0
        return found


def true_or_false(task: ChoiceTask) -> ChoiceTask:
    """The task with other words for its two answers.

    >>> task = ChoiceTask("parity", ("even", "odd"), (Choice("the parity of 3 is", "odd", "3"),), ())
    >>> true_or_false(task).train[0].answer
    'false'
    """
    words = dict(zip(task.options, ANSWERS, strict=True))
    train, test = (tuple(replace(row, answer=words[row.answer]) for row in rows) for rows in (task.train, task.test))
    return replace(task, options=ANSWERS, train=train, test=test)


def measures(world: Skills, model: nn.Module, part: Part = "test") -> dict[str, float]:
    """How much of the skill is gone and how much of the others, and the difference of the two; and how much the model
    had, at the least, of any skill before: 1 for no mistake, 0 for a guess."""
    lost, tasks = world.lost(model, part), world.tasks
    own = lost.pop(world.forgotten)
    others = float(np.mean(list(lost.values())))
    return {
        "selectivity": own - others,
        "forget ratio": own,
        "forget ratio of other skills": others,
        "least skill before": min(beyond_chance(tasks[name], right) for name, right in world.before[part].items()),
    }


def beyond_chance(task: ChoiceTask, right: float) -> float:
    """An accuracy on a scale from a guess, 0, to no mistake, 1.

    >>> beyond_chance(ChoiceTask("", ("even", "odd"), (), ()), 0.9)
    0.8
    """
    return round((right - task.chance) / (1 - task.chance), 12)


def validate(world: Skills, model: nn.Module, cost: dict[str, float]) -> float:
    """Selectivity on the validation rows."""
    return measures(world, model, "validation")["selectivity"]
