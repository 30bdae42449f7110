"""What of an old task comes back, and where two trainings move a model: angles, and the loss over the plane of both.

Source: Zheng, Cai, Qiu and Ma (2025), Spurious forgetting in continual learning of language models, arXiv 2501.13453.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.metrics.text import exact_match
from palimpsest.models.decode import greedy
from palimpsest.models.encoding import Encoded, encode, pad_token_id
from palimpsest.models.score import cross_entropy
from palimpsest.train.language import fine_tune
from palimpsest.train.loop import fit
from palimpsest.train.order import shuffled

Pair = tuple[str, str]
LONGEST = 128  # tokens of a question and its answer

Weights = Mapping[str, Tensor]


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


@dataclass(frozen=True)
class Angle:
    """How the second of two updates of a weight lies to the first.

    Attributes:
        cosine: between the two; below 0 where the second undoes the first. nan where one is 0.
        inside: the share of the second's squared size within the first's leading column space; nan for what is no
            matrix.
    """

    cosine: float
    inside: float


def update_angle(first: Weights, second: Weights, third: Weights, name: str, rank: int = 8) -> Angle:
    """Of theta_1 - theta_0 and theta_2 - theta_1, the updates of a weight by two tasks.

    Args:
        first, second, third: the weights before the first task, after it, and after the second.
        rank: how many of the first update's left singular vectors.

    >>> zero, one = {"w": torch.zeros(4, 4)}, {"w": torch.eye(4)}
    >>> update_angle(zero, one, zero, "w")
    Angle(cosine=-1.0, inside=1.0)
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    a, b = (second[name] - first[name]).double(), (third[name] - second[name]).double()
    sizes = a.norm() * b.norm()
    cosine = float((a * b).sum() / sizes) if sizes > 0 else float("nan")
    if a.ndim != 2 or not sizes > 0:
        return Angle(cosine, float("nan"))
    left, singular, _ = torch.linalg.svd(a, full_matrices=False)
    left = left[:, :rank][:, singular[:rank] > singular[0] * 1e-9]
    return Angle(cosine, float((left.T @ b).square().sum() / b.square().sum()))


def loss_plane(
    model: nn.Module,
    directions: tuple[Weights, Weights],
    loss: Callable[[nn.Module], float],
    at: Sequence[float] = (0.0, 0.5, 1.0),
) -> Float[Tensor, "first second"]:
    """A loss at theta_0 + s d_1 + t d_2, for all s and t in `at`; theta_0 are the model's weights, which are as they
    were afterwards.

    Args:
        directions: name -> an update of that weight; weights without one stay.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(line.weight)
    >>> step = {"weight": torch.ones(1, 1)}
    >>> loss_plane(line, (step, step), lambda model: model.weight.item(), (0.0, 1.0)).tolist()
    [[0.0, 1.0], [1.0, 2.0]]
    """
    values = {name: p for name, p in model.named_parameters() if name in directions[0] or name in directions[1]}
    kept = {name: p.data for name, p in values.items()}
    found = torch.zeros(len(at), len(at), dtype=torch.float64)
    try:
        for i, s in enumerate(at):
            for j, t in enumerate(at):
                for name, p in values.items():
                    moved = [x * d[name].to(p) for x, d in zip((s, t), directions, strict=True) if name in d]
                    p.data = kept[name] + sum(moved)
                found[i, j] = loss(model)
    finally:
        for name, p in values.items():
            p.data = kept[name]
    return found
