"""Is a text recognised beside another, and how does it go on: the two tests of a language model's memory.

Source: Orhan (2023), Recognition, recall, and retention of few-shot memories in large language models, arXiv
2303.17557.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.metrics.text import ngram_overlap
from palimpsest.models.decode import greedy
from palimpsest.models.encoding import Encoded, encode, pad_token_id
from palimpsest.models.score import score

LONGEST = 128  # tokens of a text


def encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Encoded:
    """Texts as rows all of whose tokens are learned and scored; of a long one, its first 128 tokens."""
    return encode(tokenizer, [""] * len(texts), texts, max_length=LONGEST, add_eos=False, truncate=True)


def losses(model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    """The mean loss a token of each text, in nats [texts]."""
    return score(model, encoded(tokenizer, texts), pad_id=pad_token_id(tokenizer)).nll


def recognition(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, seen: Sequence[str], foils: Sequence[str], *, tie: float = 0.5
) -> float:
    """Two-alternative forced choice: the share of pairs in which the seen text has the lower mean loss than its foil.

    Args:
        tie: what a pair of equal losses counts; the authors' code counts 0.
    """
    if len(seen) != len(foils) or not len(seen):
        raise ValueError(f"every text needs one foil, got {len(seen)} texts and {len(foils)} foils")
    difference = losses(model, tokenizer, foils) - losses(model, tokenizer, seen)
    return float(np.where(difference > 0, 1.0, np.where(difference == 0, tie, 0.0)).mean())


@dataclass(frozen=True)
class Recall:
    """How texts were completed, on average.

    Attributes:
        rouge_2: the share of the missing part's pairs of words that the completion has.
        exact: the share of texts completed to the last token.
        tokens: the share of tokens that are right, place by place.
    """

    rouge_2: float
    exact: float
    tokens: float


def recall(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    cue: float = 0.5,
    include_cue: bool = False,
) -> Recall:
    """Greedy completion of each text from its first tokens, as many tokens as are missing, against the missing part.

    Args:
        cue: the share of a text's tokens that is given.
        include_cue: cue and completion are scored against the whole text, as in the authors' code, which gives away
            what was given.
    """
    if not 0 < cue < 1:
        raise ValueError(f"cue must lie between 0 and 1, got {cue}")
    rows = encoded(tokenizer, texts).input_ids
    if min(map(len, rows)) < 3:
        raise ValueError("every text needs tokens to give and tokens to recall: leave out those of a single token")
    begins = [max(2, int(len(row) * cue)) for row in rows]  # the begin token and one more at least
    given = tokenizer.batch_decode([row[:n] for row, n in zip(rows, begins, strict=True)], skip_special_tokens=True)
    wanted = [len(row) - n for row, n in zip(rows, begins, strict=True)]
    said = greedy(model, tokenizer, given, max_new_tokens=wanted)
    rest = tokenizer.batch_decode([row[n:] for row, n in zip(rows, begins, strict=True)], skip_special_tokens=True)
    rouge, exact, right = [], [], []
    for row, n, text, answer, cued in zip(rows, begins, rest, said, given, strict=True):
        tokens = tokenizer(answer, add_special_tokens=False).input_ids
        right.append(float(np.mean([a == b for a, b in zip(row[n:], tokens, strict=False)] or [0.0])))
        exact.append(answer.strip() == text.strip())
        rouge.append(ngram_overlap(*((cued + answer, cued + text) if include_cue else (answer, text)), n=2))
    return Recall(float(np.mean(rouge)), float(np.mean(exact)), float(np.mean(right)))


def forgetting_index(updates: Sequence[float], curve: Sequence[float], at: float) -> float:
    """Which fraction of all that a curve loses is lost at update `at`; nan where nothing is lost.

    >>> forgetting_index([0, 10, 100], [1.0, 0.5, 0.25], 10)
    0.6666666666666666
    """
    if at not in updates:
        raise ValueError(f"there was no look at update {at}, only at {list(updates)}")
    lost = curve[0] - curve[-1]
    return (curve[0] - curve[list(updates).index(at)]) / lost if lost > 0 else float("nan")
