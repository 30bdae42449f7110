"""What a causal language model says: greedy decoding of many prompts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from palimpsest.errors import UserError
from palimpsest.models.encoding import encode_prompts, pad_token_id
from palimpsest.models.forward import (
    arguments,
    by_length,
    check_vocabulary,
    context_length,
    device_of,
    evaluating,
)
from palimpsest.models.template import prompt_template


def greedy(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | Sequence[int],
    batch_size: int = 64,
    until: str = "",
) -> list[str]:
    """Continue every prompt with the most probable token at each step.

    The same texts as transformers' `generate(do_sample=False)` of each prompt alone, with less work a token: prompts of
    similar length go together, padded on the left, or, where a model's state would take the padding in, those of equal
    length; keys and values are cached; rows that have ended are dropped. A row ends at an end token (the model's
    generation settings', the tokenizer's or the chat template's), after `max_new_tokens`, where the model's context is
    full, or where it says `until`. Penalties in the generation settings do not apply.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: N texts, encoded as `encode` does.
        max_new_tokens: the longest continuation in tokens, of all or of each.
        batch_size: how many prompts go through the model together.
        until: a text at which a continuation ends, such as the next question; it is left out.

    Returns:
        N texts, the continuations without special tokens, as the tokenizer decodes them (a leading space is
        kept).

    Raises:
        UserError: a prompt has no token, or does not fit the model's context.
        ValueError: a number is not positive, or a token is outside the model's vocabulary.
        TypeError: prompts is one string instead of several, or holds something that is not a string.

    Example:
        >>> from palimpsest.models import causal_lm, word_tokenizer
        >>> tokenizer = word_tokenizer(["sky", "is", "blue"])
        >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
        >>> len(greedy(model, tokenizer, ["sky is", "is"], max_new_tokens=3))
        2
    """
    if isinstance(prompts, str):
        raise TypeError("prompts must be several strings, got one: put it into a list")
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(limits) != len(prompts):
        raise ValueError(f"max_new_tokens must be one number or {len(prompts)}, got {len(limits)}")
    if min(limits, default=1) < 1 or batch_size < 1:
        raise ValueError(f"max_new_tokens and batch_size must be at least 1, got {max_new_tokens} and {batch_size}")
    rows = encode_prompts(tokenizer, prompts)
    context = context_length(model)
    for i, row in enumerate(rows):
        if not row:
            raise UserError(f"prompt {i} has no tokens: give it a text")
        if context is not None and len(row) > context:
            raise UserError(f"prompt {i} has {len(row)} tokens, the model's context holds {context}: shorten it")
    end = _End(tokenizer, _stop_ids(model, tokenizer), until)
    pad_id = pad_token_id(tokenizer)
    continuations: list[list[int]] = [[] for _ in rows]
    with evaluating(model):
        for indices in _batches(model, rows, batch_size):
            chunk = [rows[i] for i in indices]
            # The last new token is never read, hence the one beyond the context.
            room = [min(limits[i], context + 1 - len(rows[i])) if context else limits[i] for i in indices]
            for i, ids in zip(indices, _continue(model, chunk, room, end, pad_id), strict=True):
                continuations[i] = ids
    texts = tokenizer.batch_decode(continuations, skip_special_tokens=True) if continuations else []
    return [text.split(until)[0] for text in texts] if until else texts


class _End(StoppingCriteria):
    """Where a continuation ends: at one of the tokens `ids`, or as soon as it says `until`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: set[int], until: str):
        self.tokenizer, self.ids, self.until = tokenizer, sorted(ids), until
        self.finishes: dict[int, bool] = {}  # whether a token may hold the last sign of `until`
        self.reach = len(until.encode()) + 1  # tokens back from the last, among which are all that hold a part of it

    def __call__(
        self, new: Int[Tensor, "batch tokens"], scores: object = None, **kwargs: object
    ) -> Bool[Tensor, " batch"]:
        ended = torch.isin(new[:, -1], new.new_tensor(self.ids))
        if self.until:
            for row, token in enumerate(new[:, -1].tolist()):
                if token not in self.finishes:
                    text = self.tokenizer.decode([token])
                    self.finishes[token] = self.until[-1] in text or "\ufffd" in text
                if self.finishes[token]:
                    tail = self.tokenizer.decode(new[row, -self.reach :], skip_special_tokens=True)
                    ended[row] |= self.until in tail
        return ended

    def cut(self, ids: list[int]) -> list[int]:
        """The tokens up to and with the first that ends a text."""
        return next((ids[: i + 1] for i, token in enumerate(ids) if token in self.ids), ids)


def _batches(model: nn.Module, rows: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Batches of row numbers: of similar length where the model ignores padding on the left, else of equal length."""
    if _ignores_padding(model):
        yield from by_length(rows, batch_size)
        return
    if "state" in arguments(model):  # RWKV, which mixes the rows of a batch when it goes on from a state
        batch_size = 1
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for _, equal in groupby(order, key=lambda i: len(rows[i])):
        indices = list(equal)
        yield from (indices[i : i + batch_size] for i in range(0, len(indices), batch_size))


def _ignores_padding(model: nn.Module) -> bool:
    """Whether a row's tokens are the same with padding on their left: attention leaves it out where positions can be
    given; a running state or a convolution may take it in."""
    stateful = any(getattr(part, "_is_stateful", False) for part in model.modules())
    return not stateful and {"past_key_values", "position_ids"} <= arguments(model)


def _continue(model: nn.Module, rows: list[list[int]], room: list[int], end: _End, pad_id: int) -> list[list[int]]:
    """The most probable continuation of each row in token ids, at most `room` of them, the end token included."""
    device = device_of(model)
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    check_vocabulary(model, ids)
    if not _ignores_padding(model):
        return _continue_with_generate(model, ids, mask, room, end, pad_id)

    steps = torch.tensor(room, device=device)
    active = torch.arange(len(rows), device=device)
    running = torch.ones_like(active, dtype=torch.bool)
    new = ids.new_zeros(len(rows), max(room))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in arguments(model) else {}
    cache = None
    for step in range(max(room)):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **last_only,
        )
        cache = out.past_key_values
        ids = out.logits[:, -1:].argmax(-1)
        new[active, step] = ids[:, 0]
        running = running & ~end(new[active, : step + 1]) & (steps > step + 1)
        left = int(running.sum())
        if left == 0:
            break
        mask = F.pad(mask, (0, 1), value=1)
        # A row that has ended rides along: it must not run past the model's positions.
        positions = positions[:, -1:] + running[:, None]
        # Dropping rows copies the cache: worth it when it halves what every later step costs.
        if 2 * left <= len(active) and _drops_rows(cache):
            kept = running.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            ids, mask, positions = ids[kept], mask[kept], positions[kept]
            active, steps, running = active[kept], steps[kept], running[kept]
    return [end.cut(row[:n]) for row, n in zip(new.tolist(), room, strict=True)]


def _drops_rows(cache: object) -> bool:
    """Whether every part of the cache can drop rows: one with the state of a convolution cannot."""
    return all(hasattr(part, "batch_select_indices") for part in (cache, *getattr(cache, "layers", ())))


def _continue_with_generate(
    model: nn.Module,
    ids: Int[Tensor, "batch tokens"],
    mask: Int[Tensor, "batch tokens"],
    room: list[int],
    end: _End,
    pad_id: int,
) -> list[list[int]]:
    """The same for rows of equal length, of a model that takes no positions (ALiBi) or has a running state."""
    new: list[list[int]] = [[] for _ in room]
    context, width = context_length(model), ids.shape[1]
    # One call for all, from which each row takes what it has room for, unless the longest row would leave the context.
    together = len(set(room)) > 1 and (context is None or int(mask.sum(1).max()) + max(room) <= context + 1)
    for steps in {max(room)} if together else set(room):
        rows = [i for i, n in enumerate(room) if together or n == steps]
        out = model.generate(
            ids[rows],
            attention_mask=mask[rows],
            do_sample=False,
            num_beams=1,
            max_new_tokens=steps,
            pad_token_id=pad_id,
            eos_token_id=end.ids or None,
            stopping_criteria=[lambda ids, scores, **_: end(ids[:, width:])] if end.until else None,
        )
        for i, row in zip(rows, out[:, width:].tolist(), strict=True):
            new[i] = end.cut(row[: room[i]] if together else row)
    return new


def _stop_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Chat models end a turn with other tokens than a text; their generation settings list them."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = ids if isinstance(ids, list) else [ids]
    return {i for i in [*ids, tokenizer.eos_token_id, *prompt_template(tokenizer).end_ids] if i is not None}
