"""The survey's scorecard: what was deleted too little, and what too much, next to a retrained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.forget.evaluation import states
from palimpsest.models.score import greedy


@dataclass(frozen=True)
class Question:
    """One thing to ask, in one or more wordings (prompts, the template applied), and what an answer must state."""

    prompts: tuple[str, ...]
    answer: str


def scorecard(
    model: nn.Module,
    gold: nn.Module,
    forget: Sequence[Question],
    retain: Sequence[Question],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int = 24,
) -> dict[str, float]:
    """What the survey asks of an unlearned model, next to one that was retrained without the forget rows.

    A question counts as known where the greedy answer to its first wording states the answer.

    Returns:
        "forgetting", the share of the forget questions not known; "retention", the share of the retain questions known;
        "consistency", the share of all questions whose wordings are either all answered rightly or all wrongly;
        "over-deletion", how much less of the retain questions it knows than the gold model; "under-deletion", how much
        more of the forget questions; "distance to gold", the two accuracies' absolute gaps, summed.
    """
    if not forget or not retain:
        raise ValueError(f"questions of both kinds are needed, got {len(forget)} and {len(retain)}")

    def known(model: nn.Module, questions: Sequence[Question]) -> list[list[bool]]:
        prompts = [prompt for question in questions for prompt in question.prompts]
        said = iter(greedy(model, tokenizer, prompts, max_new_tokens=max_new_tokens))
        return [[states(next(said), question.answer) for _ in question.prompts] for question in questions]

    def accuracy(rows: list[list[bool]]) -> float:
        return float(np.mean([row[0] for row in rows]))

    forget_rows, retain_rows = known(model, forget), known(model, retain)
    forget_gap = accuracy(forget_rows) - accuracy(known(gold, [_first(q) for q in forget]))
    retain_gap = accuracy(retain_rows) - accuracy(known(gold, [_first(q) for q in retain]))
    return {
        "forgetting": 1 - accuracy(forget_rows),
        "retention": accuracy(retain_rows),
        "consistency": float(np.mean([len(set(row)) == 1 for row in forget_rows + retain_rows])),
        "over-deletion": max(0.0, -retain_gap),
        "under-deletion": max(0.0, forget_gap),
        "distance to gold": abs(forget_gap) + abs(retain_gap),
    }


def _first(question: Question) -> Question:
    return replace(question, prompts=question.prompts[:1])
