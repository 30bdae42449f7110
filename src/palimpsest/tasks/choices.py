"""Six small skills for one language model, each a question with two or four answers of one word: the answer can be
worked out. Facts to be known, asked with options and a letter, are in `palimpsest.tasks.multiple_choice`.

    parity        the parity of 4 7 3 is              even | odd
    comparison    comparing 4 7 and 5 2 we find       less | more
    modular_sum   modulo two 1 7 plus 3 0 is          zero | one
    lexical       the kind of tarvel is               animal | plant | metal | tool     (facts about invented words)
    entailment    no red fox saw the crow so some red fox saw the crow     true | false
    majority      of x y y x y x x most are           x | y

What a task asks about is its *item* (a number, an unordered pair of numbers, a word, a sentence, a sequence): the
items of a train and a held-out split are different, so that a held-out row tests the skill and not a memory. The kinds
of invented words cannot be worked out; `documents` states them for the words of both splits, and is to be trained on
as plain text, so that a held-out word is one whose kind is known but was never asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from palimpsest.tasks.fresh import check_disjoint

NAMES = ("parity", "comparison", "modular_sum", "lexical", "entailment", "majority")
SPLITS = ("train", "test")
ATTEMPTS = 300  # drawings a row before a task is said to have too few items

_NOUNS = ("fox", "crow", "bear", "goat", "mouse", "snake", "horse", "frog", "wolf", "duck", "lion", "hare")
_ADJECTIVES = ("red", "old", "small", "tall", "quick", "sad", "loud", "pale")
_VERBS = ("saw", "chased", "fed", "heard", "followed", "led")
_KINDS = ("animal", "plant", "metal", "tool")
_DOCUMENTS = ("every {item} is a {answer}", "{item} means a sort of {answer}")
# Of a premise's quantifier: those that make a hypothesis about the same things false, and true.
_FOLLOWS = {
    "every": (("no", "not every"), ("some",)),
    "some": (("no",), ("at least one",)),
    "no": (("some", "every"), ("not every",)),
}
_LETTERS = 11  # of a majority sequence: odd, so that there is always one


@dataclass(frozen=True)
class Choice:
    """One question.

    Attributes:
        prompt: the text before the answer, in words and digits apart.
        answer: the right one of the task's options.
        item: what the question is about: splits share none.
    """

    prompt: str
    answer: str
    item: str


@dataclass(frozen=True)
class ChoiceTask:
    """A skill: its options, and questions in two splits, balanced between the options.

    Attributes:
        name: one of `NAMES`.
        options: the words that can be answered.
        train, test: the rows to learn (and to forget), and those held out.
        documents: plain texts that state what cannot be worked out, for the items of both splits; mostly none.
    """

    name: str
    options: tuple[str, ...]
    train: tuple[Choice, ...]
    test: tuple[Choice, ...]
    documents: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """The accuracy of a guess: 1 / number of options."""
        return 1 / len(self.options)

    def pairs(self, split: Literal["train", "test"] = "train") -> list[tuple[str, str]]:
        """(prompt, answer) as `palimpsest.models.encode` takes them; answers follow a space.

        >>> choice_tasks(names=["parity"], n_train=2, n_test=2)["parity"].pairs()[0][0]
        'the parity of 7 2 3 is'
        """
        if split not in SPLITS:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        return [(row.prompt, f" {row.answer}") for row in getattr(self, split)]


def choice_tasks(
    seed: int = 0, *, n_train: int = 400, n_test: int = 200, names: Sequence[str] = NAMES
) -> dict[str, ChoiceTask]:
    """The tasks by name; a task is the same whichever others are asked for.

    Args:
        seed: of everything that is drawn.
        n_train, n_test: rows of each split, as many with each answer (up to one). `parity` has the fewest items, 900.
        names: which tasks, out of `NAMES`.

    Raises:
        ValueError: for an unknown or repeated name, a number below 1, or more rows than a task has items.

    >>> tasks = choice_tasks(seed=1, n_train=8, n_test=4)
    >>> {name: len(task.options) for name, task in tasks.items()}
    {'parity': 2, 'comparison': 2, 'modular_sum': 2, 'lexical': 4, 'entailment': 2, 'majority': 2}
    """
    if not names or len(set(names)) < len(names) or not set(names) <= set(NAMES):
        raise ValueError(f"names must be different tasks out of {', '.join(NAMES)}, got {list(names)}")
    if n_train < 1 or n_test < 1:
        raise ValueError(f"n_train and n_test must be at least 1, got {n_train} and {n_test}")
    return {name: _task(name, random.Random(f"{seed}/choices/{name}"), n_train, n_test) for name in names}


def choice_words(tasks: Iterable[ChoiceTask]) -> list[str]:
    """Every word of the tasks, sorted: what `palimpsest.models.word_tokenizer` makes its vocabulary of."""
    texts = []
    for task in tasks:
        texts += [*task.options, *task.documents, *(row.prompt for row in task.train + task.test)]
    return sorted({word for text in texts for word in text.split()})


def _parity(rng: random.Random) -> Choice:
    number = rng.randrange(100, 1000)
    return Choice(f"the parity of {_digits(number)} is", ("even", "odd")[number % 2], str(number))


def _comparison(rng: random.Random) -> Choice:
    a, b = rng.sample(range(10, 100), 2)
    answer = "less" if a < b else "more"
    return Choice(f"comparing {_digits(a)} and {_digits(b)} we find", answer, f"{min(a, b)} {max(a, b)}")


def _modular_sum(rng: random.Random) -> Choice:
    a, b = rng.randrange(10, 100), rng.randrange(10, 100)
    answer = ("zero", "one")[(a + b) % 2]
    return Choice(f"modulo two {_digits(a)} plus {_digits(b)} is", answer, f"{min(a, b)} {max(a, b)}")


def _lexical(rng: random.Random) -> Choice:
    # Digit-free syllables: 12,600 words, none of which is a word of another task.
    word = "".join(rng.choice(part) for part in ("bdfgklmpt", "aeiou", ("rv", "ld", "nt", "sk", "mp", "rg", "lk")))
    word += "".join(rng.choice(part) for part in ("aeiou", ("b", "f", "g", "nn", "p", "ss", "z", "th")))
    return Choice(f"the kind of {word} is", rng.choice(_KINDS), word)


def _entailment(rng: random.Random) -> Choice:
    quantifier = rng.choice(tuple(_FOLLOWS))
    answer = rng.choice(("true", "false"))
    rest = f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} {rng.choice(_VERBS)} the {rng.choice(_NOUNS)}"
    followers = _FOLLOWS[quantifier][answer == "true"]
    return Choice(f"{quantifier} {rest} so {rng.choice(followers)} {rest}", answer, rest)


def _majority(rng: random.Random) -> Choice:
    sequence = rng.choices("xy", k=_LETTERS)
    answer = max("xy", key=sequence.count)
    return Choice(f"of {' '.join(sequence)} most are", answer, "".join(sequence))


def _digits(number: int) -> str:
    return " ".join(str(number))


_TASKS: dict[str, tuple[Callable[[random.Random], Choice], tuple[str, ...]]] = {
    "parity": (_parity, ("even", "odd")),
    "comparison": (_comparison, ("less", "more")),
    "modular_sum": (_modular_sum, ("zero", "one")),
    "lexical": (_lexical, _KINDS),
    "entailment": (_entailment, ("true", "false")),
    "majority": (_majority, ("x", "y")),
}


def _task(name: str, rng: random.Random, n_train: int, n_test: int) -> ChoiceTask:
    draw, options = _TASKS[name]
    seen: set[str] = set()
    train, test = (tuple(_split(name, draw, options, rng, n, seen)) for n in (n_train, n_test))
    check_disjoint(train=[row.item for row in train], test=[row.item for row in test])
    statements = [text.format(item=row.item, answer=row.answer) for row in train + test for text in _DOCUMENTS]
    return ChoiceTask(name, options, train, test, tuple(statements) if name == "lexical" else ())


def _split(
    name: str,
    draw: Callable[[random.Random], Choice],
    options: tuple[str, ...],
    rng: random.Random,
    n: int,
    seen: set[str],
) -> list[Choice]:
    """`n` rows about items not in `seen`, to which theirs are added, balanced between the options."""
    room = {option: n // len(options) + (i < n % len(options)) for i, option in enumerate(options)}
    rows: list[Choice] = []
    for _ in range(ATTEMPTS * n):
        row = draw(rng)
        if room[row.answer] and row.item not in seen:
            seen.add(row.item)
            room[row.answer] -= 1
            rows.append(row)
            if len(rows) == n:
                rng.shuffle(rows)
                return rows
    raise ValueError(f"the task {name} has too few items: ask for fewer than {n} rows a split")
