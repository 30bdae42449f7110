"""A second language for a model, with the grammar of the first: what a test in another language asks in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

Language = Callable[[str, Sequence[str]], str]


def word_substitution(words: Iterable[str]) -> Language:
    """A second language with the grammar of the first: every one of `words` has another word in its place, always the
    same; all else stays, and so do whole names and values that are given with a text.

    >>> translate = word_substitution(["Where", "was", "born"])
    >>> translate("Where was Ada born?", ["Ada"])
    'erehWu sawu Ada nrobu?'
    """
    words = set(words)
    other = {word: f"{word[::-1]}u" for word in words}
    if collisions := words & set(other.values()):
        raise ValueError(f"{min(collisions)!r} is a word of both languages: leave it out")

    def translate(text: str, kept: Sequence[str] = ()) -> str:
        names = [re.escape(name) for name in sorted(kept, key=len, reverse=True) if name]
        return re.sub(
            "|".join([*(rf"(?<!\w){name}(?!\w)" for name in names), r"\w+"]),
            lambda match: match[0] if match[0] in kept else other.get(match[0], match[0]),
            text,
        )

    return translate
