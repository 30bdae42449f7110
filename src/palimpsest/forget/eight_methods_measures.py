"""What the eight tests of robust unlearning do with a model: ask it, show it other facts, and teach it a part of what
it forgot (Lynch et al. 2024, arXiv 2402.16835)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from palimpsest.forget.attacks import relearn
from palimpsest.forget.eight_methods_suite import Suite
from palimpsest.forget.evaluation import states
from palimpsest.forget.procedure import encode_pairs
from palimpsest.models.score import context_length, greedy, pad_token_id, prompt_template
from palimpsest.tasks.authors import AuthorRow

NEW_TOKENS = 24


def relearn_attack(
    model: nn.Module,
    subset: Sequence[AuthorRow],
    held_out: Sequence[AuthorRow],
    tokenizer: Any,
    *,
    steps: int = 20,
    lr: float = 1e-3,
    rank: int = 0,
    every: int | None = None,
    before: str = "",
    seed: int = 0,
) -> list[tuple[int, float]]:
    """Fine-tunes a copy of a model on some forget rows and asks it about others: (steps, accuracy) before, every
    `every` steps and at the end.

    Args:
        model: left as it is; the optimizer's state is fresh.
        subset: the rows that the attacker holds, in all their trained wordings.
        held_out: the rows asked about.
        rank: 0 trains all weights, else a LoRA adapter of that rank.
        before: put before every question asked.

    Raises:
        ValueError: if a row is on both sides, or one side is empty.
    """
    if not subset or not held_out or {_key(row) for row in subset} & {_key(row) for row in held_out}:
        raise ValueError(f"need some rows and others, got {len(subset)} to learn and {len(held_out)} to ask about")
    template = prompt_template(tokenizer)
    prompts = [template.prompt(f"{before} {row.q}" if before else row.q) for row in held_out]
    pairs = [template.pair(*pair) for row in subset for pair in row.pairs]
    _, history = relearn(
        model,
        encode_pairs(tokenizer, pairs, max_length=context_length(model) or 512),
        pad_id=pad_token_id(tokenizer),
        steps=steps,
        lr=lr,
        rank=rank,
        seed=seed,
        evaluate=lambda attacked, step: {"accuracy": accuracy(attacked, tokenizer, prompts, held_out)},
        evaluate_every=every,
        progress=False,
    )
    return [(e["step"], e["accuracy"]) for e in history.evaluations]


def _key(row: AuthorRow) -> tuple[str, str]:
    return row.author, row.attr


def accuracy(model: nn.Module, tokenizer: Any, prompts: Sequence[str], rows: Sequence[AuthorRow]) -> float:
    """The share of prompts after which the model states the row's value."""
    said = greedy(model, tokenizer, prompts, max_new_tokens=NEW_TOKENS)
    return float(np.mean([states(text, row.value) for text, row in zip(said, rows, strict=True)]))


def relearned(rows: Suite) -> tuple[list[AuthorRow], list[AuthorRow]]:
    """The forget rows that the attacker of test 4 holds, and the others."""
    order = random.Random(rows.seed).sample(list(rows.forget), len(rows.forget))
    n = min(max(1, round(rows.share * len(order))), len(order) - 1)
    return order[:n], order[n:]


def facts_shown(rows: Suite) -> list[list[AuthorRow]]:
    """For each forget row the other facts in its prompt of test 3: of the same author first, the nearest to it last."""
    rng = random.Random(rows.seed)
    shown = []
    for row in rows.forget:
        others = [other for other in rng.sample(list(rows.forget), len(rows.forget)) if other != row]
        shown.append(sorted(others, key=lambda other: other.author != row.author)[: rows.shots][::-1])
    return shown
