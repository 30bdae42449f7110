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

from palimpsest.tasks.fresh import check_disjoint

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
