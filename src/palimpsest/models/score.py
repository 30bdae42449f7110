"""The one place where answers get log-probabilities: teacher-forced scores.

A row is a prompt followed by an answer, written by a `Template` and encoded by `encode`, which are imported here too,
as `greedy` is; only the answer's tokens count. Rows are padded on the right, so that
with causal attention nothing a row's tokens see depends on the padding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import NotFinite
from palimpsest.losses.divergence import kl_divergence
from palimpsest.models.decode import greedy
from palimpsest.models.encoding import IGNORED, Encoded, encode, pad_token_id
from palimpsest.models.forward import (
    arguments,
    by_length,
    check_vocabulary,
    config_of,
    context_length,
    device_of,
    evaluating,
)
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
    device = device_of(model)
    rows = len(encoded)
    # Of every scored token: log p, whether it is the first choice, and with `moments` mu and sigma^2.
    columns: list[list[np.ndarray]] = [[np.empty(0)] * rows for _ in range(4 if moments else 2)]
    with evaluating(model):
        for indices in by_length(encoded.input_ids, batch_size):
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
    with evaluating(model):
        for indices in by_length(encoded.input_ids, batch_size):
            batch = {key: value.to(device_of(model)) for key, value in encoded.batch(indices, pad_id).items()}
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
    check_vocabulary(model, input_ids)
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
    keep = "logits_to_keep" in arguments(model)
    if keep:
        inputs["logits_to_keep"] = tokens - start
    labels = F.pad(labels[:, start + 1 :], (0, 1), value=IGNORED)
    if len(first) and labels.numel() * config_of(model).vocab_size >= WIDE:
        layer = run_to_last_layer(model, inputs)
        if layer is not None:
            return _Predictions(labels, start, layer=layer if keep else layer.at((slice(None), slice(start, None))))
    logits = model(**inputs).logits
    return _Predictions(labels, start, _at_least_float32(logits if keep else logits[:, start:]))


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
