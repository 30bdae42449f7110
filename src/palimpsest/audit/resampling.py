"""How good is a model on data too small to be split once? Splits, cross-validation and the bootstrap, done honestly.

Splits keep the classes' shares and never part a group (a subject, an author). Estimators are cloned and fitted inside
each training part, so put the preprocessing into the estimator (`sklearn.pipeline.make_pipeline`). Selection happens
in an inner loop (`nested_cv`); one holdout of a small data set is refused (`holdout`).

The bootstrap is Efron & Tibshirani's, "Improvements on Cross-Validation: The .632+ Bootstrap Method" (1997), written
out here because mlxtend 0.25's `bootstrap_point632_score` departs from it: it takes each bootstrap model's error on
ALL items as the training error, although 36.8% of them are out of bag (a nearest neighbour's training error is then
not 0), leaves the overfitting rate R unclipped, and forms the weight anew in each round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlxtend.evaluate import BootstrapOutOfBag
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import (
    GridSearchCV,
    GroupShuffleSplit,
    LeaveOneGroupOut,
    LeaveOneOut,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)
from sklearn.utils.multiclass import type_of_target

Splits = list[tuple[np.ndarray, np.ndarray]]
SMALL = 1000  # labelled items under which one holdout says too little


def folds(y: ArrayLike, k: int, *, repeats: int = 1, groups: ArrayLike | None = None, seed: int = 0) -> Splits:
    """k-fold cross-validation, shuffled and repeated: `repeats * k` pairs (training indices, test indices).

    Args:
        y: labels, shape [items]; classes are stratified, a continuous target is not.
        k: number of folds.
        repeats: how many times to start over.
        groups: one label an item; no group is on both sides of a split.
        seed: of the shuffles.

    >>> labels = [0, 0, 1, 1]
    >>> [[labels[item] for item in test] for _, test in folds(labels, 2)]
    [[0, 1], [0, 1]]
    """
    y, groups = _labels(y, groups)
    limit = len(y) if groups is None else len(np.unique(groups))
    if not 2 <= k <= limit:
        raise ValueError(f"k must lie between 2 and {limit} (items or groups), got {k}")
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more, got {repeats}")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitters = (kind(k, shuffle=True, random_state=state) for state in _states(seed, repeats))
    return [split for splitter in splitters for split in splitter.split(y, _strata(y), groups)]


def five_by_two(y: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Splits:
    """The ten splits of five two-fold cross-validations, in the order that `paired_t_5x2` and `f_5x2` read."""
    return folds(y, 2, repeats=5, groups=groups, seed=seed)


def leave_one_out(y: ArrayLike, *, groups: ArrayLike | None = None) -> Splits:
    """One split an item, or a group: nearly unbiased, as dear as there are items, and of high variance."""
    y, groups = _labels(y, groups)
    return list(LeaveOneOut().split(y) if groups is None else LeaveOneGroupOut().split(y, y, groups))


def random_splits(
    y: ArrayLike, rounds: int = 30, *, test_share: float = 0.3, groups: ArrayLike | None = None, seed: int = 0
) -> Splits:
    """Independent random splits, as `resampled_t` takes them; fine for a mean score, wrong for a test.

    Stratified; with groups, whole groups are drawn instead.
    """
    y, groups = _labels(y, groups)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share lies between 0 and 1, got {test_share}")
    kind = StratifiedShuffleSplit if groups is None else GroupShuffleSplit
    splitter = kind(rounds, test_size=test_share, random_state=_states(seed, 1)[0])
    return list(splitter.split(y, _strata(y), groups))


def holdout(
    y: ArrayLike, *, test_share: float = 0.3, groups: ArrayLike | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """One stratified or grouped split, refused under 1,000 items: its luck would exceed most real gains."""
    refuse_small_holdout(len(np.asarray(y)))
    return random_splits(y, 1, test_share=test_share, groups=groups, seed=seed)[0]


def refuse_small_holdout(n: int) -> None:
    """Raises ValueError if a data set of n labelled items is too small to be judged by a single holdout."""
    if n < SMALL:
        raise ValueError(
            f"{n} items are too few for a single holdout (under {SMALL:,}): use a 5x2cv F test (five_by_two, f_5x2), "
            "the .632+ bootstrap (bootstrap_error) or nested cross-validation (nested_cv)"
        )


def cross_scores(
    estimators: Mapping[str, Any], X: ArrayLike, y: ArrayLike, splits: Splits, scoring: Any = None
) -> dict[str, np.ndarray]:
    """Every arm fitted and scored on the SAME splits, so that the scores are paired.

    Args:
        estimators: arm -> scikit-learn estimator (a pipeline, if anything is to be learned from the data before it).
        X: features, [items, features].
        y: labels, [items].
        splits: from `folds`, `five_by_two`, `leave_one_out` or `random_splits`.
        scoring: a scikit-learn scorer or its name; the estimator's own score by default.

    Returns:
        arm -> one score a split.
    """
    X, y = _table(X, y)
    scores = {}
    for arm, estimator in estimators.items():
        score = check_scoring(estimator, scoring)
        scores[arm] = np.array(
            [score(clone(estimator).fit(X[train], y[train]), X[test], y[test]) for train, test in splits]
        )
    return scores


def out_of_fold(estimators: Mapping[str, Any], X: ArrayLike, y: ArrayLike, splits: Splits) -> dict[str, np.ndarray]:
    """Whether each arm is right on each item when that item is in the test part: the paired answers of `mcnemar`.

    Raises:
        ValueError: unless every item is in exactly one test part.
    """
    X, y = _table(X, y)
    if not (np.bincount(np.concatenate([test for _, test in splits]), minlength=len(y)) == 1).all():
        raise ValueError("out_of_fold needs splits that test every item exactly once: folds(..., repeats=1)")
    correct = {arm: np.zeros(len(y), dtype=bool) for arm in estimators}
    for arm, estimator in estimators.items():
        for train, test in splits:
            correct[arm][test] = clone(estimator).fit(X[train], y[train]).predict(X[test]) == y[test]
    return correct


@dataclass(frozen=True)
class NestedScores:
    """Outer scores, each of a model chosen without its test fold, and what was chosen."""

    scores: np.ndarray
    choices: tuple[dict[str, Any], ...]

    @property
    def mean(self) -> float:
        return float(self.scores.mean())


def nested_cv(
    estimator: Any,
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
    X: ArrayLike,
    y: ArrayLike,
    *,
    outer: int = 5,
    inner: int = 2,
    groups: ArrayLike | None = None,
    scoring: Any = None,
    seed: int = 0,
) -> NestedScores:
    """Selection in an inner loop, judgement in an outer one: what does "tune, then train" really score?

    In each outer training part a grid search with `inner` folds picks the configuration, which is refitted on the
    whole part and scored on the outer test fold. The best score of a search over the same folds that report it is, by
    contrast, the maximum of noisy numbers.

    Args:
        estimator: with parameters that `grid` names.
        grid: as for `sklearn.model_selection.GridSearchCV`.
        X: features, [items, features].
        y: labels, [items].
        outer: number of folds that judge.
        inner: number of folds that select.
        groups: never parted, neither outside nor inside.
        scoring: a scikit-learn scorer or its name, for both loops.
        seed: of both shuffles.
    """
    X, y = _table(X, y)
    groups = None if groups is None else np.asarray(groups)
    scores, choices = [], []
    for train, test in folds(y, outer, groups=groups, seed=seed):
        inside = folds(y[train], inner, groups=None if groups is None else groups[train], seed=seed + 1)
        search = GridSearchCV(estimator, grid, scoring=scoring, cv=inside).fit(X[train], y[train])
        scores.append(search.score(X[test], y[test]))
        choices.append(search.best_params_)
    return NestedScores(np.array(scores), tuple(choices))


def point632(train: float, out_of_bag: float) -> float:
    """Efron's .632 rule (1983): 0.368 err_train + 0.632 err_oob. Too hopeful where a model memorises its training data.

    >>> round(point632(0.0, 0.5), 3)
    0.316
    """
    _check_errors(train=train, out_of_bag=out_of_bag)
    return 0.368 * train + 0.632 * out_of_bag


def point632_plus(train: float, out_of_bag: float, no_information: float) -> float:
    """Efron & Tibshirani's .632+ rule (1997): the more a model overfits, the less its training error counts.

    R = (err_oob - err_train) / (g - err_train), the relative overfitting rate, clipped to [0, 1] (0 unless err_oob
    and g both exceed err_train), w = 0.632 / (1 - 0.368 R), and (1 - w) err_train + w err_oob. Where err_oob exceeds
    g, their equation 32 puts g in its place in the part that goes beyond the .632 rule; so does this.

    >>> round(point632_plus(0.0, 0.5, 0.5), 6)
    0.5
    """
    _check_errors(train=train, out_of_bag=out_of_bag, no_information=no_information)
    bounded = min(out_of_bag, no_information)
    overfitting = max(0.0, (bounded - train) / (no_information - train)) if no_information > train else 0.0
    weight = 0.632 / (1 - 0.368 * overfitting)
    return point632(train, out_of_bag) + (weight - 0.632) * (bounded - train)


def no_information_rate(y: ArrayLike, predictions: ArrayLike) -> float:
    """g = sum_k p_k (1 - q_k): the error if labels and predictions were independent, each with its own class shares.

    >>> no_information_rate([0, 0, 1, 1], [0, 0, 0, 1])
    0.5
    """
    y, predictions = np.asarray(y), np.asarray(predictions)
    if y.shape != predictions.shape or y.ndim != 1 or not len(y):
        raise ValueError(f"labels and predictions must pair, got shapes {y.shape} and {predictions.shape}")
    return float(sum((y == k).mean() * (1 - (predictions == k).mean()) for k in np.unique(y)))


@dataclass(frozen=True)
class BootstrapError:
    """Error rates of one classifier, from the same bootstrap rounds.

    Attributes:
        train: of the model fitted on all items, on those items.
        out_of_bag: each item judged by the models that never saw it, averaged over the items (leave-one-out bootstrap).
        no_information: g, from the predictions of the model fitted on all items.
        rounds: out-of-bag error of each round, shape [rounds].
    """

    train: float
    out_of_bag: float
    no_information: float
    rounds: np.ndarray

    @property
    def point632(self) -> float:
        """The .632 estimate."""
        return point632(self.train, self.out_of_bag)

    @property
    def point632_plus(self) -> float:
        """The .632+ estimate."""
        return point632_plus(self.train, self.out_of_bag, self.no_information)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile interval of the out-of-bag error over the rounds."""
        if not 0 < confidence < 1:
            raise ValueError(f"a confidence lies between 0 and 1, got {confidence}")
        low, high = np.quantile(self.rounds, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def bootstrap_error(
    estimator: Any, X: ArrayLike, y: ArrayLike, *, rounds: int = 200, groups: ArrayLike | None = None, seed: int = 0
) -> BootstrapError:
    """Fits a classifier on bootstrap samples of a small data set and judges it on what each sample left out.

    Args:
        estimator: a scikit-learn classifier or pipeline.
        X: features, [items, features].
        y: class labels, [items].
        rounds: bootstrap samples. Samples that leave nothing out or hold a single class are passed over.
        groups: one label an item; whole groups are drawn.
        seed: of the samples.

    Raises:
        ValueError: if the labels are no classes, or some item was in every sample (too few rounds).
    """
    X, y = _table(X, y)
    if type_of_target(y) not in ("binary", "multiclass"):
        raise ValueError(f"bootstrap_error judges classifiers, got a {type_of_target(y)} target")
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, got {rounds}")
    drawn = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    wrong = np.full((rounds, len(y)), np.nan)
    for row, (inside, outside) in zip(
        wrong, BootstrapOutOfBag(rounds, random_seed=seed).split(np.unique(drawn)), strict=True
    ):
        train = inside if groups is None else np.concatenate([np.flatnonzero(drawn == group) for group in inside])
        test = np.flatnonzero(np.isin(drawn, outside))
        if len(test) and len(np.unique(y[train])) > 1:
            row[test] = clone(estimator).fit(X[train], y[train]).predict(X[test]) != y[test]
    judged = ~np.isnan(wrong)
    if not judged.any(axis=0).all():
        item = int(np.flatnonzero(~judged.any(axis=0))[0])
        raise ValueError(f"item {item} was never out of bag in {rounds} rounds: raise rounds")
    predictions = clone(estimator).fit(X, y).predict(X)
    return BootstrapError(
        train=float((predictions != y).mean()),
        out_of_bag=float(np.nanmean(wrong, axis=0).mean()),
        no_information=no_information_rate(y, predictions),
        rounds=np.nanmean(wrong[judged.any(axis=1)], axis=1),
    )


def _check_errors(**errors: float) -> None:
    for name, error in errors.items():
        if not 0 <= error <= 1:
            raise ValueError(f"{name} is an error rate in [0, 1], got {error}")


def _states(seed: int, count: int) -> list[int]:
    """Independent random states: neighbouring seeds must not share the splits of a later repeat."""
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(count)]


def _strata(y: np.ndarray) -> np.ndarray:
    """What to stratify by: the classes, or one stratum for a continuous target."""
    return y if type_of_target(y) in ("binary", "multiclass") else np.zeros(len(y), dtype=int)


def _labels(y: ArrayLike, groups: ArrayLike | None) -> tuple[np.ndarray, np.ndarray | None]:
    y = np.asarray(y)
    if y.ndim != 1 or not len(y):
        raise ValueError(f"y must be one row of labels, got shape {y.shape}")
    if groups is not None and np.shape(groups) != y.shape:
        raise ValueError(f"groups must label every item: {np.shape(groups)} against {y.shape}")
    return y, None if groups is None else np.asarray(groups)


def _table(X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    X, y = np.asarray(X), np.asarray(y)
    if y.ndim != 1 or len(X) != len(y) or not len(y):
        raise ValueError(f"X and y must hold one row an item, got shapes {X.shape} and {y.shape}")
    return X, y
