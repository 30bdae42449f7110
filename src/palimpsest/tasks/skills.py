"""Four skills for one small language model, each with a form of its own.

    addition    3 + 9 =                        12
    reversal    reverse k a t u :              u t a k
    sorting     sort 5 2 9 1 :                 1 2 5 9
    facts       Where was Ada Babab born?      Porto

The held-out rows of reversal and sorting are new problems, those of addition are trained sums the other way round. A
fact cannot be worked out: its held-out row asks for a trained fact in a wording that was left out for it, and trained
on for others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from palimpsest.tasks.facts import facts
from palimpsest.tasks.fresh import check_disjoint

Pair = tuple[str, str]
NAMES = ("addition", "reversal", "sorting", "facts")
LETTERS, DIGITS = "aeioukmnprst", "0123456789"


@dataclass(frozen=True)
class Skill:
    """A skill's (question, answer) pairs, to train on and held out."""

    name: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def pairs(self, split: Literal["train", "test"] = "train") -> list[Pair]:
        """(prompt, answer) as `palimpsest.models.encode` takes them; answers follow a space.

        >>> skill_tasks(names=["sorting"], n_train=1, n_test=1)["sorting"].pairs()
        [('sort 3 4 2 8 :', ' 2 3 4 8')]
        """
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        return [(question, f" {answer}") for question, answer in getattr(self, split)]


def skill_tasks(
    seed: int = 0,
    *,
    n_train: int = 1200,
    n_test: int = 100,
    length: int = 4,
    n_people: int = 30,
    relations: Sequence[str] = ("birthplace", "language", "hobby"),
    names: Sequence[str] = NAMES,
) -> dict[str, Skill]:
    """The skills by name; a skill is the same whichever others are asked for.

    Args:
        seed: of everything that is drawn.
        n_train, n_test: problems of reversal and of sorting; addition has 77 and 23, facts what there are.
        length: letters to reverse, and different digits to sort.
        n_people, relations: whose facts, and which; every fact is trained on in two wordings.
        names: which skills, out of `NAMES`.

    Raises:
        ValueError: for an unknown or repeated name, a number out of range, or more problems than there are.

    >>> skills = skill_tasks(seed=1, n_train=8, n_test=4, n_people=2)
    >>> {name: (len(skill.train), len(skill.test)) for name, skill in skills.items()}
    {'addition': (77, 23), 'reversal': (8, 4), 'sorting': (8, 4), 'facts': (12, 6)}
    """
    if not names or len(set(names)) < len(names) or not set(names) <= set(NAMES):
        raise ValueError(f"names must be different skills out of {', '.join(NAMES)}, got {list(names)}")
    if n_train < 1 or n_test < 1:
        raise ValueError(f"n_train and n_test must be at least 1, got {n_train} and {n_test}")
    if not 2 <= length <= len(DIGITS):
        raise ValueError(f"length must be from 2 to {len(DIGITS)}, got {length}")
    makers = {
        "addition": lambda: _addition(seed),
        "reversal": lambda: _sequences("reversal", seed, n_train, n_test, length),
        "sorting": lambda: _sequences("sorting", seed, n_train, n_test, length),
        "facts": lambda: _facts(seed, n_people, relations),
    }
    skills = {name: makers[name]() for name in names}
    for skill in skills.values():
        check_disjoint(train=[q for q, _ in skill.train], test=[q for q, _ in skill.test])
    return skills


def skill_words(skills: Iterable[Skill]) -> list[str]:
    """Every text of the skills: what `palimpsest.models.word_tokenizer` makes its vocabulary of."""
    return [text for skill in skills for pair in skill.train + skill.test for text in pair]


def _addition(seed: int) -> Skill:
    rng = random.Random(f"{seed}/skills/addition")
    pairs = [(a, b) for a in range(10) for b in range(a)]
    rng.shuffle(pairs)
    half = len(pairs) // 2
    # One order is trained on, at random; of half of the pairs the other order as well, so that it can be learned that
    # the order does not matter, and is asked of the rest.
    first = [pair if rng.random() < 0.5 else pair[::-1] for pair in pairs]
    train = first + [pair[::-1] for pair in first[:half]] + [(a, a) for a in range(10)]
    rows = [tuple(_sum(a, b) for a, b in part) for part in (train, [pair[::-1] for pair in first[half:]])]
    return Skill("addition", *rows)


def _sum(a: int, b: int) -> Pair:
    return f"{a} + {b} =", str(a + b)


def _sequences(name: str, seed: int, n_train: int, n_test: int, length: int) -> Skill:
    rng = random.Random(f"{seed}/skills/{name}")
    most = len(LETTERS) ** length if name == "reversal" else _arrangements(len(DIGITS), length)
    if n_train + n_test > most // 2:
        raise ValueError(f"{name} has {most} problems of length {length}: ask for fewer, or for longer ones")
    seen: dict[str, str] = {}
    while len(seen) < n_train + n_test:
        items = rng.choices(LETTERS, k=length) if name == "reversal" else rng.sample(DIGITS, length)
        verb, answer = ("reverse", items[::-1]) if name == "reversal" else ("sort", sorted(items))
        seen[f"{verb} {' '.join(items)} :"] = " ".join(answer)
    rows = tuple(seen.items())
    return Skill(name, rows[:n_train], rows[n_train:])


def _arrangements(n: int, length: int) -> int:
    count = 1
    for i in range(length):
        count *= n - i
    return count


def _facts(seed: int, n_people: int, relations: Sequence[str]) -> Skill:
    rng = random.Random(f"{seed}/skills/facts")
    train, test = [], []
    for fact in facts(n_people, seed=seed, relations=relations):
        first, second, third = rng.sample(range(3), 3)
        train += [fact.question(first), fact.question(second)]
        test.append(fact.question(third))
    return Skill("facts", tuple(train), tuple(test))
