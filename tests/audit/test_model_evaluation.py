from __future__ import annotations

import itertools
import math
import warnings
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mlxtend import evaluate
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import palimpsest.audit as audit
from palimpsest.audit import model_evaluation as me

ANSWERS = st.integers(1, 120).flatmap(lambda n: st.tuples(*2 * [st.lists(st.booleans(), min_size=n, max_size=n)]))
TENTHS = st.integers(0, 10).map(lambda k: k / 10)
EIGHTHS = st.integers(0, 8).map(lambda k: k / 8)  # exact in floating point: a variance is 0 or it is not
FIVE_BY_TWO = arrays(float, (5, 2), elements=EIGHTHS)


def answers(only_a: int, only_b: int, both: int = 10, neither: int = 5) -> tuple[list[int], list[int]]:
    a = [1] * only_a + [0] * only_b + [1] * both + [0] * neither
    b = [0] * only_a + [1] * only_b + [1] * both + [0] * neither
    return a, b


def blobs(n: int, *, gap: float = 1.0, seed: int = 0, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return rng.normal(size=(n, d)) + gap * y[:, None], y


class Spy(ClassifierMixin, BaseEstimator):
    """A classifier that keeps the first column of what it was fitted and asked on: row numbers, in these tests."""

    seen: list[tuple[set[int], set[int]]] = []  # noqa: RUF012

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.rows_ = {int(row) for row in X[:, 0]}
        return self

    def predict(self, X):
        Spy.seen.append((self.rows_, {int(row) for row in X[:, 0]}))
        return np.full(len(X), self.classes_[0])


@pytest.fixture
def spy():
    Spy.seen = []
    return Spy()


# --- tests on items ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (5, 0), (3, 9), (20, 29), (25, 25), (24, 25)])
def test_mcnemar_is_the_exact_binomial_test_under_50_disagreements(only_a, only_b):
    n = only_a + only_b
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(min(only_a, only_b) + 1))
    found = me.mcnemar(*answers(only_a, only_b))
    assert found.p == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)
    assert found.effect == pytest.approx((only_a - only_b) / (n + 15))


@pytest.mark.parametrize(("only_a", "only_b"), [(20, 30), (10, 40), (200, 260)])
def test_mcnemar_is_the_corrected_chi_squared_test_from_50_on(only_a, only_b):
    found = me.mcnemar(*answers(only_a, only_b))
    chi2 = (abs(only_a - only_b) - 1) ** 2 / (only_a + only_b)
    assert found.statistic == pytest.approx(chi2)
    # A chi-squared variable with one degree of freedom is a squared standard normal one.
    assert found.p == pytest.approx(math.erfc(math.sqrt(chi2 / 2)))


def test_mcnemar_without_disagreement_or_with_as_many_on_both_sides_finds_nothing():
    agree = me.mcnemar(*answers(0, 0))
    assert (agree.p, agree.effect) == (1.0, 0.0)
    assert "agree" in agree.note
    assert me.mcnemar(*answers(40, 40)).p == 1.0


@given(ANSWERS, st.randoms())
def test_mcnemar_swaps_arms_and_shuffles_items(pair, random):
    a, b = pair
    found, swapped = me.mcnemar(a, b), me.mcnemar(b, a)
    assert (swapped.p, swapped.statistic, swapped.effect) == (found.p, found.statistic, -found.effect)
    order = list(range(len(a)))
    random.shuffle(order)
    assert me.mcnemar([a[i] for i in order], [b[i] for i in order]) == found
    assert 0 <= found.p <= 1


@given(arrays(int, st.tuples(st.integers(1, 40), st.integers(2, 5)), elements=st.integers(0, 1)))
def test_cochran_q_is_the_textbook_formula_and_mlxtends(table):
    columns, rows, arms = table.sum(axis=0), table.sum(axis=1), table.shape[1]
    below = arms * rows.sum() - (rows**2).sum()
    found = me.cochran_q(table)
    if below == 0:
        assert (found.statistic, found.p) == (0, 1)
        return
    q = (arms - 1) * (arms * (columns**2).sum() - columns.sum() ** 2) / below
    assert found.statistic == pytest.approx(q)
    target = np.ones(len(table), dtype=int)
    q_mlxtend, p_mlxtend = evaluate.cochrans_q(target, *table.T)
    assert (found.statistic, found.p) == pytest.approx((q_mlxtend, p_mlxtend))
    assert found.effect == pytest.approx(table.mean(axis=0).max() - table.mean(axis=0).min())


def test_cochran_q_of_two_arms_is_mcnemar_without_correction():
    a, b = answers(30, 45)
    assert me.cochran_q(np.array([a, b]).T).statistic == pytest.approx((30 - 45) ** 2 / (30 + 45))


# --- tests on scores --------------------------------------------------------------------------------------------


@given(st.lists(st.permutations(range(4)), min_size=2, max_size=9))
def test_friedman_is_the_closed_form_on_ranks_and_blind_to_the_scale_of_a_seed(rankings):
    ranks = np.array(rankings) + 1
    n, k = ranks.shape
    expected = 12 / (n * k * (k + 1)) * (ranks.sum(axis=0) ** 2).sum() - 3 * n * (k + 1)
    assert me.friedman(ranks).statistic == pytest.approx(expected, abs=1e-9)
    rescaled = ranks * np.arange(1, n + 1)[:, None] + 100.0 * np.arange(n)[:, None]
    assert me.friedman(rescaled[::-1, [2, 0, 3, 1]]).p == pytest.approx(me.friedman(ranks).p)


def test_friedman_of_constant_scores_finds_nothing():
    assert me.friedman(np.full((5, 3), 0.7)).p == 1.0


@given(st.lists(st.tuples(TENTHS, TENTHS), min_size=2, max_size=12), st.randoms())
def test_paired_t_is_the_textbook_formula_and_blind_to_the_order_of_seeds(pairs, random):
    a, b = np.array(pairs).T
    difference = [round(10 * x) - round(10 * y) for x, y in pairs]
    n, mean = len(difference), sum(difference) / len(difference)
    variance = sum((d - mean) ** 2 for d in difference) / (n - 1)
    found = me.paired_t(a, b)
    if variance == 0:
        assert found.p == (1.0 if mean == 0 else 0.0)
        assert "no variance" in found.note
    else:
        assert found.statistic == pytest.approx(mean / math.sqrt(variance / n), abs=1e-9)
        assert found.p == pytest.approx(2 * stats.t.sf(abs(found.statistic), n - 1), abs=1e-9)
    swapped = me.paired_t(b, a)
    assert (swapped.p, swapped.statistic) == pytest.approx((found.p, -found.statistic))
    random.shuffle(pairs)
    assert me.paired_t(*np.array(pairs).T).p == pytest.approx(found.p, abs=1e-9)


def test_two_pairs_have_a_cauchy_p():
    assert me.paired_t([3.0, 1.0], [0.0, 0.0]).p == pytest.approx(1 - 2 / math.pi * math.atan(2.0))


@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=9, unique=True), st.data())
def test_wilcoxon_enumerates_all_signs(sizes, data):
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(sizes), max_size=len(sizes)))
    difference = np.array(sizes) * signs
    ranks = stats.rankdata(np.abs(difference))
    total = ranks.sum()
    observed = min(ranks[difference > 0].sum(), ranks[difference < 0].sum())
    flips = np.array(list(itertools.product([0, 1], repeat=len(sizes)))) @ ranks
    p = (np.minimum(flips, total - flips) <= observed).mean()
    found = me.wilcoxon(difference, np.zeros(len(sizes)))
    assert (found.statistic, found.p) == pytest.approx((observed, p))
    assert ("cannot" in found.note) == (len(sizes) < 6)


def test_wilcoxon_of_equal_arms_finds_nothing():
    assert me.wilcoxon([0.5, 0.6], [0.5, 0.6]).p == 1.0


def test_resampled_t_warns_and_kfold_t_notes():
    a, b = [0.8, 0.7, 0.9], [0.6, 0.6, 0.6]
    with pytest.warns(me.InflatedTestWarning, match="inflated"):
        resampled = me.resampled_t(a, b)
    assert resampled.p == me.kfold_t(a, b).p == me.paired_t(a, b).p
    assert "inflated" in resampled.note
    assert "overlap" in me.kfold_t(a, b).note


# --- 5x2cv ------------------------------------------------------------------------------------------------------


def naive_5x2(p: np.ndarray) -> tuple[float, float]:
    """Dietterich's equation for t and Alpaydin's for f, term by term."""
    variances = []
    for first, second in p:
        mean = (first + second) / 2
        variances.append((first - mean) ** 2 + (second - mean) ** 2)
    t = p[0][0] / math.sqrt(sum(variances) / 5)
    return t, sum(x**2 for pair in p for x in pair) / (2 * sum(variances))


@given(FIVE_BY_TWO, FIVE_BY_TWO)
def test_5x2_tests_are_the_papers_formulas_and_mlxtends(a, b):
    difference = a - b
    if (difference[:, 0] == difference[:, 1]).all():
        return
    t, f = naive_5x2(difference)
    assert me.paired_t_5x2(a, b).statistic == pytest.approx(t, abs=1e-9)
    assert me.f_5x2(a, b).statistic == pytest.approx(f)

    class Dummy:
        def fit(self, X, y):
            return self

    def replay(test):
        scores = iter(np.stack([a.ravel(), b.ravel()], axis=1).ravel())
        return test(Dummy(), Dummy(), np.zeros((4, 1)), np.zeros(4), scoring=lambda *_: next(scores))

    for ours, theirs in ((me.paired_t_5x2, evaluate.paired_ttest_5x2cv), (me.f_5x2, evaluate.combined_ftest_5x2cv)):
        assert (ours(a, b).statistic, ours(a, b).p) == pytest.approx(replay(theirs), abs=1e-9)
        assert ours(a.ravel(), b.ravel()) == ours(a, b)


@given(FIVE_BY_TWO, FIVE_BY_TWO, st.permutations(range(5)))
def test_f_5x2_is_blind_to_the_order_of_folds_and_arms(a, b, order):
    found = me.f_5x2(a, b)
    moved = me.f_5x2(b[list(order), ::-1], a[list(order), ::-1])
    assert (moved.statistic, moved.p, moved.effect) == pytest.approx((found.statistic, found.p, -found.effect))
    t, swapped = me.paired_t_5x2(a, b), me.paired_t_5x2(b, a)
    assert (swapped.statistic, swapped.p) == pytest.approx((-t.statistic, t.p))


def test_f_5x2_of_independent_differences_has_its_closed_form_level():
    """f = (1 + sum 2 mean_i^2 / sum s_i^2) / 2; if all ten are independent normals the fraction is F(5, 5)."""
    draws = np.random.default_rng(0).normal(size=(4000, 5, 2))
    p = np.array([me.f_5x2(draw, np.zeros((5, 2))).p for draw in draws])
    level = stats.f.sf(2 * stats.f.isf(0.05, 10, 5) - 1, 5, 5)
    assert (p < 0.05).mean() == pytest.approx(level, abs=4 * math.sqrt(level / 4000))


def test_5x2_without_variance():
    half, same = np.full((5, 2), 0.5), np.full((5, 2), 0.6)
    for test in (me.paired_t_5x2, me.f_5x2):
        assert test(half, half).p == 1.0
        found = test(same, half)
        assert (found.statistic, found.p) == (math.inf, 0.0)
        assert found.effect == pytest.approx(0.1)
        assert "no variance" in found.note
    assert me.paired_t_5x2(half, same).statistic == -math.inf
    # Replications that disagree, each without variance: the mean difference is 0, their squares are not.
    signs = half + 0.1 * np.array([[1], [-1], [1], [-1], [0]])
    assert me.f_5x2(signs, half).p == 0.0
    assert me.paired_t_5x2(signs[::-1], half).p == 1.0
    # 0.3 - 0.2 and 0.2 - 0.1 differ in the last bit: no evidence.
    assert me.f_5x2([[0.3, 0.2]] * 5, [[0.2, 0.1]] * 5).statistic == math.inf


# --- corrections and intervals ----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_are_the_textbook_procedures(p):
    m, order = len(p), np.argsort(p, kind="stable")
    stepped, bh = np.empty(m), np.empty(m)
    for rank, i in enumerate(order):
        stepped[i] = min(1.0, max((m - k) * p[order[k]] for k in range(rank + 1)))
        bh[i] = min(1.0, min(m / (k + 1) * p[order[k]] for k in range(rank, m)))
    assert me.holm(p) == pytest.approx(stepped)
    assert me.benjamini_hochberg(p) == pytest.approx(bh)
    assert me.bonferroni(p) == pytest.approx(np.minimum(1, m * np.array(p)))
    assert (me.benjamini_hochberg(p) <= me.holm(p) + 1e-12).all()
    assert (me.holm(p) <= me.bonferroni(p) + 1e-12).all()


def test_normal_interval_closed_form_and_ends():
    low, high = me.normal_interval(0.7, 50, 0.9)
    half = 1.6448536269514722 * math.sqrt(0.7 * 0.3 / 50)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half))
    assert me.normal_interval(1.0, 10) == (1.0, 1.0)
    assert me.normal_interval(0.99, 10)[1] == 1.0


def test_bootstrap_interval_is_the_percentile_interval_of_resampled_means():
    values = np.random.default_rng(3).normal(2.0, 1.0, size=40)
    rng = np.random.default_rng(4)
    means = [np.mean([values[rng.integers(40)] for _ in range(40)]) for _ in range(2000)]
    assert me.bootstrap_interval(values, rounds=4000) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.04)
    assert me.bootstrap_interval(values) == me.bootstrap_interval(values)
    wide, narrow = me.bootstrap_interval(values, 0.99), me.bootstrap_interval(values, 0.5)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


# --- bootstrap --------------------------------------------------------------------------------------------------


def test_no_information_rate_is_the_error_over_all_pairs():
    rng = np.random.default_rng(0)
    y, predictions = rng.integers(0, 3, 30), rng.integers(0, 4, 30)
    pairs = [target != prediction for target in y for prediction in predictions]
    assert me.no_information_rate(y, predictions) == pytest.approx(np.mean(pairs))


RATE = st.floats(0, 1).map(lambda x: round(x, 4))


@given(RATE, RATE, RATE)
def test_point632_plus_is_efron_and_tibshirani_equation_32(train, oob, gamma):
    # The paper's R' and Err(1)', with the two conditions written as the paper writes them.
    bounded = min(oob, gamma)
    r = (bounded - train) / (gamma - train) if oob > train and gamma > train else 0.0
    equation_32 = (0.368 * train + 0.632 * oob) + (bounded - train) * 0.368 * 0.632 * r / (1 - 0.368 * r)
    found = me.point632_plus(train, oob, gamma)
    assert found == pytest.approx(equation_32)
    if train < oob <= gamma:
        w = 0.632 / (1 - 0.368 * r)
        assert found == pytest.approx((1 - w) * train + w * oob)
        assert me.point632(train, oob) - 1e-12 <= found <= oob + 1e-12


def test_point632_plus_limits():
    assert me.point632_plus(0.0, 0.5, 0.5) == pytest.approx(0.5)  # fits noise: only the out-of-bag error counts
    assert me.point632_plus(0.2, 0.2, 0.5) == pytest.approx(0.2)  # does not overfit
    assert me.point632_plus(0.5, 0.6, 0.4) == pytest.approx(me.point632(0.5, 0.6))  # g under the training error


def test_bootstrap_error_equals_a_naive_bootstrap_and_mlxtends_out_of_bag_score():
    X, y = blobs(30)
    rounds, seed = 40, 7
    tree = DecisionTreeClassifier(random_state=0)
    mistakes, by_round = defaultdict(list), []
    rng = np.random.RandomState(seed)
    for _ in range(rounds):
        drawn = rng.choice(30, size=30, replace=True)
        model = DecisionTreeClassifier(random_state=0).fit(X[drawn], y[drawn])
        left_out = [i for i in range(30) if i not in set(drawn.tolist())]
        wrong = [int(model.predict(X[[i]])[0] != y[i]) for i in left_out]
        for i, error in zip(left_out, wrong, strict=True):
            mistakes[i].append(error)
        by_round.append(np.mean(wrong))
    found = me.bootstrap_error(tree, X, y, rounds=rounds, seed=seed)
    assert found.out_of_bag == pytest.approx(np.mean([np.mean(errors) for errors in mistakes.values()]))
    assert found.rounds == pytest.approx(np.array(by_round))
    theirs = evaluate.bootstrap_point632_score(tree, X, y, n_splits=rounds, method="oob", random_seed=seed)
    assert found.rounds == pytest.approx(1 - theirs)
    assert found.interval(0.9) == pytest.approx(tuple(np.quantile(by_round, [0.05, 0.95])))
    assert found.train == 0.0
    assert found.point632 == pytest.approx(0.632 * found.out_of_bag)
    assert found.point632_plus == pytest.approx(me.point632_plus(0.0, found.out_of_bag, 0.5))


def test_bootstrap_of_noise_with_a_nearest_neighbour():
    X, y = blobs(60, gap=0.0)
    found = me.bootstrap_error(KNeighborsClassifier(1), X, y, rounds=60)
    assert found.train == 0.0
    assert found.point632 < 0.38
    assert found.point632_plus > 0.45


def test_bootstrap_draws_whole_groups(spy):
    groups = np.repeat(np.arange(12), 5)
    y = np.tile([0, 1, 0, 1, 1], 12)
    X = np.arange(60.0)[:, None]
    me.bootstrap_error(spy, X, y, rounds=30, groups=[f"subject {g}" for g in groups])
    *resampled, _full = Spy.seen
    for inside, outside in resampled:
        inside_groups, outside_groups = ({groups[i] for i in rows} for rows in (inside, outside))
        assert not inside_groups & outside_groups
        assert inside_groups | outside_groups == set(range(12))
        assert len(outside) == 5 * len(outside_groups)


def test_bootstrap_error_refuses_what_it_cannot_judge():
    X, y = blobs(20)
    with pytest.raises(ValueError, match="never out of bag in 1 rounds"):
        me.bootstrap_error(KNeighborsClassifier(1), X, y, rounds=1)
    with pytest.raises(ValueError, match="continuous"):
        me.bootstrap_error(KNeighborsClassifier(1), X, X[:, 0])
    with pytest.raises(ValueError, match="rounds"):
        me.bootstrap_error(KNeighborsClassifier(1), X, y, rounds=0)


# --- splits -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(1, 3), st.integers(0, 5), st.sampled_from(["labels", "target", "groups"]))
def test_folds_partition_the_items(k, repeats, seed, kind):
    y = np.random.default_rng(1).permutation(np.repeat([0, 1], [40, 20]))
    groups = np.arange(60) // 4 if kind == "groups" else None
    target = np.linspace(0, 1, 60) if kind == "target" else y
    splits = me.folds(target, k, repeats=repeats, groups=groups, seed=seed)
    assert len(splits) == k * repeats
    for start in range(0, len(splits), k):
        tested = np.concatenate([test for _, test in splits[start : start + k]])
        assert sorted(tested) == list(range(60))
    for train, test in splits:
        assert sorted([*train, *test]) == list(range(60))
        if kind == "labels":
            assert abs(y[test].mean() - 1 / 3) < 0.06
        if kind == "groups":
            assert not set(groups[train]) & set(groups[test])


def test_repeats_and_neighbouring_seeds_draw_other_folds():
    y = np.arange(40) % 2
    drawn = {tuple(test) for seed in range(4) for _, test in me.five_by_two(y, seed=seed)}
    assert len(drawn) == 40
    assert all((a[0] == b[0]).all() for a, b in zip(me.five_by_two(y, seed=1), me.five_by_two(y, seed=1), strict=True))


def test_leave_one_out_and_leave_one_group_out():
    y = np.array([0, 0, 1, 1, 1, 0])
    assert [test.tolist() for _, test in me.leave_one_out(y)] == [[i] for i in range(6)]
    assert [test.tolist() for _, test in me.leave_one_out(y, groups=[7, 7, 3, 3, 3, 5])] == [[2, 3, 4], [5], [0, 1]]


def test_random_splits_are_stratified_or_grouped():
    y = np.repeat([0, 1], [80, 20])
    for _, test in me.random_splits(y, 5, test_share=0.25):
        assert np.bincount(y[test]).tolist() == [20, 5]
    groups = np.arange(100) // 10
    for train, test in me.random_splits(y, 5, groups=groups):
        assert not set(groups[train]) & set(groups[test])


def test_a_single_holdout_of_a_small_data_set_is_refused():
    with pytest.raises(ValueError, match=r"999 items are too few for a single holdout .*nested_cv"):
        me.holdout(np.arange(999) % 2)
    train, test = me.holdout(np.arange(1000) % 2)
    assert (len(train), len(test)) == (700, 300)


# --- cross-validation -------------------------------------------------------------------------------------------


def test_cross_scores_are_scikit_learns_on_the_same_splits_and_leave_the_estimator_alone():
    X, y = blobs(40)
    splits = me.folds(y, 4, repeats=2)
    arms = {"1-NN": KNeighborsClassifier(1), "pipeline": make_pipeline(StandardScaler(), LogisticRegression())}
    for scoring in (None, "roc_auc"):
        scores = me.cross_scores(arms, X, y, splits, scoring)
        for arm, estimator in arms.items():
            assert scores[arm] == pytest.approx(cross_val_score(estimator, X, y, cv=splits, scoring=scoring))
            assert not hasattr(estimator, "classes_")


def test_nothing_is_fitted_on_a_test_fold(spy):
    X, y = np.arange(40.0)[:, None], np.arange(40) % 2
    me.cross_scores({"spy": spy}, X, y, me.folds(y, 4))
    me.out_of_fold({"spy": spy}, X, y, me.leave_one_out(y))
    me.nested_cv(spy, {}, X, y, outer=4)
    assert len(Spy.seen) == 4 + 40 + 4 * (2 + 1)
    assert not any(fitted & asked for fitted, asked in Spy.seen)


def test_out_of_fold_answers_pair_with_mcnemar():
    X, y = blobs(30, gap=0.7)
    arms = {"1-NN": KNeighborsClassifier(1), "5-NN": KNeighborsClassifier(5)}
    answers_ = me.out_of_fold(arms, X, y, me.leave_one_out(y))
    for k, arm in ((1, "1-NN"), (5, "5-NN")):
        for i in range(30):
            near = sorted((j for j in range(30) if j != i), key=lambda j: ((X[i] - X[j]) ** 2).sum())[:k]
            assert answers_[arm][i] == (int(np.mean(y[near]) > 0.5) == y[i])
    assert me.mcnemar(answers_["1-NN"], answers_["5-NN"]).effect == pytest.approx(
        answers_["1-NN"].mean() - answers_["5-NN"].mean()
    )
    with pytest.raises(ValueError, match="exactly once"):
        me.out_of_fold(arms, X, y, me.folds(y, 3, repeats=2))


def test_nested_cv_equals_two_loops_written_out():
    X, y = blobs(48, gap=0.5, seed=2)
    depths = [1, 2, 4]
    found = me.nested_cv(DecisionTreeClassifier(random_state=0), {"max_depth": depths}, X, y, outer=3, inner=2, seed=5)
    for (train, test), score, choice in zip(me.folds(y, 3, seed=5), found.scores, found.choices, strict=True):
        inside = me.folds(y[train], 2, seed=6)
        means = []
        for depth in depths:
            tree = DecisionTreeClassifier(max_depth=depth, random_state=0)
            means.append(
                np.mean([tree.fit(X[train][i], y[train][i]).score(X[train][j], y[train][j]) for i, j in inside])
            )
        best = depths[int(np.argmax(means))]
        assert choice == {"max_depth": best}
        refitted = DecisionTreeClassifier(max_depth=best, random_state=0).fit(X[train], y[train])
        assert score == refitted.score(X[test], y[test])
    assert found.mean == pytest.approx(found.scores.mean())


def test_nested_cv_keeps_groups_apart_in_both_loops(spy):
    groups = np.arange(48) // 4
    me.nested_cv(spy, {}, np.arange(48.0)[:, None], np.arange(48) % 2, outer=3, groups=groups)
    assert len(Spy.seen) == 3 * (2 + 1)
    for fitted, asked in Spy.seen:
        assert not {groups[i] for i in fitted} & {groups[i] for i in asked}


@pytest.mark.slow
def test_the_best_of_a_flat_search_on_noise_is_flattered_and_the_nested_score_is_not():
    grid = {"random_state": list(range(20))}
    flat, nested = [], []
    for seed in range(4):
        X, y = blobs(60, gap=0.0, seed=seed, d=8)
        tree = DecisionTreeClassifier(max_features=1, max_depth=3)
        search = GridSearchCV(tree, grid, cv=StratifiedKFold(5, shuffle=True, random_state=seed)).fit(X, y)
        flat.append(search.best_score_)
        nested.append(me.nested_cv(tree, grid, X, y, seed=seed).mean)
    assert np.mean(flat) > 0.55
    assert abs(np.mean(nested) - 0.5) < 0.08


# --- compare ----------------------------------------------------------------------------------------------------


def scores(*rows: float) -> dict[int, float]:
    return dict(enumerate(rows, start=100))


GOOD, BAD = scores(0.91, 0.90, 0.93, 0.92, 0.90), scores(0.85, 0.86, 0.86, 0.84, 0.87)


def test_compare_pairs_by_seed_not_by_position():
    pair = me.compare({"a": GOOD, "b": dict(reversed(BAD.items()))}, n=5000).pairs[0]
    assert pair.outcome == me.paired_t(list(GOOD.values()), list(BAD.values()))
    assert pair.supported
    assert pair.interval == me.bootstrap_interval(np.subtract(list(GOOD.values()), list(BAD.values())))
    assert me.compare({"a": GOOD, "b": BAD}, n=5000).scores == {"a": GOOD, "b": BAD}


@settings(max_examples=20, deadline=None)
@given(arrays(float, (5, 3), elements=TENTHS), st.permutations(range(5)))
def test_compare_is_blind_to_the_order_of_arms_and_seeds(table, order):
    def study(columns, rows):
        return me.compare({f"arm {c}": {100 + r: float(table[r, c]) for r in rows} for c in columns}, n=5000)

    found, moved = study([0, 1, 2], range(5)), study([2, 1, 0], order)
    assert moved.omnibus.p == pytest.approx(found.omnibus.p)
    by_arms = {frozenset(pair.arms): pair for pair in moved.pairs}
    for pair in found.pairs:
        other = by_arms[frozenset(pair.arms)]
        assert other.adjusted_p == pytest.approx(pair.adjusted_p, abs=1e-9)
        assert other.outcome.effect == pytest.approx(-pair.outcome.effect)


def test_four_seeds_support_nothing_however_clear():
    four = [{seed: score for seed, score in arm.items() if seed != 104} for arm in (GOOD, BAD)]
    pair = me.compare({"a": four[0], "b": four[1]}, n=5000).pairs[0]
    assert pair.adjusted_p < 0.01
    assert not pair.supported


def test_more_than_two_arms_meet_the_omnibus_test_and_holm():
    third = scores(0.86, 0.85, 0.87, 0.84, 0.86)
    found = me.compare({"a": GOOD, "b": BAD, "c": third}, n=5000)
    columns = [list(arm.values()) for arm in (GOOD, BAD, third)]
    assert found.omnibus == me.friedman(np.array(columns).T)
    raw = [me.paired_t(columns[i], columns[j]).p for i, j in ((0, 1), (0, 2), (1, 2))]
    assert [pair.adjusted_p for pair in found.pairs] == pytest.approx(me.holm(raw))
    assert [pair.supported for pair in found.pairs] == [True, True, False]
    assert me.compare({"a": GOOD, "b": BAD}, n=5000).omnibus is None


def test_an_omnibus_test_that_finds_nothing_silences_its_pairs():
    base = np.array([0.50, 0.60, 0.70, 0.80, 0.90])
    above, around = np.array([0.010, 0.011, 0.012, 0.011, 0.010]), np.array([0.2, -0.2, 0.2, -0.2, 0.005])
    table = {"a": base + above, "b": base, "c": base + around}
    found = me.compare({arm: scores(*row) for arm, row in table.items()}, n=5000)
    assert found.omnibus.p > 0.05
    assert found.pairs[0].adjusted_p < 0.001
    assert not any(pair.supported for pair in found.pairs)


def test_compare_runs_mcnemar_on_the_items_of_each_seed():
    rng = np.random.default_rng(0)
    a = {seed: rng.integers(0, 2, 50) for seed in range(100, 105)}
    b = {seed: rng.integers(0, 2, 50) for seed in range(100, 105)}
    pair = me.compare({"a": a, "b": b}, n=5000).pairs[0]
    assert pair.by_seed == {seed: me.mcnemar(a[seed], b[seed]) for seed in a}
    assert pair.outcome == me.paired_t([a[s].mean() for s in a], [b[s].mean() for s in b])
    assert me.compare({"a": GOOD, "b": BAD}, n=5000).pairs[0].by_seed == {}


def test_compare_pairs_named_items():
    a = {100: {"q1": 1, "q2": 1, "q3": 0, "q4": 1}}
    b = {100: {"q4": 0, "q3": 0, "q2": 1, "q1": 0}}
    pair = me.compare({"a": a, "b": b}, n=5000).pairs[0]
    assert pair.outcome == me.mcnemar([1, 1, 0, 1], [0, 1, 0, 0])
    assert not pair.supported
    with pytest.raises(ValueError, match="same items"):
        me.compare({"a": a, "b": {100: {"q1": 1, "q2": 1, "q3": 0, "q5": 1}}}, n=5000)
    with pytest.raises(ValueError, match="or neither"):
        me.compare({"a": a, "b": {100: [1, 0, 1, 1]}}, n=5000)


def test_one_seed_falls_back_to_the_items():
    rng = np.random.default_rng(0)
    rows = {arm: rng.integers(0, 2, 200) for arm in "abc"}
    found = me.compare({arm: {100: row} for arm, row in rows.items()}, n=5000)
    assert found.omnibus == me.cochran_q(np.array(list(rows.values())).T)
    assert found.pairs[0].outcome == me.mcnemar(rows["a"], rows["b"])
    graded = {arm: {100: row + 0.5} for arm, row in rows.items()}
    found = me.compare(graded, n=5000)
    assert found.pairs[0].outcome == me.paired_t(rows["a"], rows["b"])
    assert found.pairs[0].by_seed == {}
    assert not any(pair.supported for pair in found.pairs)


def test_compare_refuses_a_single_holdout_of_a_small_data_set():
    items = {"a": {100: [1, 0, 1, 1]}, "b": {100: [0, 0, 1, 1]}}
    with pytest.raises(ValueError, match="300 items are too few for a single holdout"):
        me.compare(items, n=300)
    with pytest.raises(ValueError, match="too few for a single holdout"):
        me.compare({"a": GOOD, "b": BAD}, n=999, splits=1)
    me.compare(items, n=1000)
    me.compare({"a": GOOD, "b": BAD}, n=999)


def test_compare_of_identical_arms_supports_nothing():
    found = me.compare({"a": GOOD, "b": GOOD, "c": GOOD}, n=5000)
    assert found.omnibus.p == 1.0
    assert all(pair.outcome.p == 1.0 and not pair.supported for pair in found.pairs)


# --- choose_test ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "arms", "seeds", "cost", "expected"),
    [
        (300, 2, 1, "cheap", "f_5x2"),
        (300, 2, 10, "cheap", "f_5x2"),
        (300, 4, 1, "cheap", "friedman, then f_5x2 for each pair with holm"),
        (999, 2, 5, "dear", "mcnemar"),
        (300, 3, 1, "dear", "cochran_q, then mcnemar for each pair with holm"),
        (1000, 2, 5, "dear", "paired_t"),
        (60_000, 3, 5, "cheap", "friedman, then paired_t for each pair with holm"),
        (60_000, 2, 4, "cheap", "f_5x2"),
        (60_000, 2, 1, "dear", "mcnemar"),
        (60_000, 3, 1, "dear", "cochran_q, then mcnemar for each pair with holm"),
    ],
)
def test_choose_test_follows_the_table_and_names_functions_that_exist(n, arms, seeds, cost, expected):
    choice = me.choose_test(n, arms, seeds, cost)
    assert choice.test == expected
    assert choice.why
    for name in ("f_5x2", "mcnemar", "paired_t", "friedman", "cochran_q", "holm"):
        if name in choice.test:
            assert callable(getattr(me, name))


# --- the door ---------------------------------------------------------------------------------------------------

X4, Y4 = np.zeros((4, 1)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: me.mcnemar([1, 0], [1]), r"one length, got shapes \(2,\) and \(1,\)"),
        (lambda: me.mcnemar([], []), "one length"),
        (lambda: me.mcnemar([0.5, 1], [0, 1]), "right .* or wrong .*, got 0.5"),
        (lambda: me.cochran_q([1, 0, 1]), r"\[items, arms >= 2\]"),
        (lambda: me.friedman([[1, 2], [3, 4]]), r"arms >= 3\], got \(2, 2\)"),
        (lambda: me.paired_t([1.0], [2.0]), "two pairs or more, got 1"),
        (lambda: me.paired_t([1.0, np.nan], [2.0, 1.0]), "finite, got nan"),
        (lambda: me.wilcoxon([[1.0]], [[2.0]]), "two rows"),
        (lambda: me.f_5x2(np.zeros((2, 5)), np.zeros((2, 5))), r"\[5, 2\] or \[10\], got \(2, 5\)"),
        (lambda: me.holm([0.1, 1.2]), r"\[0, 1\], got \[0.1, 1.2\]"),
        (lambda: me.holm([0.1, float("nan")]), r"\[0, 1\]"),
        (lambda: me.bonferroni([]), "one row of p-values"),
        (lambda: me.normal_interval(1.2, 10), "got 1.2"),
        (lambda: me.normal_interval(0.2, 0), "n=0"),
        (lambda: me.normal_interval(0.2, 10, 1.0), "confidence"),
        (lambda: me.bootstrap_interval([1.0]), "two values"),
        (lambda: me.point632(-0.1, 0.5), "train is an error rate"),
        (lambda: me.point632_plus(0.1, 0.5, 1.5), "no_information is an error rate"),
        (lambda: me.no_information_rate([0, 1], [0]), "must pair"),
        (lambda: me.folds(Y4, 1), "between 2 and 4 .*, got 1"),
        (lambda: me.folds(Y4, 3, groups=[0, 0, 1, 1]), "between 2 and 2 .*, got 3"),
        (lambda: me.folds(Y4, 2, repeats=0), "repeats"),
        (lambda: me.folds(Y4, 2, groups=[0, 1]), "label every item"),
        (lambda: me.folds(X4, 2), "one row of labels"),
        (lambda: me.random_splits(Y4, test_share=1.0), "got 1.0"),
        (lambda: me.cross_scores({}, X4, Y4[:3], []), "one row an item"),
        (lambda: me.compare({"a": GOOD}, n=5000), "two arms or more, got 1"),
        (lambda: me.compare({"a": {}, "b": {}}, n=5000), "no seeds"),
        (lambda: me.compare({"a": GOOD, "b": {100: 0.5}}, n=5000), r"do not share \[101, 102, 103, 104\]"),
        (lambda: me.compare({"a": {1: [1, 0]}, "b": {1: [1, 0, 1]}}, n=5000), "as many items"),
        (lambda: me.compare({"a": {1: 0.5}, "b": {1: 0.6}}, n=5000), "one seed with one score"),
        (lambda: me.compare({"a": {1: float("nan")}, "b": {1: 0.6}}, n=5000), "score nan"),
        (lambda: me.compare({"a": GOOD, "b": BAD}, n=5000, alpha=0.0), "alpha"),
        (lambda: me.choose_test(300, 1, 1), "two arms"),
        (lambda: me.choose_test(2, 2, 1), "n must be 4"),
        (lambda: me.choose_test(300, 2, 0), "seeds"),
        (lambda: me.choose_test(300, 2, 1, "free"), "'cheap' or 'dear', got 'free'"),
    ],
)
def test_errors_teach_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_family_offers_its_names_lazily():
    assert audit.compare is me.compare
    assert all(hasattr(audit, name) for name in dir(audit))
    assert set(me.__all__) <= set(dir(audit))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        audit.nothing_like_it  # noqa: B018


def test_no_test_but_the_inflated_one_warns():
    rng = np.random.default_rng(0)
    a, b = rng.random(10), rng.random(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for test in (me.paired_t, me.wilcoxon, me.kfold_t, me.paired_t_5x2, me.f_5x2):
            assert 0 <= test(a, b).p <= 1
            assert test(a, a).p == 1
