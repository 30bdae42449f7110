"""How well a task was learned beside a single-task expert, and how soon it recovers: the measures of
`palimpsest.retain.l2_metrics` that read learning curves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.stats import theilslopes

from palimpsest.retain.l2_metrics_blocks import Log, Values


def relative_performance(log: Log, expert: Log, task: str) -> float:
    """The area under the learning curve, in that of a single-task expert's, over the shorter of both; nan where the
    task was not learned."""
    ours, theirs = learning_curve(log, task), learning_curve(expert, task)
    n = min(len(ours), len(theirs))
    return float(ours[:n].sum() / theirs[:n].sum()) if n else float("nan")


def sample_efficiency(log: Log, expert: Log, task: str) -> float:
    """How high and how soon a task saturates, both in those of a single-task expert: nan where either is highest at its
    first experience; 0 where it comes to less than a fifth of the expert's, or its fitted line falls, along all the
    experiences of the life, those of other blocks between them."""
    ours, theirs = learning_curve(log, task), learning_curve(expert, task)
    if not len(ours) or not len(theirs):
        return float("nan")
    (high, soon), (high_expert, soon_expert) = saturation(ours), saturation(theirs)
    if soon == 0 or soon_expert == 0:
        return float("nan")
    if high < 0.2 * high_expert or np.polyfit(_when(log, task), ours, 1)[0] < 0:
        return 0.0
    return high / high_expert * soon_expert / soon


def recovery_times(log: Log, task: str) -> list[int]:
    """For each learning block of a task but the first: the first experience at which it is where the block before had
    come to, or one more than there are."""
    blocks = [block for block in log if (block.kind, block.task) == ("learn", task)]
    found = []
    for before, block in pairwise(blocks):
        back = np.flatnonzero(block.values >= before.term)
        found.append(int(back[0]) if len(back) else len(block.values) + 1)
    return found


def performance_recovery(log: Log, task: str) -> float:
    """Minus the Theil-Sen slope of the recovery times: above 0 it recovers faster from time to time; nan for fewer than
    two."""
    times = recovery_times(log, task)
    return -float(theilslopes(times)[0]) if len(times) > 1 else float("nan")


def learning_curve(log: Log, task: str) -> Values:
    """The values of all learning blocks of a task, one after the other."""
    return np.concatenate([np.empty(0), *(b.values for b in log if (b.kind, b.task) == ("learn", task))])


def smooth(values: Values, window: int | None = None) -> Values:
    """The moving average over min(n / 5, 100) values or `window`, mirrored at both ends; below 3 as it is.

    >>> smooth(np.arange(4.0), window=3).tolist()
    [1.0, 0.666..., 1.0, 2.0]
    """
    if window is None or len(values) < window:
        window = min(int(0.2 * len(values)), 100)
    if window < 3:
        return values
    mirrored = np.r_[values[window - 1 : 0 : -1], values, values[-2 : -window - 1 : -1]]
    means = np.convolve(np.full(window, 1 / window), mirrored, mode="valid")
    return means[int(np.floor(window / 2 - 1)) : -int(np.ceil(window / 2))]


def saturation(values: Values) -> tuple[float, int]:
    """The greatest value of the smoothed curve, and the first experience at which it is there."""
    smoothed = smooth(values)
    return float(smoothed.max()), int(smoothed.argmax())


def _when(log: Log, task: str) -> Values:
    """The place in the life of each experience in a learning block of a task."""
    ends = np.cumsum([len(block.values) for block in log])
    blocks = zip(log, ends, strict=True)
    own = [end - len(b.values) + np.arange(len(b.values)) for b, end in blocks if (b.kind, b.task) == ("learn", task)]
    return np.concatenate(own).astype(float)
