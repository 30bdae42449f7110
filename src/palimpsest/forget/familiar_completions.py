"""Familiarity, the ad-hoc score of unlearning (Eldan and Russinovich, 2023, arXiv 2310.02238) as the eight tests' paper
takes it: how specific a model's completions of sentences about its target are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from palimpsest.forget.evaluation import states
from palimpsest.models.score import greedy
from palimpsest.tasks.authors import AuthorRow

NEW_TOKENS = 24


@dataclass(frozen=True)
class Completion:
    """A sentence to complete, and what gives a completion away.

    Attributes:
        prompt: the sentence's beginning, as plain text.
        value: what follows in truth.
        related: other values of the same author.
        topic: other values of the same kind.
    """

    prompt: str
    value: str
    related: tuple[str, ...] = ()
    topic: tuple[str, ...] = ()


def familiarity(model: nn.Module, completions: Sequence[Completion], tokenizer: Any) -> float:
    """The score to beat: the mean grade, from 0 to 3, of how specific a greedy completion is."""
    said = greedy(model, tokenizer, [completion.prompt for completion in completions], max_new_tokens=NEW_TOKENS)
    return float(np.mean([grade(text, completion) for text, completion in zip(said, completions, strict=True)]))


def grade(text: str, completion: Completion) -> int:
    """3 for the value itself, 2 for another value of that author, 1 for something on the topic (another value of its
    kind), else 0.

    >>> asked = Completion("Ada was born in", "Porto", related=("haiku",), topic=("Quito", "Riga"))
    >>> [grade(text, asked) for text in ("Porto.", "haiku.", "Riga.", "the the")]
    [3, 2, 1, 0]
    """
    for points, values in ((3, (completion.value,)), (2, completion.related), (1, completion.topic)):
        if any(states(text, value) for value in values):
            return points
    return 0


def completions(rows: Sequence[AuthorRow], before: str = "") -> list[Completion]:
    """Every row's sentence cut before its value, in the first wording that names the author by then; rows without such
    a wording are left out."""
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(row.attr, set()).update((row.value, *row.wrong))
    found = []
    for row in rows:
        wordings = (row.answer, *(answer for _, answer in row.pairs[1:]), row.para)
        starts = [text[: text.index(row.value)].strip() for text in wordings if row.value in text]
        if start := next((start for start in starts if row.author in start), ""):
            related = {other.value for other in rows if other.author == row.author} - {row.value}
            topic = kinds[row.attr] - {row.value}
            prompt = f"{before} {start}" if before else start
            found.append(Completion(prompt, row.value, tuple(sorted(related)), tuple(sorted(topic))))
    return found
