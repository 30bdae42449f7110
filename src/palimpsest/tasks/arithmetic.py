"""Sums and differences in words of one digit: what a small language model can be asked to compute, and to keep.

A problem reads "3 7 + 4 5 =" and its answer "8 2": digits apart, so that a word tokenizer sees them, most significant
first. Splits are disjoint by the problem itself: which split a problem belongs to is decided by drawing all problems
of the operation in an order that the seed fixes, so that a test problem was never trained on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

WORDS = ("0 1 2 3 4 5 6 7 8 9 + - =",)
OPERATIONS = ("+", "-")
# Of all problems of an operation, in the seed's order, the share that each split owns.
SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


@dataclass(frozen=True)
class Problem:
    """A question, its answer, and wrong answers that differ from it by a small amount."""

    question: str
    answer: str
    wrong: tuple[str, ...]


def arithmetic(
    n: int, split: str = "train", seed: int = 0, *, digits: int = 2, operations: tuple[str, ...] = OPERATIONS
) -> list[Problem]:
    """`n` different problems of a split; no two splits of a seed share one.

    Args:
        n: how many, at most what the split owns (of two digits: 8,100 sums and 4,095 differences, before the split).
        split: "train" (80% of all problems), "validation" or "test" (10% each).
        digits: of both numbers, whose first digit is not 0.
        operations: "+" and "-"; a difference is never negative.

    Raises:
        ValueError: if an argument is out of its range, or the split owns fewer problems than asked for.

    >>> arithmetic(1, "test", seed=3)[0].question.endswith("=")
    True
    """
    if split not in SHARES:
        raise ValueError(f"split must be one of {', '.join(SHARES)}, got {split!r}")
    if not 1 <= digits <= 3:
        raise ValueError(f"digits must be 1, 2 or 3, got {digits}")
    if not operations or not set(operations) <= set(OPERATIONS):
        raise ValueError(f"operations must be among {OPERATIONS}, got {operations!r}")
    low, high = (10 ** (digits - 1) if digits > 1 else 0), 10**digits
    numbers = range(low, high)
    problems = [(a, op, b) for op in operations for a in numbers for b in numbers if op == "+" or a >= b]
    random.Random(f"{seed}/arithmetic").shuffle(problems)
    start, end = (int(share * len(problems)) for share in SHARES[split])
    if not 0 < n <= end - start:
        raise ValueError(f"the {split} split owns {end - start} problems, got n={n}")
    draws = random.Random(f"{seed}/arithmetic/{split}")
    return [_problem(*problem, draws) for problem in problems[start : start + n]]


def spelled(number: int) -> str:
    """The digits, apart.

    >>> spelled(82)
    '8 2'
    """
    return " ".join(str(number))


def _problem(a: int, op: str, b: int, draws: random.Random) -> Problem:
    result = a + b if op == "+" else a - b
    near = [result + d for d in (-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20) if result + d >= 0]
    wrong = tuple(spelled(other) for other in draws.sample(near, 3))
    return Problem(f"{spelled(a)} {op} {spelled(b)} =", spelled(result), wrong)
