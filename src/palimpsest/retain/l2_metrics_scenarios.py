"""Lives for `palimpsest.retain.l2_metrics`: any continual method led through a scenario of tasks, and its log.

All tasks are evaluated before anything was learned and after every learning block. The performance is the accuracy on
test rows: in a learning block at every look, in an evaluation block once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from palimpsest.retain.l2_metrics_blocks import Block
from palimpsest.retain.sequence import StreamLog, learn_stream
from palimpsest.tasks.streams import Stream


def scenario(
    kind: Literal["alternating", "permuted", "condensed"], tasks: int, *, repeats: int = 2, seed: int = 0
) -> list[int]:
    """The order in which tasks are learned: each once ("condensed"), all in turn and again ("alternating"), or each
    time in another random order ("permuted").

    Raises:
        ValueError: an unknown kind, or no task or repeat.

    >>> scenario("condensed", 3), scenario("alternating", 2)
    ([0, 1, 2], [0, 1, 0, 1])
    """
    if kind not in ("alternating", "permuted", "condensed") or tasks < 1 or repeats < 1:
        raise ValueError(
            f"kind is alternating, permuted or condensed, of a task or more, got {kind}, {tasks}, {repeats}"
        )
    generator = torch.Generator().manual_seed(seed)
    if kind == "permuted":
        return [n for _ in range(repeats) for n in torch.randperm(tasks, generator=generator).tolist()]
    return list(range(tasks)) * (1 if kind == "condensed" else repeats)


def live(
    model: nn.Module, method: Any, stream: Stream, order: Sequence[int], *, every: int = 10, **training: Any
) -> list[Block]:
    """The log of a method that learns a stream's tasks in this order.

    Args:
        order: places in the stream; a task may come back.
        every: updates between two looks at what is learned.
        training: as for `learn_stream`: `steps` is of one learning block.
    """
    repeated = replace(stream, tasks=tuple(stream.tasks[place] for place in order))
    return log_of(learn_stream(model, method, repeated, every=every, **training).log, repeated)


def experts(
    model: Callable[[], nn.Module], method: Any, stream: Stream, **training: Any
) -> dict[str, list[list[Block]]]:
    """A life for each task of a stream, in which a fresh model learns it alone."""
    return {task.name: [live(model(), method, stream, [place], **training)] for place, task in enumerate(stream.tasks)}


def log_of(log: StreamLog, stream: Stream) -> list[Block]:
    """What a run wrote down, as blocks; tasks of one name are the same.

    Raises:
        ValueError: nothing was looked at while a task was learned.
    """
    names = [task.name for task in stream.tasks]
    place = {name: names.index(name) for name in names}
    found = [Block("evaluate", name, [float(log.untrained[at])]) for name, at in place.items()]
    for number, name in enumerate(names):
        curve = [look["accuracy"][number] for look in log.curve if look["task"] == number and look["step"]]
        if not curve:
            raise ValueError(f"nothing was looked at while {name!r} was learned: learn with every=10, say")
        found.append(Block("learn", name, curve))
        found += [Block("evaluate", each, [float(log.accuracy["test"][number, at])]) for each, at in place.items()]
    return found
