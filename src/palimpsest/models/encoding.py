"""Token ids of prompts and answers: encoded together, scored apart, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.models.template import prompt_template

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompts followed by answers.

    Attributes:
        input_ids: one list of token ids a row, prompt first.
        prompt_lengths: how many of each row's tokens belong to the prompt and are not scored.

    Raises:
        ValueError: the two lists differ in length, a row is empty, or a prompt is longer than its row.

    Example:
        >>> rows = Encoded([[1, 5, 6, 2], [1, 7, 2]], [2, 1])
        >>> rows.batch([1, 0], pad_id=0)["labels"]
        tensor([[-100,    7,    2, -100],
                [-100, -100,    6,    2]])
    """

    input_ids: list[list[int]]
    prompt_lengths: list[int]

    def __post_init__(self) -> None:
        if len(self.input_ids) != len(self.prompt_lengths):
            raise ValueError(f"input_ids has {len(self.input_ids)} rows, prompt_lengths has {len(self.prompt_lengths)}")
        for row, (ids, length) in enumerate(zip(self.input_ids, self.prompt_lengths, strict=True)):
            if not ids:
                raise ValueError(f"row {row} has no tokens")
            if not 0 <= length <= len(ids):
                raise ValueError(f"row {row} has {len(ids)} tokens but a prompt of {length}")

    def __len__(self) -> int:
        return len(self.input_ids)

    def subset(self, indices: Sequence[int]) -> Encoded:
        """The rows with these indices, in this order."""
        return Encoded([self.input_ids[i] for i in indices], [self.prompt_lengths[i] for i in indices])

    def batch(self, indices: Sequence[int], pad_id: int, pad_to_multiple: int = 1) -> dict[str, Tensor]:
        """The rows with these indices as tensors, padded on the right.

        Args:
            indices: which rows, in which order.
            pad_id: the token to pad with.
            pad_to_multiple: the padded length is a multiple of this.

        Returns:
            `input_ids`, `attention_mask` and `labels` (-100 on prompts and padding), each of shape [batch,
            tokens], and `index`, the rows' numbers, of shape [batch]; all int64.
        """
        if len(indices) == 0:
            raise ValueError("indices is empty: a batch needs at least one row")
        if pad_to_multiple < 1:
            raise ValueError(f"pad_to_multiple must be at least 1, got {pad_to_multiple}")
        index = torch.as_tensor(indices, dtype=torch.long)
        rows = [self.input_ids[i] for i in index.tolist()]
        lengths = torch.tensor([len(row) for row in rows])
        prompts = torch.tensor([self.prompt_lengths[i] for i in index.tolist()])
        width = -(-int(lengths.max()) // pad_to_multiple) * pad_to_multiple
        input_ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
        position = torch.arange(width)
        real = position < lengths[:, None]
        return {
            "input_ids": input_ids,
            "attention_mask": real.long(),
            "labels": input_ids.masked_fill(~real | (position < prompts[:, None]), IGNORED),
            "index": index,
        }


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    max_length: int,
    add_eos: bool | None = None,
    truncate: bool = False,
) -> Encoded:
    """Encode each prompt with its answer as one text, and say where the answer's tokens begin.

    They begin behind the tokens that the row and the prompt alone have in common: all of the prompt's, as a rule. Where
    a token spans the boundary (a prompt that ends in a space, words of one sign), the answer begins with that token:
    the row keeps the tokens that the model knows the text by, and none that holds a part of the answer goes unscored.
    Only where a tokenizer of whole words does not know the word at the boundary, both sides are encoded apart.

    A row is the prompt, the answer and, with `add_eos`, the tokenizer's end token where it has one and the answer has
    not ended already. The prompt begins with the tokenizer's begin token where the tokenizer adds one by itself. A
    plain document is an answer with the prompt "": all its tokens are scored but the first of the row, which nothing
    predicts.

    Args:
        tokenizer: any Hugging Face tokenizer.
        prompts: N texts.
        answers: N texts.
        max_length: the longest row in tokens.
        add_eos: whether an end token is put behind the answers; by default as the tokenizer's template says (see
            `Template.end`).
        truncate: whether rows that are too long lose the end of their answer; otherwise they are an error.

    Raises:
        UserError: rows are longer than `max_length` (with `truncate`, only where the prompt alone is), or a
            row has no token.
        ValueError: prompts and answers differ in number, or `max_length` is not positive.
        TypeError: prompts or answers is one string instead of several, or holds something that is not a string.

    Example:
        >>> from palimpsest.models import word_tokenizer
        >>> encode(word_tokenizer(["Who", "?", "Ada"]), ["Who?"], ["Ada"], max_length=8)
        Encoded(input_ids=[[1, 4, 5, 6, 2]], prompt_lengths=[3])
    """
    if isinstance(prompts, str) or isinstance(answers, str):
        raise TypeError("prompts and answers must be several strings each, got one: put it into a list")
    if len(prompts) != len(answers):
        raise ValueError(f"prompts and answers must be as many, got {len(prompts)} and {len(answers)}")
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    template = prompt_template(tokenizer)
    add_eos = template.adds_end if add_eos is None else add_eos
    eos = [tokenizer.eos_token_id] if add_eos and tokenizer.eos_token_id is not None else []
    ends = {*eos, *template.end_ids} if eos else set()
    prompt_ids, answer_ids = encode_prompts(tokenizer, prompts), _plain_ids(tokenizer, answers)
    joined = encode_prompts(tokenizer, [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])
    unknown = tokenizer.unk_token_id
    rows, n_prompt = [], []
    for prompt, apart, row in zip(prompt_ids, answer_ids, joined, strict=True):
        if unknown is not None and row.count(unknown) > prompt.count(unknown) + apart.count(unknown):
            row = [*prompt, *apart]
        common = sum(1 for _ in takewhile(lambda ids: ids[0] == ids[1], zip(prompt, row, strict=False)))
        n_prompt.append(common)
        rows.append(row if row and row[-1] in ends and len(row) > common else row + eos)
    # Nothing predicts a row's first token: it belongs to the prompt, whatever it is.
    prompt_lengths = [max(1, n) for n in n_prompt]

    empty = [i for i, row in enumerate(rows) if not row]
    if empty:
        raise UserError(f"row {empty[0]} has no tokens (of {len(empty)} such): give it a prompt or an answer")
    fixed = prompt_lengths if truncate else [len(row) for row in rows]
    long = [i for i, length in enumerate(fixed) if length > max_length]
    if long:
        what = "prompts are" if truncate else "rows are"
        raise UserError(
            f"{len(long)} of {len(rows)} {what} longer than {max_length} tokens, the first is row {long[0]} with"
            f" {fixed[long[0]]}: shorten them{'' if truncate else ', truncate'} or raise max_length"
        )
    return Encoded([row[:max_length] for row in rows], prompt_lengths)


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token to pad with: the tokenizer's own, else its end token, else 0; labels and masks keep it from counting.

    A padding token that was added to the tokenizer's vocabulary is passed over: the model may have no row for it.

    Example:
        >>> from palimpsest.models import word_tokenizer
        >>> pad_token_id(word_tokenizer(["Ada"]))
        0
    """
    own = tokenizer.pad_token_id
    if own is not None and own >= tokenizer.vocab_size:
        own = None
    return next(i for i in (own, tokenizer.eos_token_id, 0) if i is not None)


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids, after the begin token where the tokenizer adds it by itself (a chat template may already have)."""
    rows = _plain_ids(tokenizer, prompts)
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("a")["input_ids"][:1] != [bos]:
        return rows
    return [row if row[:1] == [bos] else [bos, *row] for row in rows]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"row {row} must be a string, got {type(text).__name__}: {text!r}")
    if len(texts) == 0:
        return []
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
