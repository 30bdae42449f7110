"""Does rehearsal fall as a power, and does a new task come the more easily, the more there were before it?

Source: as in `palimpsest.retain.power_law_rehearsal`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr


def fit_power(lags: Sequence[float], counts: Sequence[float]) -> tuple[float, float]:
    """How often things come back, as c lag^-d: d and c, by least squares of logarithms.

    It is for a generated environment or for one's own log of when tasks came back; lags that never came are left out.

    Args:
        lags: above 0, two different ones at least with a count.
        counts: of each lag.

    >>> d, c = fit_power([1, 2, 4], [8.0, 4.0, 2.0])
    >>> round(d, 6), round(c, 6)
    (1.0, 8.0)
    """
    lags, counts = np.asarray(lags, dtype=float), np.asarray(counts, dtype=float)
    if lags.shape != counts.shape or (lags <= 0).any():
        raise ValueError(f"lags must be above 0 with a count each, got {lags.tolist()} and {counts.tolist()}")
    came = counts > 0
    if len(set(lags[came])) < 2:
        raise ValueError(f"a slope needs two different lags that came, got {lags[came].tolist()}")
    slope, height = np.polyfit(np.log(lags[came]), np.log(counts[came]), 1)
    return -float(slope), math.exp(height)


def steps_to_reach(steps: Sequence[int], accuracy: Sequence[float], share: float = 0.9) -> int:
    """The first step at which a share of the last accuracy is there.

    >>> steps_to_reach([0, 10, 20, 30], [0.1, 0.5, 0.76, 0.8])
    20
    """
    if len(steps) != len(accuracy) or not len(steps):
        raise ValueError(f"each look needs a step and an accuracy, got {len(steps)} and {len(accuracy)}")
    return next(step for step, value in zip(steps, accuracy, strict=True) if value >= share * accuracy[-1])


def forward_facilitation(
    curve: Sequence[Mapping[str, Any]], alone: Sequence[Sequence[Mapping[str, Any]]], share: float = 0.9
) -> tuple[list[float], float]:
    """How long each task takes in the stream, over how long it takes alone, and whether that falls with its number.

    Args:
        curve: `StreamLog.curve` of the stream.
        alone: that of each task learned by itself in a stream of one, looked at as often.
        share: of its final accuracy that a task has to reach.

    Returns:
        A ratio for each task, below 1 where what came before helps; and Spearman's correlation of ratio and number.

    >>> looks = [{"task": 0, "step": step, "accuracy": [value]} for step, value in ((0, 0.1), (10, 0.5), (20, 0.8))]
    >>> forward_facilitation(looks, [looks])[0]
    [1.0]
    """
    ratios = []
    for number, own in enumerate(alone):
        mine = [look for look in curve if look["task"] == number]
        taken = steps_to_reach([k["step"] for k in mine], [k["accuracy"][number] for k in mine], share)
        base = steps_to_reach([k["step"] for k in own], [k["accuracy"][0] for k in own], share)
        ratios.append(taken / base if base else (1.0 if not taken else math.inf))
    falls = float(spearmanr(range(len(ratios)), ratios).statistic) if len(set(ratios)) > 1 else 0.0
    return ratios, falls
