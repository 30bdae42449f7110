"""The scores of KnowUnDo (Tian et al. 2024, arXiv 2407.01920), and the baselines that MemFlex is compared with.

    unlearn success = 1 - accuracy on rows to forget        retention success = accuracy on rows to keep

the accuracy being the share of an answer's tokens that are the model's first choice after the true ones before them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from palimpsest.errors import UserError
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.evaluation import greedy_answers, score_candidates
from palimpsest.forget.pretrained_unlearning import AdversarialLabel, RandomTokens
from palimpsest.forget.procedure import encode_pairs
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.files import load
from palimpsest.models.score import Encoded, context_length, pad_token_id, prompt_template, score
from palimpsest.tasks.private_people import read_knowundo
from palimpsest.tasks.rows import Row, normalise, read_rows

BASELINES: dict[str, Any] = {
    "grad_ascent": GradAscent(retain="none"),
    "random_label": RandomTokens(retain="none"),
    "adversarial_label": AdversarialLabel(retain="none"),
    "grad_diff": GradAscent(retain="ce"),
    "kl": GradAscent(retain="kl"),
}
Rows = Sequence[Row | Mapping[str, Any] | tuple[str, str]] | str | Path


@dataclass(frozen=True)
class SetScores:
    """Of one set of rows.

    Attributes:
        accuracy: share of the answers' tokens (without the end) that are the model's first choice, mean over rows.
        perplexity: exp of the mean over rows of the negative log-likelihood a token; infinite where it overflows.
        rouge_l: ROUGE-L recall of the model's own answers; NaN where none were asked for.
        outputs: these answers.
    """

    accuracy: float
    perplexity: float
    rouge_l: float
    outputs: list[str]


@dataclass(frozen=True)
class KnowUnDoScores:
    """Attributes:
    unlearn_success: 1 - accuracy on the rows to forget.
    retention_success: accuracy on the rows to keep of the same subjects; NaN without them. What it lacks of the model's
        value before is over-unlearning.
    general: accuracy of each general task: of choosing the right answer, or, without wrong ones, of its tokens.
    sets: perplexity, ROUGE-L and the rest, for "unlearn" and "retention".
    """

    unlearn_success: float
    retention_success: float
    general: dict[str, float]
    sets: dict[str, SetScores]


def knowundo_score(
    model: nn.Module | str | Path,
    unlearn: Rows,
    retention: Rows | None = None,
    general: Mapping[str, Rows] | None = None,
    *,
    tokenizer: Any = None,
    split: Literal["train", "val"] = "val",
    generate: bool = True,
    batch_size: int = 64,
) -> KnowUnDoScores:
    """Scores any causal language model.

    Questions are asked in the model's own template (the authors' code writes two line ends in its place).

    Args:
        model: a model with its `tokenizer`, or the folder of both (or of an adapter).
        unlearn, retention: rows, (question, answer) pairs, or files, as published (see `read_knowundo`) or .jsonl.
        general: other tasks, name -> rows or file of JSON lines; with `perturbed_answer`, they are multiple choice.
        split: which of a published file's lists.
        generate: whether the model also answers in its own words, for ROUGE-L.

    Raises:
        UserError: for a bad folder, file or row.
    """
    if isinstance(model, str | Path):
        model, own = load(model)
        tokenizer = tokenizer or own
    if tokenizer is None:
        raise ValueError("knowundo_score needs the model's tokenizer, unless the model is given as a folder")
    sets = {"unlearn": unlearn, **({} if retention is None else {"retention": retention})}
    found = {name: _score(model, tokenizer, _rows(rows, split), generate, batch_size) for name, rows in sets.items()}
    return KnowUnDoScores(
        1 - found["unlearn"].accuracy,
        found["retention"].accuracy if "retention" in found else math.nan,
        {n: _general(model, tokenizer, _rows(rows, split), batch_size) for n, rows in (general or {}).items()},
        found,
    )


def accuracy(model: nn.Module, rows: Encoded, *, pad_id: int, end_id: int | None, batch_size: int = 64) -> float:
    """The mean over rows of the share of answer tokens, the end left out, that are the model's first choice."""
    return _mean(score(model, rows, batch_size=batch_size, pad_id=pad_id).argmax_hits, rows, end_id)


def _mean(values: Sequence[np.ndarray], rows: Encoded, end_id: int | None) -> float:
    """The mean over rows of the mean of a value for each answer token, the end left out."""
    bare = [row[: len(row) - (ids[-1] == end_id)] for row, ids in zip(values, rows.input_ids, strict=True)]
    return float(np.mean([row.mean(dtype=np.float64) for row in bare if len(row)]))


def _score(model: nn.Module, tokenizer: Any, rows: Sequence[Row], generate: bool, batch_size: int) -> SetScores:
    questions, answers = [row["question"] for row in rows], [row["answer"] for row in rows]
    pairs = [prompt_template(tokenizer).pair(*pair) for pair in zip(questions, answers, strict=True)]
    encoded = encode_pairs(tokenizer, pairs, max_length=context_length(model) or 10**9, truncate=True)
    found = score(model, encoded, batch_size=batch_size, pad_id=pad_token_id(tokenizer))
    nll = -_mean(found.token_logps, encoded, tokenizer.eos_token_id)
    outputs, rouge = [], math.nan
    if generate:
        outputs, expected = greedy_answers(model, tokenizer, questions, answers, batch_size=batch_size)
        rouge = float(np.mean([rouge_l_recall(*pair) for pair in zip(outputs, expected, strict=True)]))
    correct = _mean(found.argmax_hits, encoded, tokenizer.eos_token_id)
    return SetScores(correct, math.exp(nll) if nll < 700 else math.inf, rouge, outputs)


def _general(model: nn.Module, tokenizer: Any, rows: Sequence[Row], batch_size: int) -> float:
    if not all(row["perturbed_answer"] for row in rows):
        return _score(model, tokenizer, rows, False, batch_size).accuracy
    candidates = [[row["answer"], *row["perturbed_answer"]] for row in rows]
    nll, _ = score_candidates(model, tokenizer, [row["question"] for row in rows], candidates, batch_size=batch_size)
    return float(np.mean(nll[:, 0] < np.nanmin(nll[:, 1:], axis=1)))


def _rows(given: Rows, split: str) -> list[Row]:
    if isinstance(given, str | Path):
        return read_rows(given) if str(given).endswith(".jsonl") else read_knowundo(given, split)
    if not given:
        raise UserError("no rows to score: give at least one")
    return [_row(row, f"row {number}") for number, row in enumerate(given, start=1)]


def _row(row: Row | Mapping[str, Any] | tuple[str, str], where: str) -> Row:
    if isinstance(row, tuple):
        row = {"question": row[0], "answer": row[1]}
    if isinstance(row, Mapping) and row.get("question") == "":  # a plain text, normalised before
        return row
    if isinstance(row, Mapping) and {"text", "labels"} <= set(row):  # as published
        row = {"question": row["text"], "answer": row["labels"]}
    return normalise(row, where)
