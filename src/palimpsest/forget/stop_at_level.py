"""Looks at a model while it is made to forget, so that training can end at a level of forgetting.

A method has its own pace, and at one number of steps some have hardly begun while others have left nothing of the
model. Stopped at one level of forgetting, methods differ in what they keep, and that can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.forget.evaluation import score_candidates
from palimpsest.forget.forgotten_and_kept import FORGOTTEN_BY, left
from palimpsest.forget.tofu import answer_probability
from palimpsest.forget.tofu_measures import RowScores, tofu_score
from palimpsest.tasks.rows import Row

LOOK_ROWS = 32
UNCHANGED = (
    0.02  # nats a token, after a sixth of the steps: in all of them little more than a tenth of a nat will change
)


def at(scores: RowScores, indices: Sequence[int]) -> RowScores:
    """The scores of some of the rows, in the order of `indices`."""
    columns = [getattr(scores, column.name) for column in fields(scores)]
    return RowScores(*([column[i] for i in indices] if type(column) is list else column[indices] for column in columns))


class Looks:
    """An `evaluate` for `palimpsest.train.fit`, at some of the forget rows.

    With `answers` every look finds the share that is *forgotten* (see `palimpsest.forget.forgotten_and_kept`), at the
    cost of an answer to each row. The first look after a sixth of the steps also warns of a learning rate that does
    nothing, or that breaks the model; without `answers` that is all, at the cost of one pass over the rows.

    Args:
        tokenizer: the model's.
        rows: the forget rows to ask.
        before: their scores before anything was forgotten.
        answers: whether to find what is forgotten.
        steps: how many the training has at most.

    Attributes:
        first: the step from which on a warning is due.
        seconds: how long the looks took since `begin`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], before: RowScores, *, answers: bool, steps: int
    ) -> None:
        self.tokenizer, self.rows, self.before, self.answers = tokenizer, rows, before, answers
        self.first = max(1, steps // 6)
        self.begin()

    def begin(self, warn: Callable[[str], None] | None = None) -> None:
        """Makes ready for another training, of which `warn` is told once if its rate seems wrong."""
        self.seconds, self.warn = 0.0, warn

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        due = self.warn is not None and step >= self.first
        if not (due or self.answers):
            return {}
        started = time.perf_counter()
        if self.answers:
            after = tofu_score(model, self.rows, tokenizer=self.tokenizer)
            probability = after.probability
        else:
            asked = [row["question"] for row in self.rows], [[row["answer"]] for row in self.rows]
            probability = answer_probability(score_candidates(model, self.tokenizer, *asked)[0][:, 0])
        self.seconds += time.perf_counter() - started
        if due:
            before = mean_log(self.before.probability)
            if doubt := doubtful(before, mean_log(probability), len(self.tokenizer)):
                self.warn(f"after {step} steps {doubt}")
            self.warn = None
        return {"forgotten": 1 - left(self.before, after, FORGOTTEN_BY)} if self.answers else {}

    def forgotten(self, model: nn.Module) -> float:
        """The share of the rows that a model has forgotten."""
        return 1 - left(self.before, tofu_score(model, self.rows, tokenizer=self.tokenizer), FORGOTTEN_BY)


def mean_log(probability: Float[np.ndarray, " rows"]) -> float:
    """The mean logarithm of probabilities, none of which counts as less than 1e-30."""
    return float(np.log(np.maximum(probability, 1e-30)).mean())


def doubtful(before: float, after: float, words: int) -> str:
    """What is to be doubted of a learning rate after the first steps, and what to do; empty where nothing is.

    Args:
        before, after: the mean log-probability of the answers' tokens.
        words: how many the vocabulary has: a model that knows nothing gives each token 1 / words.

    >>> doubtful(-0.1, -0.101, 1000)
    'the answers to forget are as likely as before: if that stays so, raise lr, or let tune choose it'
    >>> doubtful(-0.1, -2.0, 1000), doubtful(-0.1, -9.0, 1000)
    ('', 'the answers to forget are less likely than by chance: lower lr, let tune choose it, or stop with until')
    """
    if after < -np.log(words):
        return "the answers to forget are less likely than by chance: lower lr, let tune choose it, or stop with until"
    if abs(after - before) < UNCHANGED:
        return "the answers to forget are as likely as before: if that stays so, raise lr, or let tune choose it"
    return ""


def reached(level: float, look: Mapping[str, Any]) -> bool:
    """Whether a look found that at least the share `level` is gone.

    >>> reached(0.5, {"forgotten": 0.625}), reached(0.75, {"forgotten": 0.625})
    (True, False)
    """
    return look["forgotten"] >= level
