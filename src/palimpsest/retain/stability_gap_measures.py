"""Looks at all tasks of a stream from within any loop, for the measures of `palimpsest.retain.stability_gap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.models.forward import device_of, evaluating
from palimpsest.retain.buffers import Examples
from palimpsest.retain.continual import BLOCK, on, only_allowed, with_allowed
from palimpsest.tasks.streams import Stream
from palimpsest.train.classification import logits_of


class ContinualEvaluator:
    """Looks at all tasks of a stream while any loop trains, and leaves no trace in it: rows are drawn by a generator of
    its own, the model is asked in eval mode, without gradients, and has its modes back.

    Args:
        stream: whose test rows are asked.
        every: updates between two looks.
        subsample: rows of each task, the same at every look; None for all.
        seed: of the draw.
        answer: (model, batch) -> scores of the classes.

    Attributes:
        records: what was seen, as `gap_report` takes it.

    Raises:
        ValueError: `every` or `subsample` is below 1.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        every: int = 1,
        subsample: int | None = 200,
        seed: int = 0,
        answer: Callable[[nn.Module, Mapping[str, Any]], Tensor] = logits_of,
    ) -> None:
        if every < 1 or (subsample is not None and subsample < 1):
            raise ValueError(f"every and subsample must be at least 1, got {every} and {subsample}")
        generator = torch.Generator().manual_seed(seed)
        rows = [Examples.of(task.test, task=number) for number, task in enumerate(stream.tasks)]
        self.rows = [each.at(torch.randperm(len(each), generator=generator)[:subsample]) for each in rows]
        self.stream, self.every, self.answer = stream, every, answer
        self.records: list[dict[str, Any]] = []

    def __call__(self, model: nn.Module, task: int, step: int) -> None:
        """Look, after `step` updates of a task (before the first: 0), if it is time to."""
        if step % self.every:
            return
        allowed, device, accuracy = self.stream.allowed(task + 1), device_of(model), []
        with evaluating(model):
            for rows in self.rows:
                right = 0
                for batch in rows.split(BLOCK):
                    batch = on(with_allowed(batch, allowed), device)
                    answers = only_allowed(self.answer(model, batch), batch).argmax(1)
                    right += int((answers == batch["labels"]).sum())
                accuracy.append(right / len(rows))
        self.records.append({"task": task, "step": step, "accuracy": accuracy})
