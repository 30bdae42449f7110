"""The one place where answers get log-probabilities: teacher-forced scores, greedy decoding.

A row is a prompt followed by an answer, written by a `Template` and encoded by `encode`, which are imported here too;
only the answer's tokens count. Rows are padded on the right, so that
with causal attention nothing a row's tokens see depends on the padding.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import NotFinite, UserError
from palimpsest.losses.divergence import kl_divergence
from palimpsest.models.encoding import IGNORED, Encoded, encode, encode_prompts, pad_token_id
from palimpsest.models.last_layer import LastLayer, linear_kl, linear_logprobs, run_to_last_layer
from palimpsest.models.template import Template, prompt_template

__all__ = [
    "IGNORED",
    "Encoded",
    "Scores",
    "Template",
    "answer_logprobs",
    "answer_nll",
    "answer_ranks",
    "choice_logprob",
    "context_length",
    "cross_entropy",
    "encode",
    "greedy",
    "pad_token_id",
    "prompt_template",
    "reference_kl",
    "runners_up",
    "score",
    "token_logprobs",
]

# From so many logits in a batch on, the last layer is not applied to all positions at once: 64 MiB in float32. Below,
# the plain expression is as fast.
WIDE = 2**24
CHUNK = 256  # positions whose logits are looked at together when rows are scored


def token_logprobs(model: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, "batch tokens-1"]:
    """log p(token t+1 | tokens up to t) for each labelled token, 0 where the label is -100; differentiable.

    Args:
        model: a causal language model.
        batch: `input_ids` and `labels` [batch, tokens], padded on the right, as `Encoded.batch` makes them.

    Returns:
        Natural logarithms, in float32 or the model's float64.

    Raises:
        ValueError: the shapes differ, the rows are padded on the left, or a token is outside the model's
            vocabulary.

    Example:
        >>> from palimpsest.models import causal_lm
        >>> batch = Encoded([[1, 5, 6, 2]], [2]).batch([0], pad_id=0)
        >>> logp = token_logprobs(causal_lm(10, d_model=16, n_layers=1, n_heads=2), batch)
        >>> logp.shape, logp[0, 0].item()
        (torch.Size([1, 3]), 0.0)
    """
    found = _predictions(model, batch)
    labels, start = found.labels, found.start
    if found.layer is None:
        logits = found.logits.flatten(0, 1)
        logp = -F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="none").view_as(labels)
    else:
        scored = labels != IGNORED
        hidden, weight, bias = found.layer.at(scored)
        chosen = linear_logprobs(hidden, weight, labels[scored], bias)
        logp = chosen.new_zeros(labels.shape).masked_scatter(scored, chosen)
    return F.pad(logp[:, :-1], (start, 0))


def answer_logprobs(
    model: nn.Module, batch: dict[str, Tensor]
) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
    """log p(answer | prompt) of each row, summed over the answer's tokens, and how many tokens that is; differentiable.

    Example:
        >>> from palimpsest.models import causal_lm
        >>> batch = Encoded([[1, 5, 6, 2]], [2]).batch([0], pad_id=0)
        >>> logp, length = answer_logprobs(causal_lm(10, d_model=16, n_layers=1, n_heads=2), batch)
        >>> length
        tensor([2])
    """
    logp = token_logprobs(model, batch).sum(1)
    return logp, (batch["labels"][:, 1:] != IGNORED).sum(1).to(logp.device)


def answer_nll(model: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, " batch"]:
    """-log p(answer | prompt) / length of each row in nats a token; 0 for a row without answer; differentiable."""
    logp, length = answer_logprobs(model, batch)
    return -logp / length.clamp(min=1)


def cross_entropy(model: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """The mean over rows of `answer_nll`.

    A mean over rows, not over tokens: batches of equally many rows then average to exactly the loss, and the
    gradient, of the joint batch, whether they are accumulated or spread over processes.
    """
    return answer_nll(model, batch).mean()


@torch.no_grad()
def runners_up(model: nn.Module, batch: dict[str, Tensor]) -> Int[Tensor, "batch tokens"]:
    """Labels that hold, in place of each scored token, the most likely token other than it; without gradients.

    Example:
        >>> from palimpsest.models import causal_lm
        >>> batch = Encoded([[1, 5, 6, 2]], [2]).batch([0], pad_id=0)
        >>> labels = runners_up(causal_lm(10, d_model=16, n_layers=1, n_heads=2), batch)
        >>> (labels == -100).tolist(), bool((labels == batch["labels"])[0, 2:].any())
        ([[True, True, False, False]], False)
    """
    found = _predictions(model, batch)
    scored = found.labels != IGNORED
    best = [
        logits.scatter_(1, labels[:, None], -torch.inf).argmax(-1)
        for logits, labels in zip(found.chunks(scored), found.labels[scored].split(CHUNK), strict=True)
    ]
    labels = torch.full_like(found.labels, IGNORED).masked_scatter(scored, torch.cat(best))
    before = batch["labels"].new_full((len(labels), found.start + 1), IGNORED).to(labels.device)
    return torch.cat([before, labels[:, :-1]], dim=1)


def reference_kl(reference: nn.Module, model: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """KL(reference || model) at the answer's tokens, averaged over each row's tokens, then over rows; the reference is
    held fixed.

    Args:
        reference: a causal language model with the model's vocabulary, such as the model before its training.
        batch: as for `token_logprobs`.
    """
    with torch.no_grad():
        fixed = _predictions(reference, batch)
    found = _predictions(model, batch)
    scored = found.labels != IGNORED
    if fixed.layer is None or found.layer is None:
        return kl_divergence(fixed.all_logits(), found.all_logits(), scored)
    kl = linear_kl(fixed.layer.at(scored), found.layer.at(scored))
    by_token = kl.new_zeros(scored.shape).masked_scatter(scored, kl)
    return (by_token.sum(1) / scored.sum(1).clamp(min=1)).mean()


@dataclass(frozen=True)
class Scores:
    """Teacher-forced scores of N answers, in the order of the rows.

    Attributes:
        logp: log p(answer | prompt), float64 of shape [N].
        length: the number of scored tokens, int64 of shape [N].
        argmax_hits: for each row, whether each scored token was the model's first choice; bool of shape
            [length].
        token_logps: for each row, the log-probability of each scored token; float32 of shape [length].
        token_means: for each row, mu = sum_v p(v) log p(v) over the vocabulary at each scored token's position; float32
            of shape [length]. None where the moments were not asked for.
        token_variances: likewise sigma^2 = sum_v p(v) log^2 p(v) - mu^2.
    """

    logp: np.ndarray
    length: np.ndarray
    argmax_hits: list[np.ndarray]
    token_logps: list[np.ndarray]
    token_means: list[np.ndarray] | None = None
    token_variances: list[np.ndarray] | None = None

    @property
    def nll(self) -> np.ndarray:
        """-logp / length, in nats a token; 0 for a row without answer."""
        return -self.logp / np.maximum(self.length, 1)


def score(model: nn.Module, encoded: Encoded, *, batch_size: int = 64, pad_id: int, moments: bool = False) -> Scores:
    """Score every answer, without gradients and in evaluation mode; the model's mode is restored.

    Args:
        model: a causal language model.
        encoded: the rows.
        batch_size: how many rows go through the model together; rows of similar length do.
        pad_id: the token to pad with; it does not change the scores.
        moments: whether to give the mean and the variance of log p over the vocabulary too, which min-k++ asks for.

    Raises:
        ValueError: `batch_size` is not positive, or a token is outside the model's vocabulary.
        NotFinite: the model's output is not a number.

    Example:
        >>> from palimpsest.models import causal_lm
        >>> model = causal_lm(10, d_model=16, n_layers=1, n_heads=2)
        >>> scores = score(model, Encoded([[1, 5, 6, 2], [1, 7]], [2, 2]), pad_id=0)
        >>> scores.length.tolist(), float(scores.logp[1])
        ([2, 0], 0.0)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = _device(model)
    rows = len(encoded)
    # Of every scored token: log p, whether it is the first choice, and with `moments` mu and sigma^2.
    columns: list[list[np.ndarray]] = [[np.empty(0)] * rows for _ in range(4 if moments else 2)]
    with _evaluating(model):
        for indices in _by_length(encoded.input_ids, batch_size):
            batch = {key: value.to(device) for key, value in encoded.batch(indices, pad_id).items()}
            found = _predictions(model, batch)
            scored = found.labels != IGNORED
            ends = scored.sum(1).cumsum(0)[:-1].cpu().numpy()
            parts = [
                _token_values(logits, labels, moments)
                for logits, labels in zip(found.chunks(scored), found.labels[scored].split(CHUNK), strict=True)
            ]
            del found
            for column, values in zip(columns, zip(*parts, strict=True), strict=True):
                for row, piece in zip(indices, np.split(torch.cat(values).cpu().numpy(), ends), strict=True):
                    column[row] = piece
    logps, hits, *rest = columns
    if broken := sum(bool(np.isnan(row).any()) for row in logps):
        raise NotFinite(f"the model's output is not a number in {broken} of {rows} rows: its weights are broken")
    return Scores(
        np.array([row.sum(dtype=np.float64) for row in logps], dtype=np.float64),
        np.array([len(row) for row in logps], dtype=np.int64),
        hits,
        logps,
        *rest,
    )


def _token_values(
    logits: Float[Tensor, "tokens vocab"], labels: Int[Tensor, " tokens"], moments: bool
) -> list[Shaped[Tensor, " tokens"]]:
    """log p and the hit of each token, with `moments` also mu and sigma^2 of log p. Overwrites `logits`."""
    hits = logits.argmax(-1) == labels
    log_p = logits.log_softmax(-1)
    values = [log_p.gather(1, labels[:, None])[:, 0], hits]
    if moments:
        p = torch.exp(log_p, out=logits)
        # Where p = 0, the product with log p = -inf is 0.
        log_p.clamp_(min=-1e4)
        mean = torch.einsum("nv,nv->n", p, log_p)
        # The mean square of the deviations is sigma^2 without the cancellation.
        variance = torch.einsum("nv,nv->n", p, log_p.sub_(mean[:, None]).square_())
        values += [mean, variance]
    return values


def answer_ranks(
    model: nn.Module, encoded: Encoded, *, batch_size: int = 64, pad_id: int
) -> list[Int[np.ndarray, " length"]]:
    """The rank of each scored token among the whole vocabulary by its teacher-forced probability, 1 the most likely;
    for each row. No gradients, evaluation mode; the model's mode is restored.

    Example:
        >>> from palimpsest.models import causal_lm
        >>> model = causal_lm(10, d_model=16, n_layers=1, n_heads=2)
        >>> [ranks.shape for ranks in answer_ranks(model, Encoded([[1, 5, 6, 2], [1, 7]], [2, 1]), pad_id=0)]
        [(2,), (1,)]
    """
    ranks: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(encoded)
    with _evaluating(model):
        for indices in _by_length(encoded.input_ids, batch_size):
            batch = {key: value.to(_device(model)) for key, value in encoded.batch(indices, pad_id).items()}
            found = _predictions(model, batch)
            scored = found.labels != IGNORED
            parts = zip(found.chunks(scored), found.labels[scored].split(CHUNK), strict=True)
            above = torch.cat([(logits > logits.gather(1, labels[:, None])).sum(1) for logits, labels in parts])
            ends = scored.sum(1).cumsum(0)[:-1].cpu().numpy()
            for row, piece in zip(indices, np.split(above.cpu().numpy() + 1, ends), strict=True):
                ranks[row] = piece
    return ranks


def choice_logprob(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    choices: Sequence[str],
    *,
    normalize: bool = False,
    batch_size: int = 64,
) -> Float[Tensor, " choices"]:
    """log p(choice | prompt) of each choice, summed over its tokens or, with `normalize`, averaged over them.

    The end of the text is not scored. No gradients, evaluation mode; the model's mode is restored.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompt: the text before the choices.
        choices: the texts to compare, each as it follows the prompt (usually after a space).
        normalize: whether to divide by the choice's number of tokens, so that long choices are not at a
            disadvantage.
        batch_size: how many choices go through the model together.

    Raises:
        ValueError: there are no choices, or one of them has no token.

    Example:
        >>> from palimpsest.models import causal_lm, word_tokenizer
        >>> tokenizer = word_tokenizer(["sky", "is", "blue", "green"])
        >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
        >>> choice_logprob(model, tokenizer, "sky is", [" blue", " green"]).shape
        torch.Size([2])
    """
    if isinstance(choices, str):
        raise TypeError("choices must be several strings, got one: put it into a list")
    if len(choices) == 0:
        raise ValueError("choices is empty: give at least one")
    longest = context_length(model) or sys.maxsize
    rows = encode(tokenizer, [prompt] * len(choices), choices, max_length=longest, add_eos=False)
    scores = score(model, rows, batch_size=batch_size, pad_id=pad_token_id(tokenizer))
    if not scores.length.all():
        raise ValueError(f"choice {int(scores.length.argmin())} has no token to score")
    return torch.from_numpy(scores.logp / scores.length if normalize else scores.logp)


def greedy(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | Sequence[int],
    batch_size: int = 64,
) -> list[str]:
    """Continue every prompt with the most probable token at each step.

    The same texts as transformers' `generate(do_sample=False)`, with less work a token: prompts of similar
    length go together, padded on the left; keys and values are cached; rows that have ended are dropped. A
    row ends at an end token (the model's generation settings', the tokenizer's or the chat template's), after
    `max_new_tokens`, or where the model's context is full. Penalties in the generation settings do not apply.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: N texts, encoded as `encode` does.
        max_new_tokens: the longest continuation in tokens, of all or of each.
        batch_size: how many prompts go through the model together.

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
    stops = _stop_ids(model, tokenizer)
    pad_id = pad_token_id(tokenizer)
    continuations: list[list[int]] = [[] for _ in rows]
    with _evaluating(model):
        for indices in _by_length(rows, batch_size):
            chunk = [rows[i] for i in indices]
            # The last new token is never read, hence the one beyond the context.
            room = [min(limits[i], context + 1 - len(rows[i])) if context else limits[i] for i in indices]
            new = _continue(model, chunk, room, stops, pad_id)
            for i, ids in zip(indices, new, strict=True):
                continuations[i] = ids
    return tokenizer.batch_decode(continuations, skip_special_tokens=True) if continuations else []


def _continue(
    model: nn.Module, rows: list[list[int]], room: list[int], stops: set[int], pad_id: int
) -> list[list[int]]:
    """The most probable continuation of each row in token ids, at most `room` of them, the end token included."""
    device = _device(model)
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    _check_vocabulary(model, ids)
    accepted = _arguments(model)
    if not {"past_key_values", "position_ids"} <= accepted:
        return _continue_with_generate(model, ids, mask, room, stops, pad_id)

    stop = torch.tensor(sorted(stops), device=device, dtype=torch.long)
    steps = torch.tensor(room, device=device)
    active = torch.arange(len(rows), device=device)
    running = torch.ones_like(active, dtype=torch.bool)
    new = ids.new_zeros(len(rows), max(room))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
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
        running = running & ~torch.isin(ids[:, 0], stop) & (steps > step + 1)
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
    return [_until_stop(row[:n], stops) for row, n in zip(new.tolist(), room, strict=True)]


def _drops_rows(cache: object) -> bool:
    """Whether every part of the cache can drop rows: a layer with a running state, as hybrid models have, cannot."""
    return all(hasattr(part, "batch_select_indices") for part in (cache, *getattr(cache, "layers", ())))


def _continue_with_generate(
    model: nn.Module,
    ids: Int[Tensor, "batch tokens"],
    mask: Int[Tensor, "batch tokens"],
    room: list[int],
    stops: set[int],
    pad_id: int,
) -> list[list[int]]:
    """The same for a model whose forward takes no positions or no cache of keys and values (ALiBi, state spaces)."""
    new: list[list[int]] = [[] for _ in room]
    context = context_length(model)
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
            eos_token_id=sorted(stops) or None,
        )
        for i, row in zip(rows, out[:, ids.shape[1] :].tolist(), strict=True):
            new[i] = _until_stop(row[: room[i]] if together else row, stops)
    return new


def _until_stop(ids: list[int], stops: set[int]) -> list[int]:
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in stops), ids)


def _stop_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Chat models end a turn with other tokens than a text; their generation settings list them."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = ids if isinstance(ids, list) else [ids]
    return {i for i in [*ids, tokenizer.eos_token_id, *prompt_template(tokenizer).end_ids] if i is not None}


@dataclass(frozen=True)
class _Predictions:
    """What predicts the token after each position from `start` on: all logits, or what the last layer makes them of.

    `labels` are those tokens, [batch, kept], -100 where none is scored.
    """

    labels: Int[Tensor, "batch kept"]
    start: int
    logits: Float[Tensor, "batch kept vocab"] | None = None
    layer: LastLayer | None = None

    def all_logits(self) -> Float[Tensor, "batch kept vocab"]:
        """The logits, also where the last layer was not applied."""
        return self.logits if self.layer is None else _at_least_float32(F.linear(*self.layer))

    def chunks(self, scored: Tensor) -> Iterator[Float[Tensor, "tokens vocab"]]:
        """The logits at the scored positions, `CHUNK` at a time, which may be overwritten."""
        if self.layer is None:
            yield from self.logits[scored].split(CHUNK)
            return
        hidden, weight, bias = self.layer.at(scored)
        for part in hidden.split(CHUNK):
            yield _at_least_float32(F.linear(part, weight, bias))


def _predictions(model: nn.Module, batch: dict[str, Tensor]) -> _Predictions:
    """Runs the model; its logits are in at least float32.

    Positions before every row's first label are left out: their logits, the largest tensor of all, are then
    never computed; and where the others are many, none are.
    """
    input_ids, labels, mask = batch["input_ids"], batch["labels"], batch.get("attention_mask")
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise ValueError(f"input_ids must have shape [batch, tokens], got {list(input_ids.shape)}")
    for name, tensor in {"labels": labels, "attention_mask": mask}.items():
        if tensor is not None and tensor.shape != input_ids.shape:
            raise ValueError(
                f"{name} must have the shape of input_ids, {list(input_ids.shape)}, got {list(tensor.shape)}"
            )
    if mask is not None and not mask[:, 0].all():
        raise ValueError("rows must be padded on the right, got one whose first token is masked")
    _check_vocabulary(model, input_ids)
    tokens = input_ids.shape[1]
    context = context_length(model)
    if context is not None and tokens > context:
        raise ValueError(f"rows of {tokens} tokens do not fit the model's context of {context}: shorten them")
    first = (labels[:, 1:] != IGNORED).any(0).nonzero()
    start = int(first[0]) if len(first) else tokens - 1
    # Behind causal attention no real token sees the padding on its right: a mask of ones, which transformers leaves out
    # of attention, is faster than the padding's, and without any it warns.
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "use_cache": False}
    if getattr(model, "takes_prompt_mask", False):
        # Answers follow prompts: a prompt ends before its row's first label.
        inputs["prompt_mask"] = (labels != IGNORED).cumsum(1) == 0
        # The end of a row cannot be seen from a mask of ones.
        inputs["answer_mask"] = ~inputs["prompt_mask"] & (True if mask is None else mask.bool())
    keep = "logits_to_keep" in _arguments(model)
    if keep:
        inputs["logits_to_keep"] = tokens - start
    labels = F.pad(labels[:, start + 1 :], (0, 1), value=IGNORED)
    if len(first) and labels.numel() * _config(model).vocab_size >= WIDE:
        layer = run_to_last_layer(model, inputs)
        if layer is not None:
            return _Predictions(labels, start, layer=layer if keep else layer.at((slice(None), slice(start, None))))
    logits = model(**inputs).logits
    return _Predictions(labels, start, _at_least_float32(logits if keep else logits[:, start:]))


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _by_length(rows: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Batches of row numbers, rows of similar length together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return (order[i : i + batch_size] for i in range(0, len(order), batch_size))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients and evaluation mode; afterwards every module has its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _check_vocabulary(model: nn.Module, input_ids: Int[Tensor, "batch tokens"]) -> None:
    """A token that the embedding lacks is an obscure error on a CPU and kills the process's CUDA context on a GPU."""
    size = _config(model).vocab_size
    low, high = (int(bound) for bound in torch.aminmax(input_ids))
    if low < 0 or high >= size:
        raise ValueError(
            f"token id {low if low < 0 else high} is outside the model's vocabulary of {size} tokens:"
            " use the tokenizer that belongs to the model"
        )


def context_length(model: nn.Module) -> int | None:
    """How many positions the model has; None where positions are computed (rotary) and no length is out of range."""
    config = _config(model)
    if hasattr(config, "rope_parameters") or hasattr(config, "rope_theta"):
        return None
    return getattr(config, "max_position_embeddings", None)


def _config(model: nn.Module):
    # Wrappers for several processes have no config; the model inside does.
    return getattr(model, "module", model).config.get_text_config()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _arguments(model: nn.Module) -> frozenset[str]:
    inner = getattr(model, "module", model)
    # An adapter passes on whatever the model under it takes.
    return _forward_arguments(type(inner.get_base_model() if hasattr(inner, "get_base_model") else inner))


@lru_cache
def _forward_arguments(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
