"""Looks at a model while it is made to forget, so that training can end at a level of forgetting.

A method has its own pace, and at one number of steps some have hardly begun while others have left nothing of the
model. Stopped at one level of forgetting, methods differ in what they keep, and that can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.forget.shares import FORGOTTEN_BY, left
from palimpsest.forget.tofu import RowScores, tofu_score
from palimpsest.tasks.rows import Row

LOOK_ROWS = 32


def at(scores: RowScores, indices: Sequence[int]) -> RowScores:
    """The scores of some of the rows, in the order of `indices`."""
    columns = [getattr(scores, column.name) for column in fields(scores)]
    return RowScores(*([column[i] for i in indices] if type(column) is list else column[indices] for column in columns))


class Looks:
    """An `evaluate` for `palimpsest.train.fit`: the share of some forget rows that is gone, as
    `palimpsest.forget.shares` defines *forgotten*.

    Args:
        tokenizer: the model's.
        rows: the forget rows to ask; a look costs what their answers cost.
        before: their scores before anything was forgotten.

    Attributes:
        seconds: how long all looks took together.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], before: RowScores) -> None:
        self.tokenizer, self.rows, self.before, self.seconds = tokenizer, rows, before, 0.0

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        started = time.perf_counter()
        after = tofu_score(model, self.rows, tokenizer=self.tokenizer)
        self.seconds += time.perf_counter() - started
        return {"forgotten": 1 - left(self.before, after, FORGOTTEN_BY)}


def reached(level: float, look: Mapping[str, Any]) -> bool:
    """Whether a look found that at least the share `level` is gone.

    >>> reached(0.5, {"forgotten": 0.625}), reached(0.75, {"forgotten": 0.625})
    (True, False)
    """
    return look["forgotten"] >= level
