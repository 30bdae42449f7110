"""What a language model is to remember, with less and less structure, and what it is to tell it from.

Source: Orhan (2023), Recognition, recall, and retention of few-shot memories in large language models, arXiv
2303.17557.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

Stimulus = Literal["natural", "shuffled", "gibberish", "random"]
Foil = Literal["novel", "perturbed", "paraphrase"]


def stimuli(texts: Sequence[str], kind: Stimulus, seed: int = 0) -> list[str]:
    """Texts with less and less structure: as they are, their words shuffled, their words' letters shuffled too, and
    words drawn from all texts alike; each has as many words as before.

    >>> sorted(stimuli(["the cat sat"], "shuffled")[0].split())
    ['cat', 'sat', 'the']
    """
    _checked(kind, Stimulus)
    draws = random.Random(f"{seed}/{kind}")
    pool = sorted({word for text in texts for word in text.split()})
    found = []
    for text in texts:
        words = text.split()
        if kind == "random":
            words = draws.choices(pool, k=len(words))
        if kind == "gibberish":
            words = ["".join(draws.sample(word, len(word))) for word in words]
        if kind in ("shuffled", "gibberish"):
            draws.shuffle(words)
        found.append(" ".join(words))
    return found


def foils(
    texts: Sequence[str],
    kind: Foil,
    *,
    novel: Sequence[str] = (),
    changed: int = 2,
    paraphrase: Callable[[str], str] = lambda text: f"In other words, {text[:1].lower()}{text[1:]}",
    seed: int = 0,
) -> list[str]:
    """A foil for each text: another text of the same source; the text with `changed` of its words replaced by words of
    `novel`; or a paraphrase. The latter two share all but what was changed, and are harder.

    Args:
        novel: texts that are not studied; as many as there are texts, for "novel".

    >>> foil = foils(["a b c d"], "perturbed", novel=["x y"], changed=1)[0].split()
    >>> sum(word in "abcd" for word in foil), len(foil)
    (3, 4)
    """
    _checked(kind, Foil)
    if kind == "paraphrase":
        return [paraphrase(text) for text in texts]
    if kind == "novel":
        if len(novel) < len(texts):
            raise ValueError(f"every text needs a novel one: there are {len(novel)} for {len(texts)}")
        return list(novel[: len(texts)])
    draws = random.Random(f"{seed}/{kind}")
    pool = sorted({word for text in novel for word in text.split()})
    found = []
    for text in texts:
        words = text.split()
        for place in draws.sample(range(len(words)), min(changed, len(words))):
            words[place] = draws.choice([word for word in pool if word != words[place]])
        found.append(" ".join(words))
    return found


def _checked(kind: str, kinds: object) -> None:
    if kind not in kinds.__args__:
        raise ValueError(f"kind must be one of {', '.join(kinds.__args__)}, got {kind!r}")
