"""What the methods of the family share for scoring: how likely a model finds given answers, and what it answers.

Questions and answers are plain text; the model's template (`palimpsest.models.score.prompt_template`) is put around
them here. A question "" stands for none: the answer is then a plain text.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.metrics.text import begun, words
from palimpsest.models.score import (
    Encoded,
    Template,
    context_length,
    encode,
    greedy,
    pad_token_id,
    prompt_template,
    score,
)
from palimpsest.models.template import use_template
from palimpsest.tasks.rows import Row

T = TypeVar("T")
SPARE_TOKENS = 4  # an answer may run this much longer than its reference before it is cut


def score_candidates(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    candidates: Sequence[Sequence[str]],
    *,
    write: Callable[[PreTrainedTokenizerBase, Sequence[tuple[str, str]], int], Encoded] | None = None,
    batch_size: int = 64,
) -> tuple[Float[np.ndarray, "rows candidates"], list[list[np.ndarray]]]:
    """Teacher-forced scores of several answers to each question, all in one pass; equal answers are computed once.

    Args:
        model, tokenizer: any Hugging Face causal language model.
        questions: one a row.
        candidates: the answers to score for each row, as many as one likes.
        write: makes rows of at most so many tokens of pairs of question and answer; None is the model's template.

    Returns:
        The mean negative log-likelihood of every answer, in nats a token, the end token counted and the prompt not:
        NaN where a row has no such candidate. And, for every candidate, whether each of its tokens but the
        end was the model's first choice.

    Raises:
        UserError: an answer does not fit into the model's context.
        NotFinite: the model's output is not a number.
    """
    if len(questions) != len(candidates):
        raise ValueError(f"as many questions as rows of candidates are needed: {len(questions)} and {len(candidates)}")
    template = prompt_template(tokenizer)
    pair = template.pair if write is None else lambda question, answer: (question, answer)
    pairs = [
        pair(question, answer) for question, answers in zip(questions, candidates, strict=True) for answer in answers
    ]
    unique = {pair: index for index, pair in enumerate(dict.fromkeys(pairs))}
    nll = np.full((len(questions), max(map(len, candidates), default=0)), np.nan)
    if not unique:
        return nll, [[] for _ in questions]
    context = context_length(model) or sys.maxsize
    if write is None:
        encoded = encode(tokenizer, *zip(*unique, strict=True), max_length=sys.maxsize)
        long = [i for i, ids in enumerate(encoded.input_ids) if len(ids) > context]
        if long:
            begins = [
                (question or answer)[:60] for question, row in zip(questions, candidates, strict=True) for answer in row
            ]
            raise UserError(
                f"{len(long)} of {len(unique)} answers with their questions are longer than the {context} tokens that"
                f" the model can read, the first ({len(encoded.input_ids[long[0]])} tokens) begins"
                f" {begins[pairs.index(list(unique)[long[0]])]!r}: shorten or split them"
            )
    else:
        encoded = write(tokenizer, list(unique), context)
    scores = score(model, encoded, batch_size=batch_size, pad_id=0)
    ends = {tokenizer.eos_token_id, *template.end_ids}
    own_hits = [
        hits[:-1] if ids[-1] in ends else hits for ids, hits in zip(encoded.input_ids, scores.argmax_hits, strict=True)
    ]
    indices = iter(unique[pair] for pair in pairs)
    hits = []
    for row, answers in enumerate(candidates):
        places = [next(indices) for _ in answers]
        nll[row, : len(places)] = scores.nll[places]
        hits.append([own_hits[place] for place in places])
    return nll, hits


def greedy_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    references: Sequence[str],
    *,
    batch_size: int = 64,
) -> tuple[list[str], list[str]]:
    """The model's most likely answer to each question, cut a few tokens after the length of its reference.

    Where the question is "", the reference is a plain text: the model is given its first half and continues it.

    Returns:
        The outputs, and what each is to be compared with: the reference, or the second half of the text.
    """
    template = prompt_template(tokenizer)
    prompts, expected = [], []
    for question, reference in zip(questions, references, strict=True):
        if question:
            prompts.append(template.prompt(question))
            expected.append(reference)
        else:
            head, rest = begun(reference, 2)
            prompts.append(head or rest)  # of one sign alone nothing can follow
            expected.append(rest.strip() if head else "")
    # Each by its own answer's length: what is said of a row must not hang on the longest row of the file.
    # A template may put words of its own before an answer.
    written = [template.lead(question) + text for question, text in zip(questions, expected, strict=True)]
    lengths = [len(ids) + SPARE_TOKENS for ids in tokenizer(written, add_special_tokens=False).input_ids]
    until = template.next_question
    outputs = greedy(model, tokenizer, prompts, max_new_tokens=lengths, batch_size=batch_size, until=until)
    return [template.said(*pair) for pair in zip(questions, outputs, strict=True)], expected


def settle_end(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, batch_size: int = 64
) -> Template:
    """Decides whether the end token counts as a part of the answers, where that is not yet said (`Template.end`): it
    does where the model itself ends, which gives the end token the first place behind half of these answers.

    A pretrained model that no one taught to end goes on after every answer: its end token tells nothing.

    Args:
        model: the model before it forgot anything, where it is at hand.
        rows: what it knows; at most 64 of them are asked.
    """
    template = prompt_template(tokenizer)
    eos = tokenizer.eos_token_id
    if template.end is not None or eos is None or not rows:
        return template
    pairs = [template.pair(row["question"], row["answer"]) for row in subsample(rows, 64)]
    longest = context_length(model) or sys.maxsize
    encoded = encode(tokenizer, *zip(*pairs, strict=True), max_length=longest, add_eos=True, truncate=True)
    ended = [i for i, ids in enumerate(encoded.input_ids) if ids[-1] == eos and len(ids) > encoded.prompt_lengths[i]]
    if not ended:  # the chat template has tokens of its own for the end of a turn
        return template
    scores = score(model, encoded.subset(ended), batch_size=batch_size, pad_id=pad_token_id(tokenizer))
    end = bool(np.mean([hits[-1] for hits in scores.argmax_hits]) >= 0.5)
    return use_template(tokenizer, system=template.system, options=template.options, end=end)


def perplexity(model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str, *, batch_size: int = 16) -> float:
    """exp of the mean negative log-likelihood a token of a whole text, which is read in windows of at most 512 tokens.

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> tokenizer = word_tokenizer(["sky", "is", "blue"])
    >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
    >>> perplexity(model, tokenizer, "sky is blue " * 400) > 1
    True
    """
    whole = encode(tokenizer, [""], [text], max_length=sys.maxsize, add_eos=False).input_ids[0]
    begin = whole[:1] if whole[0] == tokenizer.bos_token_id else []
    width = min(512, context_length(model) or 512) - len(begin)
    body = whole[len(begin) :]
    rows = Encoded([begin + body[i : i + width] for i in range(0, len(body), width)], [1] * -(-len(body) // width))
    scores = score(model, rows, batch_size=batch_size, pad_id=pad_token_id(tokenizer))
    return float(np.exp(min(700.0, -scores.logp.sum() / max(1, scores.length.sum()))))


def states(text: str, value: str) -> bool:
    """Whether a text holds the words of a value, in a row and up to case: the answer says it, however it is phrased.

    >>> states("Ada was born in Cape Town.", "Cape Town"), states("Ada was born in Townsville.", "Town")
    (True, False)
    """
    return f" {' '.join(words(value))} " in f" {' '.join(words(text))} "


def subsample(rows: Sequence[T], max_rows: int | None, seed: int = 0) -> list[T]:
    """At most `max_rows` of the rows, in their order, always the same ones for a seed; all where it is None."""
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, or None for all, got {max_rows}")
    if max_rows is None or max_rows >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), max_rows))]
