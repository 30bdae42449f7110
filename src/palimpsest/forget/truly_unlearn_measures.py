"""Accuracy on questions with option letters, files of such questions, and what unlearning cost beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from palimpsest.errors import UserError
from palimpsest.forget.procedure import encode_pairs
from palimpsest.models.score import context_length, encode, pad_token_id, score
from palimpsest.tasks.multiple_choice import LETTERS, Question
from palimpsest.tasks.rows import read_objects


@torch.no_grad()
def letter_accuracy(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], answers: Sequence[int], *, batch_size: int = 32
) -> float:
    """The share of prompts after which the right option's letter has the largest logit of the four.

    Args:
        prompts: as the model sees them, ending where the letter is to come.
        answers: the index of the right letter, 0 for A.

    Raises:
        ValueError: if the tokenizer does not begin the four letters with four different tokens, there are not as many
            answers as prompts, or a prompt does not fit into the model's context.
    """
    if not prompts or len(prompts) != len(answers):
        raise ValueError(f"as many answers as prompts are needed, got {len(answers)} and {len(prompts)}")
    longest = context_length(model) or 2**30
    first = encode(tokenizer, [prompts[0]] * 4, [f" {letter}" for letter in LETTERS], max_length=longest)
    letters = [ids[n] for ids, n in zip(first.input_ids, first.prompt_lengths, strict=True)]
    if len(set(letters)) < len(letters):
        raise ValueError(f"the tokenizer does not tell the letters apart: {', '.join(LETTERS)} are tokens {letters}")
    rows = encode(tokenizer, prompts, [" A"] * len(prompts), max_length=longest, add_eos=False)
    modes, device, right = model.training, next(model.parameters()).device, 0
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            chosen = list(range(start, min(start + batch_size, len(rows))))
            batch = rows.batch(chosen, pad_token_id(tokenizer))
            inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
            last = torch.tensor([rows.prompt_lengths[row] - 1 for row in chosen], device=device)
            logits = model(**inputs).logits[torch.arange(len(chosen), device=device), last][:, letters]
            right += int((logits.argmax(-1).cpu() == torch.tensor([answers[row] for row in chosen])).sum())
    finally:
        model.train(modes)
    return right / len(rows)


def capability_cost(
    model: nn.Module, base: nn.Module, tokenizer: Any, *, pairs: Sequence[tuple[str, str]], texts: Sequence[str]
) -> dict[str, float]:
    """What unlearning cost beside its target: "accuracy drop" on (prompt, answer) pairs, all of whose answer's tokens
    must be the first choice, and "perplexity growth", the ratio on plain texts minus 1."""
    longest, pad = min(512, context_length(model) or 512), pad_token_id(tokenizer)
    rows = encode_pairs(tokenizer, pairs, max_length=longest)
    documents = encode_pairs(tokenizer, [("", text) for text in texts], max_length=longest, truncate=True)
    right, nll = [], []
    for m in (base, model):
        right.append(np.mean([hits.all() for hits in score(m, rows, pad_id=pad).argmax_hits]))
        scores = score(m, documents, pad_id=pad)
        nll.append(-scores.logp.sum() / scores.length.sum())
    return {"accuracy drop": float(right[0] - right[1]), "perplexity growth": float(np.expm1(nll[1] - nll[0]))}


def read_questions(path: str | Path) -> list[Question]:
    """Questions of a JSON-lines file as WMDP and MMLU publish them: "question", "choices" (four texts) and "answer", an
    index from 0 or a letter.

    Raises:
        UserError: names the file, the line and what is wrong with it.
    """
    questions = []
    for where, row in read_objects(path):
        row = row if isinstance(row, dict) else {}
        text, options, answer = (row.get(name) for name in ("question", "choices", "answer"))
        if not isinstance(text, str) or not isinstance(options, list) or len(options) != len(LETTERS):
            raise UserError(f"{where}: needs a question and four choices, has {', '.join(row) or 'no fields'}")
        index = LETTERS.index(answer) if answer in LETTERS else answer
        if type(index) is not int or not 0 <= index < len(LETTERS):
            raise UserError(f"{where}: answer must be 0 to 3 or A to D, got {answer!r}")
        questions.append(Question("", "", "", text, tuple(map(str, options)), index))
    return questions
