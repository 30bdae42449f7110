"""The captions of scenes of digits as a model reads them, and of which scenes each is true."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from palimpsest.tasks.digits_scenes import Scenes, caption_words

WORDS = {word: number for number, word in enumerate(caption_words(), start=1)}  # 0 is padding
LENGTH = 17  # words of the longest caption


def caption_tokens(captions: Sequence[str]) -> Int[Tensor, "n 17"]:
    """Captions as word numbers, padded with 0.

    >>> caption_tokens(["a red three at the top left"])[0].count_nonzero().item()
    7

    Raises:
        ValueError: a caption is too long, or has a word that no caption of a scene has.
    """
    rows = []
    for caption in captions:
        words = caption.split()
        unknown = [word for word in words if word not in WORDS]
        if unknown or not 1 <= len(words) <= LENGTH:
            raise ValueError(f"not the caption of a scene (1 to {LENGTH} words, all known): {caption!r}")
        rows.append([WORDS[word] for word in words] + [0] * (LENGTH - len(words)))
    return torch.tensor(rows, dtype=torch.long).reshape(-1, LENGTH)


def fits(scenes: Scenes) -> Bool[Tensor, "n n"]:
    """Which caption (column) is true of which scene (row), in whatever words.

    >>> from palimpsest.tasks.digits_scenes import digits_captions
    >>> fits(digits_captions(0, test=24).test).diagonal().all()
    tensor(True)
    """
    order = scenes.place.argsort(1)  # from the top and from the left, whichever the caption names first
    digit, colour, place = (column.gather(1, order) for column in (scenes.digit, scenes.colour, scenes.place))
    row = place // 2
    placed = _same(torch.cat([digit, colour, place], 1))
    related = _same(torch.cat([digit, colour, (row[:, :1] == row[:, 1:]).long()], 1))
    return torch.where(scenes.relation >= 0, related, placed)


def _same(keys: Int[Tensor, "n columns"]) -> Bool[Tensor, "n n"]:
    _, which = keys.unique(dim=0, return_inverse=True)
    return which[:, None] == which
