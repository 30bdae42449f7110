"""What a language model gained of new rows, and what it lost of those that it could answer.

gained = mean over the new tasks of (P after - P before) / (1 - P before)
lost   = 1 - P after / P before, of the old rows                    P: mean probability of the answers
merit  = gained - lost
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.benches.language_world import RowsInSequence, names, texts_of
from palimpsest.benches.streams_yours import matrix_points
from palimpsest.errors import NotFinite
from palimpsest.forget.evaluation import perplexity
from palimpsest.models.forward import config_of
from palimpsest.retain.sequence import Learner
from palimpsest.retain.tokens import probabilities
from palimpsest.tasks.streams import Stream

MERIT, GAINED, LOST, NEW, OLD = "gained - lost", "gained", "lost", "new P", "old P"
LOWEST = "old P, lowest"


def measures(world: RowsInSequence, model: nn.Module) -> dict[str, Any]:
    """On the test rows: what was gained, lost and how low the old rows sank on the way; and the perplexity of general
    text. With the curve of every task and the matrix of all."""
    matrix = _matrix(world, model, "test")
    found = {MERIT: _gained(matrix) - _lost(matrix), GAINED: _gained(matrix), LOST: _lost(matrix)}
    found |= {NEW: fmean(matrix[-1, 1:].tolist()), OLD: matrix[-1, 0].item()}
    curve = model.log.curve if isinstance(model, Learner) else []
    found[LOWEST] = min([found[OLD], *(look["accuracy"][0] for look in curve)])
    net = model.model if isinstance(model, Learner) else model
    for column, text in zip(text_columns(world.world.text), texts_of(world.world.text), strict=True):
        try:
            found[column] = perplexity(net, world.tokenizer, text)
        except NotFinite:
            found[column] = float(config_of(net).vocab_size)  # that of chance
    return {**found, **_curves(world, matrix, curve), **matrix_points(matrix)}


def validate(world: RowsInSequence, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """What was gained less what was lost, on the validation rows."""
    matrix = _matrix(world, model, "validation")
    return _gained(matrix) - _lost(matrix)


def text_columns(paths: Sequence[str]) -> list[str]:
    """What the perplexity of each text is called."""
    return [f"{name} perplexity" for name in (names(paths) if len(paths) > 1 else ["text"])]


def _gained(matrix: Tensor) -> float:
    before, after = matrix[0, 1:], matrix[-1, 1:]
    return float(((after - before) / (1 - before).clamp(min=1e-6)).mean())


def _lost(matrix: Tensor) -> float:
    return float(1 - matrix[-1, 0] / matrix[0, 0].clamp(min=1e-12))


def _matrix(world: RowsInSequence, model: nn.Module, part: str) -> Tensor:
    """The probability of each task's answers, before and after each task was learned [tasks, tasks]."""
    if isinstance(model, Learner):
        return model.log.accuracy[part].nan_to_num(0.0)  # nothing is learned of the first task: its row is from before
    # Training diverged: the model as it was then, for every moment.
    before, now = (asked(each, world.data, part) for each in (world.model("base"), model))
    return torch.stack([before, *[now] * (len(world.data) - 1)])


def asked(model: nn.Module, stream: Stream, part: str) -> Tensor:
    """The probability of each task's answers; 0 of what training broke."""
    found = [probabilities(model, getattr(task, part).columns).mean() for task in stream.tasks]
    return torch.stack(found).nan_to_num(0.0)


def _curves(world: RowsInSequence, matrix: Tensor, looks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The probability of each task's answers while tasks were learned: (update, P)."""
    tasks = names(world.world.new)
    updates = max((look["step"] for look in looks), default=0)
    found: dict[str, dict[int, float]] = {name: {0: matrix[0, i].item()} for i, name in enumerate(["old", *tasks])}
    for i, points in enumerate(found.values()):
        for look in looks:
            points[(look["task"] - 1) * updates + look["step"]] = look["accuracy"][i]
        for task in range(1, len(matrix)) if updates else ():
            points[task * updates] = matrix[task, i].item()  # with what a method does when a task has ended
    return {f"P of {name}": sorted(points.items()) for name, points in found.items()}
