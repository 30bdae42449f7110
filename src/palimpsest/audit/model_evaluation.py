"""Compare models as a statistician would: pair everything, test the right thing, correct for the rest.

Raschka, "Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning", 2018, arXiv 1811.12808.

Scores of two models differ by luck: of the test items, of the training set, of the seed. The paper sorts out which
test answers for which luck, shows that a t test over resampled splits answers for none, and asks for repeated or
nested resampling where data is scarce. `choose_test` is its decision table, `compare` applies it to scores at hand:

- arms are paired by seed, and by test item where items are given: McNemar on the items of each seed, the paired t
  test over seeds;
- more than two arms meet an omnibus test (Friedman, Cochran's Q) before any pair, and pairs are corrected by Holm;
- every p stands beside an effect with its bootstrap interval, and "supported" needs five seeds;
- under 1,000 labelled items a single holdout is refused.

The tests are in `palimpsest.audit.significance`, the splits, the .632+ bootstrap and nested cross-validation in
`palimpsest.audit.resampling`; both are offered here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from palimpsest.audit import _ROOMS
from palimpsest.audit.paired_scores import Items, paired_tables
from palimpsest.audit.resampling import refuse_small_holdout
from palimpsest.audit.significance import Outcome, bootstrap_interval, cochran_q, friedman, holm, mcnemar, paired_t
from palimpsest.lazy import front_door

ENOUGH_SEEDS = 5


@dataclass(frozen=True)
class Pair:
    """Two arms compared.

    Attributes:
        arms: their names; the effect is the first minus the second.
        outcome: of the paired t test over seeds; of a test over items where there is one seed only.
        adjusted_p: after Holm over all pairs of the comparison.
        interval: percentile bootstrap of the effect, 95%.
        by_seed: McNemar on the items of each seed; empty where scores are not right-or-wrong items.
        supported: whether the arms differ: five seeds, omnibus and adjusted p below alpha, an interval without 0.
    """

    arms: tuple[str, str]
    outcome: Outcome
    adjusted_p: float
    interval: tuple[float, float]
    by_seed: dict[int, Outcome]
    supported: bool


@dataclass(frozen=True)
class Comparison:
    """All pairs of arms, the omnibus test before them (None for two arms), and the mean score of every arm and seed."""

    scores: dict[str, dict[int, float]]
    omnibus: Outcome | None
    pairs: tuple[Pair, ...]


def compare(
    arm_scores: Mapping[str, Mapping[int, float | Items]],
    *,
    n: int,
    splits: int | None = None,
    alpha: float = 0.05,
) -> Comparison:
    """Compare two arms or more, paired by seed and by test item.

    Args:
        arm_scores: arm -> seed -> its score, or its scores per test item (1 or 0 if right or wrong): a row in the same
            order for every arm, or a mapping item -> score.
        n: how many labelled items the task's data has (training and test); any number from 1,000 up for generated data.
        splits: how many different train/test splits are behind the scores; by default every seed drew its own.
        alpha: the level at which a difference is called supported.

    Raises:
        ValueError: if the arms lack each other's seeds or items, if nothing can be paired, or if one split of a data
            set under 1,000 items is all there is.

    >>> method = {100: 0.91, 101: 0.90, 102: 0.93, 103: 0.91, 104: 0.92}
    >>> baseline = {100: 0.85, 101: 0.86, 102: 0.86, 103: 0.84, 104: 0.87}
    >>> pair = compare({"method": method, "baseline": baseline}, n=60_000).pairs[0]
    >>> round(pair.outcome.effect, 3), pair.supported
    (0.058, True)
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    tables = paired_tables(arm_scores)
    arms, seeds = list(tables), list(next(iter(tables.values())))
    if (len(seeds) if splits is None else splits) < 2:
        refuse_small_holdout(n)
    by_seed = np.array([[tables[arm][seed].mean() for arm in arms] for seed in seeds])
    counted = all(np.isin(items, (0, 1)).all() and len(items) > 1 for arm in arms for items in tables[arm].values())
    if len(seeds) == 1 and len(tables[arms[0]][seeds[0]]) < 2:
        raise ValueError("one seed with one score an arm cannot be compared: give more seeds, or scores per test item")
    rows = by_seed if len(seeds) > 1 else np.stack([tables[arm][seeds[0]] for arm in arms], axis=1)
    over_items = len(seeds) == 1 and counted

    omnibus = None if len(arms) == 2 else cochran_q(rows) if over_items else friedman(rows)
    outcomes = {
        (i, j): (mcnemar if over_items else paired_t)(rows[:, i], rows[:, j])
        for i, j in combinations(range(len(arms)), 2)
    }
    adjusted = holm([outcome.p for outcome in outcomes.values()])
    pairs = []
    for ((i, j), outcome), p in zip(outcomes.items(), adjusted, strict=True):
        low, high = bootstrap_interval(rows[:, i] - rows[:, j])
        items = {seed: mcnemar(tables[arms[i]][seed], tables[arms[j]][seed]) for seed in seeds} if counted else {}
        passes = p < alpha and (omnibus is None or omnibus.p < alpha) and not low <= 0 <= high
        supported = bool(passes and len(seeds) >= ENOUGH_SEEDS)
        pairs.append(Pair((arms[i], arms[j]), outcome, float(p), (low, high), items, supported))
    scores = {arm: dict(zip(seeds, map(float, by_seed[:, k]), strict=True)) for k, arm in enumerate(arms)}
    return Comparison(scores, omnibus, tuple(pairs))


_MOVED = {
    "audit.choice_of_test": ("Choice", "choose_test"),
    "audit.resampling": _ROOMS["resampling"],
    "audit.significance": _ROOMS["significance"],
}
__getattr__, _, __all__ = front_door("palimpsest", _MOVED)  # what is offered here too
__all__ += ["Comparison", "Pair", "compare"]
