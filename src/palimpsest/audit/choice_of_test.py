"""Which test fits a comparison: the decision table of Raschka (2018, arXiv 1811.12808)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from palimpsest.audit.model_evaluation import ENOUGH_SEEDS
from palimpsest.audit.resampling import SMALL


@dataclass(frozen=True)
class Choice:
    """The functions to call, in order, and why."""

    test: str
    why: str


def choose_test(n: int, arms: int, seeds: int, cost: Literal["cheap", "dear"] = "cheap") -> Choice:
    """Which test fits? The paper's recommendations, with our seeds.

    Args:
        n: labelled items of the data set.
        arms: models or algorithms to compare.
        seeds: how often each arm is trained on its own fresh split or fresh data (1: trained once).
        cost: "cheap" if ten trainings an arm can be afforded, "dear" if not.

    >>> choose_test(300, arms=2, seeds=1).test
    'f_5x2'
    >>> choose_test(60_000, arms=2, seeds=1, cost="dear").test
    'mcnemar'
    """
    if n < 4:
        raise ValueError(f"nothing can be tested on {n} items: n must be 4 or more")
    if arms < 2:
        raise ValueError(f"a comparison needs two arms or more, got {arms}")
    if seeds < 1:
        raise ValueError(f"seeds must be 1 or more, got {seeds}")
    if cost not in ("cheap", "dear"):
        raise ValueError(f"cost is 'cheap' or 'dear', got {cost!r}")
    several = arms > 2
    if n < SMALL and cost == "cheap":
        why = f"{n} items are too few for one holdout, and ten trainings an arm pay for five two-fold cross-validations"
        return _then("friedman", "f_5x2", several, why)
    if n < SMALL:
        why = f"{n} items are too few for one holdout: test the paired answers of one cross-validation (out_of_fold)"
        return _then("cochran_q", "mcnemar", several, why)
    if seeds >= ENOUGH_SEEDS:
        return _then("friedman", "paired_t", several, f"{seeds} seeds answer for the luck of training and of the split")
    if cost == "cheap":
        return _then(
            "friedman", "f_5x2", several, f"{seeds} seeds are too few for a test over seeds; ten trainings are not"
        )
    why = "trained once or a few times: only the luck of the test items can be tested, on one large test set"
    return _then("cochran_q", "mcnemar", several, why)


def _then(omnibus: str, pairwise: str, several: bool, why: str) -> Choice:
    if not several:
        return Choice(pairwise, why)
    return Choice(
        f"{omnibus}, then {pairwise} for each pair with holm", f"{why}; more than two arms: an omnibus test first"
    )
