"""How soon, and whether surely: the measures with which `palimpsest.retain.two_perspectives` compares its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def updates_to(records: Sequence[Mapping[str, Any]], share: float = 0.95) -> float:
    """After how many updates of the last task the mean accuracy on all tasks first was at least a share of the final
    one: the efficiency of the three questions.

    >>> looks = [(0, 0.5), (10, 0.7), (20, 0.9), (30, 0.8)]
    >>> updates_to([{"task": 1, "step": step, "accuracy": [found]} for step, found in looks])
    20

    Raises:
        ValueError: there are no looks, or `share` is not above 0 and at most 1.
    """
    if not records or not 0 < share <= 1:
        raise ValueError(f"looks are needed and a share in (0, 1], got {len(records)} and {share}")
    last = [each for each in records if each["task"] == records[-1]["task"]]
    means = [float(np.mean(each["accuracy"])) for each in last]
    return next(each["step"] for each, mean in zip(last, means, strict=True) if mean >= share * means[-1])


def paired_test(
    a: Float[Tensor, " seeds"], b: Float[Tensor, " seeds"], *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean difference a - b over seeds, and its bootstrapped 95% interval: (mean, low, high).

    Raises:
        ValueError: not the same seeds for both, or fewer than two.

    >>> paired_test(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.5, 2.5]))
    (0.5, 0.5, 0.5)
    """
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"a and b must be of the same two seeds or more, got {list(a.shape)} and {list(b.shape)}")
    differences = (a - b).double()
    taken = torch.randint(len(a), (draws, len(a)), generator=torch.Generator().manual_seed(seed))
    low, high = differences[taken].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(differences.mean()), low, high
