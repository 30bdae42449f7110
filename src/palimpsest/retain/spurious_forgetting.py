"""Spurious forgetting: a new task undoes how a language model answers, not what it knows; and frozen lower layers.

Source: Zheng, Cai, Qiu and Ma (2025), Spurious forgetting in continual learning of language models, arXiv 2501.13453.

In the first updates on a new task the accuracy on an old one collapses. Yet training on half of the old task brings the
other half back, of which it says nothing: that was not lost, only the alignment to the task was. The first updates undo
it mostly in the lower layers and the embeddings, so that these are frozen from the second task on. Measures are in
`palimpsest.retain.spurious_forgetting_measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.metrics.text import exact_match
from palimpsest.models.blocks import blocks
from palimpsest.models.decode import greedy
from palimpsest.models.encoding import Encoded, encode, pad_token_id
from palimpsest.models.score import cross_entropy
from palimpsest.retain.continual import Continual, Present, State
from palimpsest.train.language import fine_tune
from palimpsest.train.loop import fit
from palimpsest.train.order import shuffled
from palimpsest.train.ranges import AtLeast

Pair = tuple[str, str]
LONGEST = 128


@dataclass(frozen=True)
class FreezeBottom(Continual):
    """Learns each task by its cross-entropy; from one task on the lowest layers stay as they are.

    Their gradients are taken away before the optimizer sees them, so that neither weight decay nor momentum moves them.
    It is also an objective for `apply`, which then freezes at once.

    Attributes:
        frozen: how many of the lowest blocks of a language model.
        embeddings: whether the input embeddings are frozen too; where the last layer is the same matrix, so is that.
        since: the first task that they are frozen in, from 0.
    """

    frozen: Annotated[int, AtLeast(0)] = 1
    embeddings: bool = True
    since: Annotated[int, AtLeast(0)] = 1

    def fits(self, model: nn.Module) -> None:
        if self.frozen > len(blocks(model)):
            raise UserError(f"frozen is {self.frozen}, and the model has {len(blocks(model))} blocks")

    def init(self, model: nn.Module, data: Any) -> State:
        return {"still": True}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {"still": data.number >= self.since}

    def gradients(self, state: State, model: nn.Module) -> None:
        if state["still"]:
            for p in bottom(model, self.frozen, self.embeddings).values():
                p.grad = None


def bottom(model: nn.Module, n: int, embeddings: bool = True) -> dict[str, nn.Parameter]:
    """The parameters of the n lowest blocks, and of the input embeddings, by name.

    >>> from palimpsest.models import causal_lm
    >>> list(bottom(causal_lm(10, d_model=16, n_layers=2, n_heads=2), 0))
    ['model.embed_tokens.weight']
    """
    chosen = [p for block in list(blocks(model))[:n] for p in block.parameters()]
    chosen += list(model.get_input_embeddings().parameters()) if embeddings else []
    wanted = {id(p) for p in chosen}
    return {name: p for name, p in model.named_parameters() if id(p) in wanted}


@contextmanager
def freeze_bottom(model: nn.Module, n: int, embeddings: bool = True) -> Iterator[list[str]]:
    """For the time of the block, the n lowest layers and the embeddings require no gradient, for anybody's loop: what
    an optimizer does not get, neither weight decay nor momentum moves. The authors' code sets gradients to zero, which
    both go on from.

    Yields:
        The names of the frozen parameters.
    """
    found = bottom(model, n, embeddings)
    before = {name: p.requires_grad for name, p in found.items()}
    try:
        for p in found.values():
            p.requires_grad_(False)
        yield list(found)
    finally:
        for name, p in found.items():
            p.requires_grad_(before[name])


def early_stop(on: str, level: float) -> Callable[[Mapping[str, float]], bool]:
    """When to stop a new task, for `fit(evaluate=..., stop=early_stop("new", 0.99))`: as soon as it is learned, since
    every further update undoes more.

    >>> early_stop("new", 0.9)({"new": 0.95, "old": 0.2})
    True
    """
    return lambda found: found[on] >= level


def answers_right(model: nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> float:
    """The share of questions whose answer is said first, word for word, by greedy decoding."""
    prompts, answers = zip(*pairs, strict=True)
    rows = tokenizer(list(answers), add_special_tokens=False).input_ids
    said = greedy(model, tokenizer, list(prompts), max_new_tokens=[len(row) for row in rows])
    return sum(exact_match(a, b) for a, b in zip(said, answers, strict=True)) / len(pairs)


@dataclass(frozen=True)
class Recovery:
    """How much of an old task came back.

    Attributes:
        before, after, recovered: accuracy on the old task's test questions: before the new task, after it, and once a
            copy has trained on others of the old task's questions.
    """

    before: float
    after: float
    recovered: float

    @property
    def spurious(self) -> float:
        """(recovered - after) / (before - after): 1 where nothing was lost, 0 where all that fell was; nan where
        nothing fell.

        >>> Recovery(before=0.75, after=0.25, recovered=0.5).spurious
        0.5
        """
        fell = self.before - self.after
        return (self.recovered - self.after) / fell if fell > 0 else float("nan")


def recovery_probe(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    old_half: Sequence[Pair],
    old_test: Sequence[Pair],
    before: float,
    *,
    epochs: float = 1.0,
    lr: float = 1e-3,
    batch_size: int = 16,
    seed: int = 0,
) -> Recovery:
    """Trains a copy on half of the old task and asks it the other half: what comes back was never lost, since nothing
    that it trains on says it.

    Args:
        old_half, old_test: (question, answer) as they are read, of different people.
        before: accuracy on `old_test` before the new task.

    Raises:
        ValueError: a question is in both.
    """
    if shared := {question for question, _ in old_half} & {question for question, _ in old_test}:
        raise ValueError(f"what is trained on says the answer: {min(shared)!r} is in both halves")
    copy, after = deepcopy(model), answers_right(model, tokenizer, old_test)
    rows, pad_id = encoded(tokenizer, old_half), pad_token_id(tokenizer)
    options = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "progress": False}
    fine_tune(copy, rows, pad_id=pad_id, **options)
    return Recovery(before, after, answers_right(copy, tokenizer, old_test))


def encoded(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> Encoded:
    """Questions and answers as rows."""
    prompts, answers = zip(*pairs, strict=True)
    return encode(tokenizer, prompts, answers, max_length=LONGEST, add_eos=False)


def curve(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    new: Sequence[Pair],
    old: Sequence[Pair],
    *,
    method: Any = cross_entropy,
    steps: int = 100,
    every: int = 5,
    batch_size: int = 16,
    seed: int = 0,
    **options: Any,
) -> dict[str, list[float]]:
    """Trains a model in place on the new task, and asks both tasks on the way: {"step", "old", "new"}, one value a
    look."""
    rows, pad_id = encoded(tokenizer, new), pad_token_id(tokenizer)
    order = shuffled(len(rows), batch_size, seed)
    found: dict[str, list[float]] = {"step": [], "old": [], "new": []}

    def look(model: nn.Module, step: int) -> dict[str, float]:
        asked = {"old": answers_right(model, tokenizer, old), "new": answers_right(model, tokenizer, new)}
        for name, value in {"step": step, **asked}.items():
            found[name].append(value)
        return asked

    options = {"evaluate": look, "evaluate_every": every, "progress": False, **options}
    fit(model, method, lambda step: rows.batch(order(step), pad_id), steps=steps, seed=seed, **options)
    return found
