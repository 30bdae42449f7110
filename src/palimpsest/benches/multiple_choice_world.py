"""A model that knows two subjects by question, options and letter, and is to forget one of them.

It has learned every question in six forms (`palimpsest.tasks.multiple_choice`): as benchmarks put it, and in other
words. A method is given the subject to forget as benchmarks put it, and half of the things of the other subject in all
forms, with half of the sentences that the model has read. (Where the other subject too was given in one form, RMU that
forgot kept 0.44 to 0.5 of it, on pilot seed 0.) What is kept is judged on things and sentences that no method was
given, in all forms.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.benches.authors_kit import blank
from palimpsest.errors import NotFinite
from palimpsest.forget.procedure import ForgetData, encode_pairs, prepare
from palimpsest.forget.truly_unlearn_measures import letter_accuracy
from palimpsest.models.language import causal_lm
from palimpsest.models.score import score
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.multiple_choice import PHRASINGS, SUBJECTS, Question, multiple_choice_task, plain, training_pairs
from palimpsest.tasks.text import documents, sentences
from palimpsest.tasks.worlds import trained_lm

Part = Literal["given", "validation", "test"]
FORMS = (plain, *PHRASINGS.values())
MAX_TOKENS = 48  # of a question: about 25
FORGOTTEN = 0.35
"""of the questions right at which a subject counts as forgotten; a guess is right in a quarter"""
FORGET, KEEP = SUBJECTS
MODEL = {"d_model": 96, "n_layers": 3, "epochs": 20, "lr": 3e-3, "batch_size": 16}
SMALL = {"d_model": 16, "n_layers": 3, "epochs": 2, "lr": 1e-3, "batch_size": 16}


@dataclass(frozen=True)
class TwoSubjects:
    """The world of a seed.

    Attributes:
        seed: of things, values, options, sentences and weights.
        smoke: a few questions and a model that has barely learned.
    """

    seed: int
    smoke: bool = False

    @cached_property
    def task(self) -> dict[str, list[Question]]:
        """Three questions about each of twelve things to forget and of sixteen to keep; each subject has properties of
        its own."""
        found = multiple_choice_task(4 if self.smoke else 16, self.seed, shared=False)
        return {**found, FORGET: found[FORGET][: 3 * len(found[FORGET]) // 4]}

    @cached_property
    def texts(self) -> list[str]:
        """Sentences of Python's documentation: two thirds are read by every model, the others by none."""
        return _passages(self.seed, 12 if self.smoke else 60)

    @property
    def unread(self) -> list[str]:
        """The sentences that no model has read, in words that all models have."""
        return self.texts[2 * len(self.texts) // 3 :]

    def kept(self, part: Part) -> tuple[list[Question], list[str]]:
        """The questions of the subject to keep and the sentences that belong to a part: every second thing is given,
        the others are dealt to the two parts that judge; the first half of the sentences is given, the second judged
        by in both parts."""
        things = list(dict.fromkeys(question.thing for question in self.task[KEEP]))
        mine = set({"given": things[::2], "validation": things[1::4], "test": things[3::4]}[part])
        third = len(self.texts) // 3
        texts = self.texts[:third] if part == "given" else self.texts[third : 2 * third]
        return [question for question in self.task[KEEP] if question.thing in mine], texts

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of all words; its chat template is the bare prompt."""
        pairs = [pair for questions in self.task.values() for pair in training_pairs(questions, shots=(0,))]
        tokenizer = word_tokenizer([*self.texts, *(text for pair in pairs for text in pair)])
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def model(self, kind: str = "base") -> PreTrainedModel:
        """A fresh copy of a model: "base" knows both subjects, "gold" never met the one to forget, "untrained" none.

        Raises:
            ValueError: for another kind.
        """
        kinds = ("base", "gold", "untrained")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
        settings, seed = SMALL if self.smoke else MODEL, self.seed + 10_000_000 * kinds.index(kind)
        if kind == "untrained":
            shape = {name: settings[name] for name in ("d_model", "n_layers")}
            return causal_lm(len(self.tokenizer), seed=seed, max_length=MAX_TOKENS, **shape).eval()
        known = [*self.task[KEEP], *(self.task[FORGET] if kind == "base" else [])]
        pairs = training_pairs(known, shots=(0,))
        pairs += [("", text) for text in self.texts[: 2 * len(self.texts) // 3]]
        name = f"two-subjects-{kind}-{self.seed}"
        return trained_lm(name, self.tokenizer, pairs, seed=seed, max_length=MAX_TOKENS, **settings)

    @cached_property
    def data(self) -> ForgetData:
        """What a method is given, see the module."""
        questions, texts = self.kept("given")
        forget = [(plain(question), f" {question.letter}") for question in self.task[FORGET]]
        keep = [(form(question), f" {question.letter}") for form in FORMS for question in questions]
        keep += [("", text) for text in texts]
        return prepare(self.tokenizer, forget, keep, max_length=MAX_TOKENS, seed=self.seed)

    def right(self, model: nn.Module, questions: list[Question], *, rephrased: bool = False) -> float:
        """The share of questions to which the right letter is the likeliest, as benchmarks put them or in all forms
        without examples."""
        ways = FORMS if rephrased else [plain]
        prompts = [way(question) for way in ways for question in questions]
        return letter_accuracy(model, self.tokenizer, prompts, [q.answer for q in questions] * len(ways))


def forget_accuracy(world: TwoSubjects, model: nn.Module) -> float:
    """Of the questions to forget, as benchmarks put them."""
    return world.right(model, world.task[FORGET])


def kept_accuracy(world: TwoSubjects, model: nn.Module, part: Part) -> float:
    """Of the subject to keep, in all forms, about things that no method was given."""
    return world.right(model, world.kept(part)[0], rephrased=True)


def measures(world: TwoSubjects, model: nn.Module) -> dict[str, float]:
    """Accuracy on either subject, and the loss of sentences that the model has read and no method was given, in nats a
    token."""
    pairs = [("", text) for text in world.kept("test")[1]]
    try:
        rows = encode_pairs(world.tokenizer, pairs, max_length=MAX_TOKENS, truncate=True)
        text = float(np.mean(score(model, rows, pad_id=world.tokenizer.pad_token_id).nll))
    except NotFinite:  # training broke the model
        return measures(world, blank(model))
    return {
        "forget accuracy": forget_accuracy(world, model),
        "forget accuracy in all forms": world.right(model, world.task[FORGET], rephrased=True),
        "kept accuracy": kept_accuracy(world, model, "test"),
        "text loss": text,
    }


def validate(world: TwoSubjects, model: nn.Module, cost: dict[str, float]) -> float:
    """Accuracy on the validation things of a model that has forgotten the subject; of one that has not, how much it
    still knows, below 0."""
    known = forget_accuracy(world, model)
    return kept_accuracy(world, model, "validation") if known <= FORGOTTEN else -known


@lru_cache(maxsize=4)
def _passages(seed: int, n: int) -> list[str]:
    found = [sentence.text for sentence in sentences(documents(seed).train, shortest=6, longest=14)]
    return random.Random(f"{seed}/passages").sample(found, n)
