"""KnowUnDo and MemFlex (Tian, Liang, Cheng, Liu, Wang, Sui, Chen, Chen and Zhang, 2024, arXiv 2407.01920).

The benchmark draws a line through what a model knows of one subject: a person's address is to go, the same person's
prize is to stay (`knowundo_task`). Methods that ascend on the one lose the other too: *excessive unlearning*.

    unlearn success = 1 - accuracy on rows to forget        retention success = accuracy on rows to keep

the accuracy being the share of an answer's tokens that are the model's first choice after the true ones before them.

MemFlex looks for the tensors in which forgetting does not pull at what stays. Of every tensor k it compares the
gradients on the rows to forget and to keep, both with RANDOM words in the answers (else what a trained model knows by
heart would have no gradient left), and lets only those move where they point apart and forgetting has a grip:

    cos(G_u[k], G_r[k]) < sim  and  mean|G_u[k]| > grad;        loss = -0.4 CE(unlearn) + 2 CE(retain)

The paper's thresholds, 0.92 and 6e-4, are for the LoRA matrices of 7B models; grad=None takes the median over tensors.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.evaluation import greedy_answers, score_candidates
from palimpsest.forget.masks import apply_masks, gradients
from palimpsest.forget.pretrained_unlearning import AdversarialLabel, RandomTokens
from palimpsest.forget.procedure import Batch, ForgetData, encode_pairs
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.files import load
from palimpsest.models.score import Encoded, context_length, pad_token_id, prompt_template, score
from palimpsest.tasks.private_people import knowundo_task as knowundo_task
from palimpsest.tasks.private_people import read_knowundo
from palimpsest.tasks.rows import Row, normalise, read_rows
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast, AtMost

BASELINES: dict[str, Any] = {
    "grad_ascent": GradAscent(retain="none"),
    "random_label": RandomTokens(retain="none"),
    "adversarial_label": AdversarialLabel(retain="none"),
    "grad_diff": GradAscent(retain="ce"),
    "kl": GradAscent(retain="kl"),
}
Rows = Sequence[Row | Mapping[str, Any] | tuple[str, str]] | str | Path


def random_answers(
    rows: Encoded,
    vocab_size: int,
    *,
    special_ids: Collection[int] = (),
    copies: int = 3,
    replaced: Literal["half", "all"] = "half",
    seed: int = 0,
) -> Encoded:
    """Each row `copies` times, with random tokens in its answer; prompts and special tokens stay.

    Args:
        special_ids: tokens that are neither replaced nor drawn.
        replaced: "half", as in the authors' code: half as many draws as the answer has tokens, at least one, each
            replaces a position drawn anew, so that some are hit twice; "all" replaces every token.

    Raises:
        ValueError: if there is no token to draw, or `copies` is not positive.

    >>> random_answers(Encoded([[1, 5, 6, 2]], [2]), 8, special_ids=[0, 1, 2, 3], copies=2, replaced="all").input_ids
    [[1, 5, 7, 2], [1, 5, 7, 2]]
    """
    special = set(special_ids)
    words = [token for token in range(vocab_size) if token not in special]
    if copies < 1 or not words:
        raise ValueError(f"need a positive number of copies and a token to draw, got {copies} and {len(words)} tokens")
    draws = random.Random(seed)
    made, lengths = [], []
    for ids, length in zip(rows.input_ids, rows.prompt_lengths, strict=True):
        places = [place for place in range(length, len(ids)) if ids[place] not in special]
        for _ in range(copies):
            copy = list(ids)
            hit = draws.choices(places, k=max(1, len(places) // 2)) if replaced == "half" and places else places
            for place in hit:
                copy[place] = draws.choice(words)
            made.append(copy)
            lengths.append(length)
    return Encoded(made, lengths)


def region(
    unlearn: Mapping[str, Float[Tensor, "..."]],
    retain: Mapping[str, Float[Tensor, "..."]],
    sim: float = 0.92,
    grad: float | None = 6e-4,
) -> list[str]:
    """The names of the tensors whose two gradients have a cosine below `sim`, and whose mean absolute gradient on the
    rows to forget is above `grad` (None: above its median over all tensors). A gradient of 0 has the cosine 0.

    Raises:
        UserError: if there is none.

    >>> u = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0]), "c": torch.tensor([1e-5, 0.0])}
    >>> r = {"a": torch.tensor([1.0, 0.1]), "b": torch.tensor([0.0, 1.0]), "c": torch.tensor([0.0, 1.0])}
    >>> region(u, r)
    ['b']
    """
    cosine = {name: F.cosine_similarity(g.flatten(), retain[name].flatten(), 0).item() for name, g in unlearn.items()}
    size = {name: g.abs().mean().item() for name, g in unlearn.items()}
    least = median(size.values()) if grad is None else grad
    found = [name for name in unlearn if cosine[name] < sim and size[name] > least]
    if not found:
        raise UserError(
            f"none of {len(unlearn)} tensors has a cosine below sim={sim} (lowest {min(cosine.values()):.3g}) and a"
            f" gradient above grad={least:.3g} (highest {max(size.values()):.3g}): raise sim or lower grad"
        )
    return found


def memflex_locate(
    model: nn.Module,
    unlearn: Encoded,
    retain: Encoded,
    sim: float = 0.92,
    grad: float | None = 6e-4,
    copies: int = 3,
    *,
    pad_id: int,
    special_ids: Collection[int] = (),
    replaced: Literal["half", "all"] = "half",
    names: str = "",
    seed: int = 0,
) -> list[str]:
    """The tensors in which the rows can be forgotten at little cost to those that stay: `region` of the mean gradients
    of CE over the rows with random answers.

    Args:
        model: its trainable parameters are looked at: of a `PeftModel`, the LoRA matrices.
        special_ids, replaced: see `random_answers`.
        names: a regular expression: only parameters whose name it finds.

    Raises:
        UserError: if no tensor qualifies.
    """
    vocab_size = model.get_input_embeddings().num_embeddings
    found = []
    for number, rows in enumerate((unlearn, retain)):
        options = {"special_ids": special_ids, "copies": copies, "replaced": replaced, "seed": 2 * seed + number}
        every = gradients(model, random_answers(rows, vocab_size, **options), pad_id=pad_id)
        found.append({name: g for name, g in every.items() if re.search(names, name)})
    if not found[0]:
        raise UserError(f"no trainable parameter's name has names={names!r} in it: give another, or '' for all")
    return region(*found, sim, grad)


@dataclass(frozen=True)
class MemFlex(Objective):
    """-w CE(unlearn) + v CE(retain), by steps on the located tensors only; all others stay, to the bit (under weight
    decay with `optimizer=palimpsest.forget.masks.sparing(...)`).

    Attributes:
        unlearn_weight: w.
        retain_weight: v.
        sim: the gradients' cosine in a tensor that may move is below it.
        grad: the mean absolute gradient on the rows to forget is above it; None takes the median over tensors.
        copies: how many random answers each row gets when tensors are located.
        replaced: how much of an answer is random: "half" of its tokens, or "all".
        names: a regular expression: only parameters whose name it finds may move.
        located: "memflex", or "random": as many tensors, drawn at random.
        seed: of the random answers and tensors.
    """

    unlearn_weight: Annotated[float, AtLeast(0)] = 0.4
    retain_weight: Annotated[float, AtLeast(0)] = 2.0
    sim: Annotated[float, AtLeast(-1), AtMost(1.1)] = 0.92
    grad: Annotated[float | None, AtLeast(0)] = 6e-4
    copies: Annotated[int, AtLeast(1)] = 3
    replaced: Literal["half", "all"] = "half"
    names: str = ""
    located: Literal["memflex", "random"] = "memflex"
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    @property
    def inner(self) -> GradAscent:
        """The objective that is minimised."""
        return GradAscent(forget_weight=self.unlearn_weight, retain="ce", retain_weight=self.retain_weight)

    def locate(self, model: nn.Module, data: ForgetData) -> list[str]:
        """The names of the tensors that may move, at the model's present weights."""
        options = {name: getattr(self, name) for name in ("sim", "grad", "copies", "replaced", "names", "seed")}
        options["special_ids"] = data.tokenizer.all_special_ids if data.tokenizer is not None else [data.pad_id]
        found = memflex_locate(model, data.forget, data.retain, **options, pad_id=data.pad_id)
        if self.located == "memflex":
            return found
        every = [name for name, p in model.named_parameters() if p.requires_grad and re.search(self.names, name)]
        return random.Random(self.seed).sample(every, len(found))

    def init(self, model: nn.Module, data: ForgetData) -> dict[str, Tensor]:
        return {name: torch.tensor(True) for name in self.locate(model, data)}

    def loss(self, state: dict[str, Tensor], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.inner.loss(None, model, batch)

    def gradients(self, state: dict[str, Tensor], model: nn.Module) -> None:
        apply_masks(model, state)


@dataclass(frozen=True)
class SetScores:
    """Of one set of rows.

    Attributes:
        accuracy: share of the answers' tokens (without the end) that are the model's first choice, mean over rows.
        perplexity: exp of the mean over rows of the negative log-likelihood a token; infinite where it overflows.
        rouge_l: ROUGE-L recall of the model's own answers; NaN where none were asked for.
        outputs: these answers.
    """

    accuracy: float
    perplexity: float
    rouge_l: float
    outputs: list[str]


@dataclass(frozen=True)
class KnowUnDoScores:
    """Attributes:
    unlearn_success: 1 - accuracy on the rows to forget.
    retention_success: accuracy on the rows to keep of the same subjects; NaN without them. What it lacks of the model's
        value before is over-unlearning.
    general: accuracy of each general task: of choosing the right answer, or, without wrong ones, of its tokens.
    sets: perplexity, ROUGE-L and the rest, for "unlearn" and "retention".
    """

    unlearn_success: float
    retention_success: float
    general: dict[str, float]
    sets: dict[str, SetScores]


def knowundo_score(
    model: nn.Module | str | Path,
    unlearn: Rows,
    retention: Rows | None = None,
    general: Mapping[str, Rows] | None = None,
    *,
    tokenizer: Any = None,
    split: Literal["train", "val"] = "val",
    generate: bool = True,
    batch_size: int = 64,
) -> KnowUnDoScores:
    """Scores any causal language model.

    Questions are asked in the model's own template (the authors' code writes two line ends in its place).

    Args:
        model: a model with its `tokenizer`, or the folder of both (or of an adapter).
        unlearn, retention: rows, (question, answer) pairs, or files, as published (see `read_knowundo`) or .jsonl.
        general: other tasks, name -> rows or file of JSON lines; with `perturbed_answer`, they are multiple choice.
        split: which of a published file's lists.
        generate: whether the model also answers in its own words, for ROUGE-L.

    Raises:
        UserError: for a bad folder, file or row.
    """
    if isinstance(model, str | Path):
        model, own = load(model)
        tokenizer = tokenizer or own
    if tokenizer is None:
        raise ValueError("knowundo_score needs the model's tokenizer, unless the model is given as a folder")
    sets = {"unlearn": unlearn, **({} if retention is None else {"retention": retention})}
    found = {name: _score(model, tokenizer, _rows(rows, split), generate, batch_size) for name, rows in sets.items()}
    return KnowUnDoScores(
        1 - found["unlearn"].accuracy,
        found["retention"].accuracy if "retention" in found else math.nan,
        {n: _general(model, tokenizer, _rows(rows, split), batch_size) for n, rows in (general or {}).items()},
        found,
    )


def accuracy(model: nn.Module, rows: Encoded, *, pad_id: int, end_id: int | None, batch_size: int = 64) -> float:
    """The mean over rows of the share of answer tokens, the end left out, that are the model's first choice."""
    return _mean(score(model, rows, batch_size=batch_size, pad_id=pad_id).argmax_hits, rows, end_id)


def _mean(values: Sequence[np.ndarray], rows: Encoded, end_id: int | None) -> float:
    """The mean over rows of the mean of a value for each answer token, the end left out."""
    bare = [row[: len(row) - (ids[-1] == end_id)] for row, ids in zip(values, rows.input_ids, strict=True)]
    return float(np.mean([row.mean(dtype=np.float64) for row in bare if len(row)]))


def _score(model: nn.Module, tokenizer: Any, rows: Sequence[Row], generate: bool, batch_size: int) -> SetScores:
    questions, answers = [row["question"] for row in rows], [row["answer"] for row in rows]
    pairs = [prompt_template(tokenizer).pair(*pair) for pair in zip(questions, answers, strict=True)]
    encoded = encode_pairs(tokenizer, pairs, max_length=context_length(model) or 10**9, truncate=True)
    found = score(model, encoded, batch_size=batch_size, pad_id=pad_token_id(tokenizer))
    nll = -_mean(found.token_logps, encoded, tokenizer.eos_token_id)
    outputs, rouge = [], math.nan
    if generate:
        outputs, expected = greedy_answers(model, tokenizer, questions, answers, batch_size=batch_size)
        rouge = float(np.mean([rouge_l_recall(*pair) for pair in zip(outputs, expected, strict=True)]))
    correct = _mean(found.argmax_hits, encoded, tokenizer.eos_token_id)
    return SetScores(correct, math.exp(nll) if nll < 700 else math.inf, rouge, outputs)


def _general(model: nn.Module, tokenizer: Any, rows: Sequence[Row], batch_size: int) -> float:
    if not all(row["perturbed_answer"] for row in rows):
        return _score(model, tokenizer, rows, False, batch_size).accuracy
    candidates = [[row["answer"], *row["perturbed_answer"]] for row in rows]
    nll, _ = score_candidates(model, tokenizer, [row["question"] for row in rows], candidates, batch_size=batch_size)
    return float(np.mean(nll[:, 0] < np.nanmin(nll[:, 1:], axis=1)))


def _rows(given: Rows, split: str) -> list[Row]:
    if isinstance(given, str | Path):
        return read_rows(given) if str(given).endswith(".jsonl") else read_knowundo(given, split)
    if not given:
        raise UserError("no rows to score: give at least one")
    return [_row(row, f"row {number}") for number, row in enumerate(given, start=1)]


def _row(row: Row | Mapping[str, Any] | tuple[str, str], where: str) -> Row:
    if isinstance(row, tuple):
        row = {"question": row[0], "answer": row[1]}
    if isinstance(row, Mapping) and row.get("question") == "":  # a plain text, normalised before
        return row
    if isinstance(row, Mapping) and {"text", "labels"} <= set(row):  # as published
        row = {"question": row["text"], "answer": row["labels"]}
    return normalise(row, where)
