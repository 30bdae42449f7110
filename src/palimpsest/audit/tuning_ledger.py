"""The same number of tuning trials for every arm, on seeds that the verdict never sees (Gencoglu et al. 2019, arXiv
1904.07633)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from palimpsest.audit.hark import TUNING_SEEDS
from palimpsest.audit.ledger import canonical_json


class UnequalTuning(ValueError):
    """Arms were tuned with different budgets."""


@dataclass(frozen=True)
class Trial:
    """One tuning run of one arm."""

    arm: str
    settings: Mapping[str, Any]
    seed: int
    score: float


class TuningLedger:
    """Counts tuning trials, and gives nobody's best settings away before every arm has had the same number.

    >>> ledger = TuningLedger(["baseline", "method"])
    >>> ledger.record("method", {"lr": 0.1}, seed=0, score=0.8)
    >>> ledger.best("method")
    Traceback (most recent call last):
    palimpsest.audit.tuning_ledger.UnequalTuning: tuning trials differ: baseline 0, method 1
    >>> ledger.record("baseline", {"lr": 0.1}, seed=0, score=0.7)
    >>> ledger.best("method")
    {'lr': 0.1}
    """

    def __init__(self, arms: Iterable[str]) -> None:
        self.trials: dict[str, list[Trial]] = {arm: [] for arm in arms}
        if len(self.trials) < 2:
            raise ValueError(f"tuning is compared between two arms or more, got {list(self.trials)}")

    def record(self, arm: str, settings: Mapping[str, Any], *, seed: int, score: float) -> None:
        """Count one trial. Raises ValueError for an unknown arm, a verdict's seed or a score that is not finite."""
        if arm not in self.trials:
            raise ValueError(f"no arm {arm!r}: the ledger has {', '.join(self.trials)}")
        if seed not in TUNING_SEEDS:
            raise ValueError(f"tuning uses seeds 0-99, got {seed}: the others are kept for the verdict")
        if not math.isfinite(score):
            raise ValueError(f"a trial's score must be finite, got {score}: report the worst value instead")
        self.trials[arm].append(Trial(arm, dict(settings), seed, float(score)))

    def check(self) -> None:
        """Raise UnequalTuning unless all arms have had the same number of trials."""
        counts = {arm: len(trials) for arm, trials in self.trials.items()}
        if len(set(counts.values())) > 1:
            raise UnequalTuning("tuning trials differ: " + ", ".join(f"{arm} {n}" for arm, n in counts.items()))

    def best(self, arm: str, *, highest: bool = True) -> dict[str, Any]:
        """The settings with the best mean score over their seeds; the first tried wins a tie."""
        self.check()
        scores: dict[str, list[float]] = {}
        named: dict[str, Mapping[str, Any]] = {}
        for trial in self.trials[arm]:
            key = canonical_json(trial.settings)
            named.setdefault(key, trial.settings)
            scores.setdefault(key, []).append(trial.score)
        if not scores:
            raise ValueError(f"no trials of {arm!r} yet")
        sign = 1 if highest else -1
        return dict(named[max(scores, key=lambda key: sign * float(np.mean(scores[key])))])
