"""What clamping a sparse autoencoder's features costs, and which single feature flips an answer (Farrell, Lau and
Conmy, 2024, arXiv 2410.19278)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from palimpsest.forget.feature_clamp import clamping
from palimpsest.forget.procedure import encode_pairs
from palimpsest.forget.truly_unlearn_measures import letter_accuracy
from palimpsest.models.sae import SparseAutoencoder
from palimpsest.models.score import context_length, pad_token_id, score
from palimpsest.tasks.multiple_choice import LETTERS, Question, plain


def side_effect(
    model: nn.Module, base: nn.Module, tokenizer: Any, *, questions: Sequence[Question], texts: Sequence[str]
) -> dict[str, float]:
    """What an intervention costs: "accuracy loss" on other questions, and "added text loss" on unrelated plain texts,
    in nats a token."""
    longest, pad = min(512, context_length(model) or 512), pad_token_id(tokenizer)
    rows = encode_pairs(tokenizer, [("", text) for text in texts], max_length=longest, truncate=True)
    prompts, answers = [plain(question) for question in questions], [question.answer for question in questions]
    right, nll = [], []
    for m in (base, model):
        right.append(letter_accuracy(m, tokenizer, prompts, answers))
        scores = score(m, rows, pad_id=pad)
        nll.append(float(-scores.logp.sum() / scores.length.sum()))
    return {"accuracy loss": right[0] - right[1], "added text loss": nll[1] - nll[0]}


def flipping_feature(
    model: nn.Module,
    tokenizer: Any,
    sae: SparseAutoencoder,
    layer: int,
    question: Question,
    candidates: Int[Tensor, "features"],
    clamp: float = -20.0,
) -> int | None:
    """The first feature whose clamp makes the model answer a question wrong in every order of its options; None if
    there is none, or the model does not know the answer in every order to begin with.

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> q = Question("", "", "", "Who ?", ("ann", "bob", "cid", "dan"), 1)
    >>> tokenizer = word_tokenizer([plain(q), *LETTERS])
    >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1)
    >>> flipping_feature(model, tokenizer, SparseAutoencoder(16, 4), 0, q, torch.arange(4)) is None
    True
    """
    orders = list(itertools.permutations(range(len(LETTERS))))
    asked = [replace(question, options=tuple(question.options[i] for i in order)) for order in orders]
    prompts, answers = list(map(plain, asked)), [order.index(question.answer) for order in orders]
    if letter_accuracy(model, tokenizer, prompts, answers) < 1:
        return None
    for feature in candidates.tolist():
        chosen = torch.tensor([feature], device=sae.rows.device)
        value = torch.full((1,), clamp, device=sae.rows.device)
        with clamping(model, sae, layer, chosen, value, spared=tokenizer.bos_token_id):
            if letter_accuracy(model, tokenizer, prompts, answers) == 0:
                return feature
    return None
