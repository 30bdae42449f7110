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
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.audit.resampling import (
    SMALL,
    BootstrapError,
    NestedScores,
    bootstrap_error,
    cross_scores,
    five_by_two,
    folds,
    holdout,
    leave_one_out,
    nested_cv,
    no_information_rate,
    out_of_fold,
    point632,
    point632_plus,
    random_splits,
    refuse_small_holdout,
)
from palimpsest.audit.significance import (
    InflatedTestWarning,
    Outcome,
    benjamini_hochberg,
    bonferroni,
    bootstrap_interval,
    cochran_q,
    f_5x2,
    friedman,
    holm,
    kfold_t,
    mcnemar,
    normal_interval,
    paired_t,
    paired_t_5x2,
    resampled_t,
    wilcoxon,
)

ENOUGH_SEEDS = 5

Items = ArrayLike | Mapping[object, float | int]


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
    tables = _tables(arm_scores)
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


def _tables(arm_scores: Mapping[str, Mapping[int, float | Items]]) -> dict[str, dict[int, np.ndarray]]:
    """arm -> seed -> one row of scores, in the first arm's order of seeds and items; refuses what does not pair."""
    if len(arm_scores) < 2:
        raise ValueError(f"a comparison needs two arms or more, got {len(arm_scores)}")
    first, reference = next(iter(arm_scores.items()))
    if not reference:
        raise ValueError(f"arm {first!r} has no seeds")
    tables: dict[str, dict[int, np.ndarray]] = {}
    for arm, by_seed in arm_scores.items():
        if set(by_seed) != set(reference):
            odd = sorted(set(by_seed) ^ set(reference))
            raise ValueError(f"arms are paired by seed, but {arm!r} and {first!r} do not share {odd}")
        tables[arm] = {seed: _row(arm, first, seed, by_seed[seed], reference[seed]) for seed in reference}
    return tables


def _row(arm: str, first: str, seed: int, scores: float | Items, reference: float | Items) -> np.ndarray:
    where = f"seed {seed}: {arm!r} and {first!r}"
    if isinstance(scores, Mapping) != isinstance(reference, Mapping):
        raise ValueError(f"{where} must both name their items, or neither")
    if isinstance(scores, Mapping) and isinstance(reference, Mapping):
        if set(scores) != set(reference):
            raise ValueError(f"{where} were not tested on the same items")
        scores = [scores[item] for item in reference]
        reference = list(reference.values())
    row = np.atleast_1d(np.asarray(scores, dtype=float))
    if row.ndim != 1 or not row.size or row.shape != np.atleast_1d(np.asarray(reference)).shape:
        raise ValueError(f"{where} must have one score, or a row of as many items, got shape {np.shape(scores)}")
    if not np.isfinite(row).all():
        raise ValueError(f"seed {seed}: {arm!r} has the score {row[~np.isfinite(row)][0]}; scores must be finite")
    return row


__all__ = [
    "BootstrapError",
    "Choice",
    "Comparison",
    "InflatedTestWarning",
    "NestedScores",
    "Outcome",
    "Pair",
    "benjamini_hochberg",
    "bonferroni",
    "bootstrap_error",
    "bootstrap_interval",
    "choose_test",
    "cochran_q",
    "compare",
    "cross_scores",
    "f_5x2",
    "five_by_two",
    "folds",
    "friedman",
    "holdout",
    "holm",
    "kfold_t",
    "leave_one_out",
    "mcnemar",
    "nested_cv",
    "no_information_rate",
    "normal_interval",
    "out_of_fold",
    "paired_t",
    "paired_t_5x2",
    "point632",
    "point632_plus",
    "random_splits",
    "resampled_t",
    "wilcoxon",
]
