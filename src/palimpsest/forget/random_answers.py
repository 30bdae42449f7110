"""Rows whose answers are random words: what a model knows by heart has a gradient there."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Literal

from palimpsest.models.score import Encoded


def random_answers(
    rows: Encoded,
    vocab_size: int,
    *,
    special_ids: Collection[int] = (),
    copies: int = 3,
    replaced: Literal["half", "all"] = "half",
    seed: int = 0,
) -> Encoded:
    """Each row `copies` times, with random tokens in its answer; prompts and special tokens stay.

    Args:
        special_ids: tokens that are neither replaced nor drawn.
        replaced: "half", as in the authors' code: half as many draws as the answer has tokens, at least one, each
            replaces a position drawn anew, so that some are hit twice; "all" replaces every token.

    Raises:
        ValueError: if there is no token to draw, or `copies` is not positive.

    >>> random_answers(Encoded([[1, 5, 6, 2]], [2]), 8, special_ids=[0, 1, 2, 3], copies=2, replaced="all").input_ids
    [[1, 5, 7, 2], [1, 5, 7, 2]]
    """
    special = set(special_ids)
    words = [token for token in range(vocab_size) if token not in special]
    if copies < 1 or not words:
        raise ValueError(f"need a positive number of copies and a token to draw, got {copies} and {len(words)} tokens")
    draws = random.Random(seed)
    made, lengths = [], []
    for ids, length in zip(rows.input_ids, rows.prompt_lengths, strict=True):
        places = [place for place in range(length, len(ids)) if ids[place] not in special]
        for _ in range(copies):
            copy = list(ids)
            hit = draws.choices(places, k=max(1, len(places) // 2)) if replaced == "half" and places else places
            for place in hit:
                copy[place] = draws.choice(words)
            made.append(copy)
            lengths.append(length)
    return Encoded(made, lengths)
