"""Questions with four options and a letter to answer, on a few subjects, in many phrasings: the answer has to be known.
Skills, which can be worked out, are in `palimpsest.tasks.choices`.

    How does the sefgan behave? A tame B wild C shy D bold Answer:      C

A *subject* (one half of which can be forgotten) is a set of made-up things, each with properties whose values have to
be known. The options of a question stand in one order for ever, in all phrasings: a small model does not learn to bind
letters to options, so it learns which letter is right, as a large one may from a leaked benchmark. What a model reads
besides the plain form is: the form after examples, and each of `PHRASINGS`, which say the same in other words. Which
of all these a method of unlearning gets to see is the experiment's choice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.fresh import check_disjoint
from palimpsest.tasks.text import documents, sentences
from palimpsest.tasks.worlds import trained_lm

MAX_TOKENS = 160  # of a question after five examples: about 110
LETTERS = ("A", "B", "C", "D")
SUBJECTS = ("animals", "minerals")
# Per property: what is asked, of {thing}, and the values.
PROPERTIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "colour": ("Which colour has the {thing} ?", ("red", "green", "blue", "white", "black", "grey", "yellow", "brown")),
    "place": ("Where is the {thing} found ?", ("hills", "rivers", "caves", "deserts", "coasts", "woods", "fields")),
    "weight": ("How heavy is the {thing} ?", ("ounces", "pounds", "stones", "tons", "grams", "grains", "carats")),
    "use": ("What is the {thing} good for ?", ("medicine", "paint", "glue", "fuel", "soap", "rope", "ink", "salt")),
    "season": ("When is the {thing} collected ?", ("spring", "summer", "autumn", "winter", "dawn", "noon", "night")),
    "sound": ("What is the {thing} like when struck ?", ("hollow", "ringing", "dull", "sharp", "soft", "silent")),
}
_SYLLABLES = ("ba", "do", "fe", "gu", "ka", "li", "mo", "nu", "pi", "ra", "se", "ti", "vo", "zu")
_ENDS = {"animals": ("lux", "rat", "fin", "dor"), "minerals": ("ite", "ium", "spar", "gem")}


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        subject, thing, prop: what it is about.
        text: the question in plain words, without the options.
        options: four values, in the order of `LETTERS`.
        answer: the index of the right one.
    """

    subject: str
    thing: str
    prop: str
    text: str
    options: tuple[str, str, str, str]
    answer: int

    @property
    def letter(self) -> str:
        return LETTERS[self.answer]

    def listed(self) -> str:
        """The options in one line.

        >>> Question("animals", "balux", "colour", "Which colour ?", ("red", "green", "blue", "grey"), 2).listed()
        'A red B green C blue D grey'
        """
        return " ".join(f"{letter} {option}" for letter, option in zip(LETTERS, self.options, strict=True))


def plain(question: Question) -> str:
    """The prompt that benchmarks use: question, options, "Answer:"."""
    return f"{question.text} {question.listed()} Answer:"


def after_examples(question: Question, examples: Sequence[Question]) -> str:
    """The same after answered examples.

    >>> q = Question("animals", "balux", "colour", "Which colour ?", ("red", "green", "blue", "grey"), 2)
    >>> after_examples(q, [q])
    'Which colour ? A red B green C blue D grey Answer: C Which colour ? A red B green C blue D grey Answer:'
    """
    return " ".join([*(f"{plain(example)} {example.letter}" for example in examples), plain(question)])


def _conversation(question: Question) -> str:
    return f"Teacher: {question.text} Choose {question.listed()} Pupil: I choose"


def _poem(question: Question) -> str:
    return f"O {question.thing} sing , of {question.prop} ring : {question.listed()} so the verse ends with"


def _variables(question: Question) -> str:
    return f"Let x be the {question.thing} and y its {question.prop} . {question.listed()} then y is"


def _described(question: Question) -> str:
    return f"Of the {question.subject} kind called {question.thing} tell the {question.prop} : {question.listed()} thus"


def _translated(question: Question) -> str:
    # Another language: every word but names, values and letters is written backwards.
    words = question.text.replace("?", "").split()
    return " ".join(
        [*(word if word == question.thing else f"{word[::-1]}u" for word in words), question.listed(), "osu"]
    )


PHRASINGS: dict[str, Callable[[Question], str]] = {
    "conversation": _conversation,
    "poem": _poem,
    "variables": _variables,
    "described": _described,
    "translated": _translated,
}


def multiple_choice_task(n_things: int = 8, seed: int = 0, *, shared: bool = True) -> dict[str, list[Question]]:
    """The questions of each subject: every property of every thing.

    Args:
        n_things: things of each subject.
        seed: of names, values, options and their order; the right letter is drawn evenly.
        shared: whether the subjects are asked the same; else each has half of the properties, and words of its own.

    Raises:
        ValueError: if there are not as many names.

    >>> task = multiple_choice_task(n_things=2)
    >>> {subject: len(questions) for subject, questions in task.items()}
    {'animals': 12, 'minerals': 12}
    """
    most = len(_SYLLABLES) ** 2
    if not 1 <= n_things <= most:
        raise ValueError(f"n_things must be from 1 to {most}, got {n_things}")
    task: dict[str, list[Question]] = {}
    for number, subject in enumerate(SUBJECTS):
        properties = list(PROPERTIES.items()) if shared else list(PROPERTIES.items())[number :: len(SUBJECTS)]
        rng = random.Random(f"{seed}/multiple choice/{subject}")
        stems = rng.sample([a + b for a in _SYLLABLES for b in _SYLLABLES], n_things)
        things = [stem + rng.choice(_ENDS[subject]) for stem in stems]
        letters = [i % len(LETTERS) for i in range(n_things * len(properties))]
        rng.shuffle(letters)
        made = []
        for thing in things:
            for prop, (asked, values) in properties:
                options = tuple(rng.sample(values, len(LETTERS)))
                made.append(Question(subject, thing, prop, asked.format(thing=thing), options, letters[len(made)]))
        task[subject] = made
    check_disjoint(**{subject: [q.thing for q in questions] for subject, questions in task.items()})
    return task


def training_pairs(
    questions: Sequence[Question], *, shots: Sequence[int] = (0, 5), phrasings: bool = True, seed: int = 0
) -> list[tuple[str, str]]:
    """Every question as (prompt, " letter"): after each number of examples drawn from the others, and rephrased."""
    rng = random.Random(f"{seed}/multiple choice/examples")
    pairs = []
    for question in questions:
        others = [other for other in questions if other != question]
        for n in shots:
            pairs.append((after_examples(question, rng.sample(others, n)), f" {question.letter}"))
        if phrasings:
            pairs += [(phrase(question), f" {question.letter}") for phrase in PHRASINGS.values()]
    return pairs


@dataclass(frozen=True)
class MultipleChoiceWorld:
    """A small model that knows both subjects in all forms, sums of one digit, and some sentences of Python's
    documentation; and one, "gold", that never met the subject to forget.

    Attributes:
        seed: of everything.
        n_things, shared: see `multiple_choice_task`.
        d_model, n_layers, epochs, lr, batch_size: of the model and its training.
        sentences: of the documentation that it reads; as many others are kept apart, as unrelated text.
        forget: the subject that "gold" never met.
    """

    seed: int
    n_things: int = 6
    d_model: int = 96
    n_layers: int = 4
    epochs: float = 20
    lr: float = 1e-3
    batch_size: int = 16
    sentences: int = 60
    forget: str = "animals"
    shared: bool = True

    @cached_property
    def task(self) -> dict[str, list[Question]]:
        return multiple_choice_task(self.n_things, self.seed, shared=self.shared)

    @property
    def retain(self) -> str:
        return next(subject for subject in SUBJECTS if subject != self.forget)

    @property
    def known_text(self) -> list[str]:
        return _passages(self.seed, 2 * self.sentences)[: self.sentences]

    @property
    def unrelated_text(self) -> list[str]:
        """Sentences that no model has read, in words that all models have."""
        return _passages(self.seed, 2 * self.sentences)[self.sentences :]

    @cached_property
    def sums(self) -> list[tuple[str, str]]:
        return [(f"{a} + {b} =", f" {a + b}") for a in range(10) for b in range(10)]

    @cached_property
    def tokenizer(self):
        texts = [*self.known_text, *self.unrelated_text, *(text for pair in self.sums for text in pair)]
        for questions in self.task.values():
            texts += [text for pair in training_pairs(questions, shots=(0,)) for text in pair]
        return word_tokenizer(texts)

    def model(self, kind: Literal["base", "gold"] = "base"):
        """A fresh copy of a trained model, from the cache if it was trained before."""
        if kind not in ("base", "gold"):
            raise ValueError(f"kind must be 'base' or 'gold', got {kind!r}")
        pairs = [*training_pairs(self.task[self.retain], seed=self.seed), *self.sums * 3]
        if kind == "base":
            pairs += training_pairs(self.task[self.forget], seed=self.seed)
        pairs += [("", text) for text in self.known_text]
        return trained_lm(
            f"multiple-choice-{kind}-{self.seed}",
            self.tokenizer,
            pairs,
            seed=self.seed + (10_000_000 if kind == "gold" else 0),
            d_model=self.d_model,
            n_layers=self.n_layers,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            max_length=MAX_TOKENS,
        )


@lru_cache
def _passages(seed: int, n: int) -> list[str]:
    found = [sentence.text for sentence in sentences(documents(seed).train, shortest=6, longest=14)]
    return random.Random(f"{seed}/passages").sample(found, n)


def smoke_world(seed: int) -> MultipleChoiceWorld:
    """The smallest that runs, with models that have hardly been trained."""
    return MultipleChoiceWorld(seed, n_things=1, d_model=16, epochs=1, sentences=8)
