"""PISTOL: structural unlearning (Qiu, Shen, Chen, Cancedda, Stenetorp and Lane, 2024, arXiv 2406.16810).

Facts are connected: a contract shares its parties with other contracts, so forgetting one pulls at its neighbours. The
data is a graph of contracts (`palimpsest.tasks.contracts`), and a method is judged by one number,

    deviation = 100 sqrt(R1_forget^2 + (1 - R1_retain)^2),

R1 being ROUGE-1 recall, 0 the best and 141 the worst; and by how far down the right tokens have gone among all: the
mean reciprocal rank and the top-hit ratio of the answers' tokens, teacher-forced. Each method's learning rate is the
one with the lowest deviation on another edge of the graph, which is part of the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from palimpsest.errors import UserError
from palimpsest.forget.baselines import GradAscent, IdkDPO
from palimpsest.forget.evaluation import greedy_answers
from palimpsest.forget.intervention import load
from palimpsest.forget.pistol_measures import mean_reciprocal_rank, top_hit_ratio
from palimpsest.forget.procedure import encode_pairs
from palimpsest.lazy import front_door
from palimpsest.metrics.text import rouge_1_recall
from palimpsest.models.score import answer_ranks, context_length, pad_token_id, prompt_template
from palimpsest.tasks.contracts import ContractRow, contract_graph
from palimpsest.tasks.rows import Row, normalise, read_rows

METHODS: dict[str, Any] = {
    "grad_ascent": GradAscent(retain="none"),
    "grad_diff": GradAscent(retain="ce"),
    "ukl": GradAscent(retain="kl"),
    "idk_dpo": IdkDPO(),
}
SETS = ("forget", "adjacent", "distant", "factual")
pistol_graph = contract_graph


def deviation_score(r1_forget: float, r1_retain: float) -> float:
    """100 sqrt(R1_forget^2 + (1 - R1_retain)^2): the distance from having forgotten all and kept all; lower is better.

    Raises:
        ValueError: if one of the recalls is outside [0, 1].

    >>> deviation_score(0.0, 1.0), round(deviation_score(1.0, 1.0), 1), round(deviation_score(0.3, 0.6), 1)
    (0.0, 100.0, 50.0)
    """
    if not (0 <= r1_forget <= 1 and 0 <= r1_retain <= 1):
        raise ValueError(f"ROUGE-1 recalls must lie in [0, 1], got {r1_forget} and {r1_retain}")
    return 100 * math.hypot(r1_forget, 1 - r1_retain)


@dataclass(frozen=True)
class PistolScores:
    """Scores by set ("forget", "adjacent", "distant", "factual", or whichever were given).

    Attributes:
        rouge_1, mrr, top_hit: of each set.
        deviation: between "forget" and all retained rows together; NaN without both.
        outputs: what the model answers, by set.
    """

    rouge_1: dict[str, float]
    mrr: dict[str, float]
    top_hit: dict[str, float]
    deviation: float
    outputs: dict[str, list[str]]


def pistol_score(
    model: nn.Module | str | Path,
    sets: Mapping[str, Sequence[ContractRow | Row] | str | Path],
    *,
    tokenizer: Any = None,
    cutoff: int = 100,
    batch_size: int = 64,
) -> PistolScores:
    """Scores any causal language model on sets of rows.

    Args:
        model: a model with its `tokenizer`, or the folder of both.
        sets: rows, or files of JSON lines with question and answer (the form in which the benchmark is published, after
            splitting its arrays into lines), by name; "forget" is what should be gone, all others what should be kept.
        cutoff: of the top-hit ratio.

    Raises:
        UserError: for a bad folder, file or row, or no sets at all.
    """
    if not sets:
        raise UserError(f"no rows to score: give sets such as {', '.join(SETS)}")
    if isinstance(model, str | Path):
        model, own = load(model)
        tokenizer = tokenizer or own
    rows = {name: _rows(given) for name, given in sets.items()}
    template = prompt_template(tokenizer)
    outputs, rouge, mrr, hits = {}, {}, {}, {}
    for name, part in rows.items():
        questions, answers = [row["question"] for row in part], [row["answer"] for row in part]
        said, expected = greedy_answers(model, tokenizer, questions, answers, batch_size=batch_size)
        outputs[name] = said
        rouge[name] = float(np.mean([rouge_1_recall(*pair) for pair in zip(said, expected, strict=True)]))
        pairs = [template.pair(*pair) for pair in zip(questions, answers, strict=True)]
        encoded = encode_pairs(tokenizer, pairs, max_length=context_length(model) or 10**9)
        ranks = answer_ranks(model, encoded, pad_id=pad_token_id(tokenizer), batch_size=batch_size)
        mrr[name], hits[name] = mean_reciprocal_rank(ranks), top_hit_ratio(ranks, cutoff)
    kept = {name: len(part) for name, part in rows.items() if name != "forget"}
    deviation = math.nan
    if "forget" in rows and kept:
        retained = sum(rouge[name] * n for name, n in kept.items()) / sum(kept.values())
        deviation = deviation_score(rouge["forget"], retained)
    return PistolScores(rouge, mrr, hits, deviation, outputs)


def _rows(given: Sequence[ContractRow | Row] | str | Path) -> list[Row]:
    if isinstance(given, str | Path):
        return read_rows(given)
    return [
        normalise({"question": row.question, "answer": row.answer}) if isinstance(row, ContractRow) else row
        for row in given
    ]


__all__ = [
    *("METHODS", "ContractGraph", "ContractRow", "Edge", "PistolScores", "choose_learning_rate", "deviation_score"),
    *("mean_reciprocal_rank", "pistol_graph", "pistol_score", "top_hit_ratio"),
]


_MOVED = {"forget.pistol_measures": ("choose_learning_rate",), "tasks.contracts": ("ContractGraph", "Edge")}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
