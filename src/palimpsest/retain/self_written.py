"""Rows that a language model writes itself, which stand for what it could do where nobody kept rows of that.

A chat model is given its template up to the place of the user's words, writes these, and then answers them (Xu et al.
(2024), Magpie, arXiv 2406.08464); any other model writes texts from their beginning. Replayed, they are a memory
without data (Sun, Ho and Lee (2020), LAMOL, arXiv 1909.03329); they say what the model is likely to say, not what it
knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.models.encoding import encode_prompts, pad_token_id
from palimpsest.models.forward import context_length, device_of, evaluating
from palimpsest.models.score import prompt_template
from palimpsest.models.template import QUESTION_MARK
from palimpsest.tasks.rows import Row, normalise

TOP_P = 0.95
ROUNDS = 4  # of as many rows as are asked for, for some come out empty
BATCH = 32


def self_written_rows(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    tokens: int = 48,
    seed: int = 0,
    told: Callable[[int], None] = lambda texts: None,
) -> list[Row]:
    """Rows of a model's own: question and answer of a chat model, texts of any other.

    Args:
        model, tokenizer: a causal language model.
        n: how many.
        tokens: the longest question, and the longest answer or text.
        seed: of what is drawn.
        told: is given, after each batch, how many texts it was; a question is one, and its answer another.

    Raises:
        UserError: most of what the model writes is empty.

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> tokenizer = word_tokenizer(["sky", "is", "blue", "green"])
    >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
    >>> rows = self_written_rows(model, tokenizer, 3, tokens=5)
    >>> len(rows), rows[0]["question"], rows == self_written_rows(model, tokenizer, 3, tokens=5)
    (3, '', True)
    """
    template, found = prompt_template(tokenizer), {}
    room = context_length(model)
    tokens = min(tokens, room // 4) if room else tokens
    begin = template.prompt(QUESTION_MARK).partition(QUESTION_MARK)[0] if template.tokenizer is not None else ""
    for turn in range(ROUNDS):
        draw = torch.Generator().manual_seed(seed * ROUNDS + turn)
        if template.tokenizer is None:
            written = [{"text": text} for text in _sampled(model, tokenizer, [""] * n, tokens, draw, told)]
        else:
            asked = [text.strip() for text in _sampled(model, tokenizer, [begin] * n, tokens, draw, told)]
            asked = [question for question in dict.fromkeys(asked) if question]
            prompts = [template.prompt(question) for question in asked]
            answers = _sampled(model, tokenizer, prompts, tokens, draw, told)
            written = [{"question": q, "answer": a.strip()} for q, a in zip(asked, answers, strict=True)]
        for row in written:
            if all(text.strip() for text in row.values()):
                found.setdefault(str(row), normalise(row))
        if len(found) >= n:
            return list(found.values())[:n]
    raise UserError(
        f"of {n * ROUNDS} rows that the model was to write itself, {len(found)} are no repetition and not empty: give"
        " rows of what it should keep"
    )


def _sampled(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    tokens: int,
    generator: torch.Generator,
    told: Callable[[int], None],
) -> list[str]:
    """How a model goes on, drawn at temperature 1 from the likeliest tokens of mass 0.95."""
    ends = {tokenizer.eos_token_id, *prompt_template(tokenizer).end_ids} - {None}
    first = next(i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if i is not None)
    encoded = [ids or [first] for ids in encode_prompts(tokenizer, list(prompts))]
    pad, device, texts = pad_token_id(tokenizer), device_of(model), []
    with evaluating(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for start in range(0, len(encoded), BATCH):
            rows = encoded[start : start + BATCH]
            width = max(map(len, rows))
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            settings = {"do_sample": True, "temperature": 1.0, "top_p": TOP_P, "top_k": 0, "max_new_tokens": tokens}
            ended = {"eos_token_id": sorted(ends) or None, "pad_token_id": pad}
            said = model.generate(ids, attention_mask=mask, **settings, **ended)
            texts += [tokenizer.decode(row[width:], skip_special_tokens=True) for row in said]
            told(len(rows))
    return texts
