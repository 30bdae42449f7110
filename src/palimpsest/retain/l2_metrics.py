"""Lifelong learning measured without a look at what is learned: from a log of blocks alone, and of experts' logs.

Source: Baker et al. (2023), A domain-agnostic approach for characterization of lifelong learning systems, arXiv
2301.07799. The values are those of the authors' package l2metrics where both define one.

A life is a sequence of blocks. A learning block has the performance at each experience of one task; an evaluation block
that of one task, once for every task between two learning blocks, the first time before anything was learned. An
*expert* is another life, in which one task alone was learned. With the mean of an evaluation block, and the mean of the
last tenth of a learning block, as what a block came to:

    performance maintenance   mean over evaluations of the value minus that of the first evaluation after the task was
                              last learned; 0 keeps, below 0 forgets
    forward transfer a -> b   (post - pre) / (post + pre), or post / pre, of b's evaluations about a learning block of
                              a, while b was not learned yet; backward transfer: where b was learned before
    relative performance      sum of the learning curve / sum of the expert's, over the shorter of both
    sample efficiency         (saturation / expert's) (expert's experiences to saturation / those to it)
    performance recovery      minus the Theil-Sen slope of the times to recover over repeats of the task
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, permutations
from statistics import fmean, median
from typing import Literal

import numpy as np

from palimpsest.retain.l2_metrics_blocks import Log
from palimpsest.retain.l2_metrics_experts import performance_recovery, relative_performance, sample_efficiency


def performance_maintenance(log: Log, task: str) -> float:
    """How far evaluations of a task lie above the first one after it was last learned, on average; nan where there is
    none but such.

    >>> from palimpsest.retain.l2_metrics_blocks import Block
    >>> life = [Block("learn", "a", [1.0]), Block("evaluate", "a", [9.0]), Block("evaluate", "a", [6.0])]
    >>> performance_maintenance(life, "a")
    -3.0
    """
    found, reference, learned = [], None, False
    for block in log:
        if block.task != task:
            continue
        if block.kind == "learn":
            learned = True
        elif learned:
            reference, learned = block.term, False
        elif reference is not None:
            found.append(block.term - reference)
    return fmean(found) if found else float("nan")


def transfer(
    log: Log, *, form: Literal["contrast", "ratio"] = "contrast"
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """What learning a task did to another: forward and backward, by (learned, evaluated). Of several such the first
    counts, as in the package; pairs that were never met, and those that would divide by 0, are left out.

    >>> from palimpsest.retain.l2_metrics_blocks import Block
    >>> a, b = Block("learn", "a", [1.0]), Block("learn", "b", [1.0])
    >>> looks = [Block("evaluate", "b", [value]) for value in (1.0, 3.0, 3.0)]
    >>> transfer([looks[0], a, looks[1], b, looks[2]])
    ({('a', 'b'): 0.5}, {})
    """
    forward, backward = {}, {}
    for one, other in permutations(dict.fromkeys(block.task for block in log), 2):
        first = next((n for n, block in enumerate(log) if (block.kind, block.task) == ("learn", other)), len(log))
        looks = [n for n, block in enumerate(log) if (block.kind, block.task) == ("evaluate", other)]
        for at in (n for n, block in enumerate(log) if (block.kind, block.task) == ("learn", one)):
            for before, after in pairwise(looks):
                pre, post = log[before].term, log[after].term
                below = pre if form == "ratio" else post + pre
                if before < at < after and below:
                    value = post / pre if form == "ratio" else (post - pre) / below
                    (forward if at < first else backward).setdefault((one, other), value)
    return forward, backward


def lifetime(
    log: Log,
    experts: Mapping[str, Sequence[Log]] | None = None,
    *,
    over: Callable[[Sequence[float]], float] | Literal["mean", "median"] = "mean",
    form: Literal["contrast", "ratio"] = "contrast",
) -> dict[str, float]:
    """All measures of a life, each the mean (or the median) over the tasks, or pairs of tasks, that have it; nan where
    none has. With several experts of a task a measure is taken against each, and the mean is its value.

    Args:
        log: the life, normalised if it shall be (`normalise`).
        experts: task -> lives in which it alone was learned.
        over: how tasks make one.
        form: of the transfers.
    """
    middle = {"mean": fmean, "median": median}.get(over, over) if isinstance(over, str) else over
    tasks = list(dict.fromkeys(block.task for block in log))

    def against(measure: Callable[[Log, Log, str], float]) -> list[float]:
        lives = {task: (experts or {}).get(task, ()) for task in tasks}
        return [_mean([measure(log, life, task) for life in lives[task]], fmean) for task in tasks]

    forward, backward = transfer(log, form=form)
    return {
        "performance maintenance": _mean([performance_maintenance(log, task) for task in tasks], middle),
        "forward transfer": _mean(list(forward.values()), middle),
        "backward transfer": _mean(list(backward.values()), middle),
        "relative performance": _mean(against(relative_performance), middle),
        "sample efficiency": _mean(against(sample_efficiency), middle),
        "performance recovery": _mean([performance_recovery(log, task) for task in tasks], middle),
    }


def _mean(values: Sequence[float], over: Callable[[Sequence[float]], float]) -> float:
    there = [value for value in values if not np.isnan(value)]
    return float(over(there)) if there else float("nan")
