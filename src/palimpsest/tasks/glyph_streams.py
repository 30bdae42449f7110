"""Letters as tasks that arrive one after another: ten classes at a time, with few images each.

Source: as in `palimpsest.tasks.streams`; the letters are those of `palimpsest.tasks.glyphs`.
"""

from __future__ import annotations

import dataclasses
from functools import cache

import torch

from palimpsest.tasks.fresh import generator
from palimpsest.tasks.glyphs import PARTS, SEEN, glyphs, views
from palimpsest.tasks.splits import Split, Splits, concatenated
from palimpsest.tasks.streams import Task, split_classes

LETTERS, VIEWS = 155, 156  # random streams of this file
STRENGTH = 0.4  # of views: at 0.7 a hundred letters are hard to tell from five faces each


def glyph_classes(seed: int, tasks: int = 10, *, each: int = 10, n: int = 4, size: int = 14) -> list[Task]:
    """Letters that arrive in groups, drawn by the seed among the 312 that there are to learn.

    Of every letter five faces are trained on, `n` random views of each, one validates, and five others are tested on,
    one view of each. Every seed has letters and views of its own; two seeds share letters, and no view.

    Args:
        seed: 0 to 999,999.
        tasks, each: how many groups, and how many letters in each; at most 312 letters together.
        n: views of every image to train on.
        size: side of the images.

    Raises:
        ValueError: more letters than there are.

    >>> [(len(task.train), len(task.validation), len(task.test)) for task in glyph_classes(100, 2)]
    [(200, 10, 50), (200, 10, 50)]
    """
    if not 1 <= tasks * each <= SEEN:
        raise ValueError(f"tasks of letters must hold from 1 to {SEEN} together, got {tasks} of {each}")
    letters = torch.randperm(SEEN, generator=generator(seed, "train", LETTERS))[: tasks * each].tolist()
    drawn = glyphs(0, strength=0.0, size=size)
    data = Splits(
        _seen(drawn.train.of(letters).relabelled(letters), n, seed, "train"),
        _seen(drawn.validation.of(letters).relabelled(letters), 1, seed, "validation"),
        _seen(_tested(size).of(letters).relabelled(letters), 1, seed, "test"),
    )
    return split_classes(data, (each,) * tasks, name="letters")


@cache
def _tested(size: int) -> Split:
    """All images of seen letters that are tested on, as drawn."""
    return concatenated([glyphs(part, strength=0.0, size=size).test for part in range(PARTS)])


def _seen(split: Split, n: int, seed: int, part: str) -> Split:
    rows = torch.arange(len(split)).repeat_interleave(n)
    x = views(split.x, generator(seed, part, VIEWS), n=n, strength=STRENGTH)
    return dataclasses.replace(split[rows], x=x.flatten(0, 1))
