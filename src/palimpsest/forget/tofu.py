"""TOFU: has a model forgotten as if it had never known, and is it still of use?

Maini, Feng, Schwarzschild, Lipton and Kolter, 2024, "TOFU: A Task of Fictitious Unlearning for LLMs", arXiv 2401.06121.
Section 2.2 asks two questions of an unlearned model. *Forget quality*: is the distribution of its truth ratios on the
forget rows that of a model retrained without them? *Model utility*: how well does it do on everything else?

    P(a|q)         = exp(-mean NLL of the tokens of a and the end)
    R              = mean_i P(wrong_i|q) / P(paraphrase|q)        below 1 where the fact is known
    forget quality = p-value of a two-sample Kolmogorov-Smirnov test between the R' of both models
    model utility  = harmonic mean of {P, ROUGE-L recall, mean max(0, 1 - R)} on {retain, real authors, world facts}

On the last two sets P is P(a|q) / (P(a|q) + sum_i P(wrong_i|q)) and the answer stands for its paraphrase. R' has the
geometric mean over the wrong answers where R has the arithmetic one. The paper writes R in both places; its published
figures are made as above (`utils.py` of locuslab/tofu). The script for its leaderboard there, and OpenUnlearning, take
R' in both: their model utility is `model_utility` of parts made from `RowScores.truth_ratio_geometric`. What else is
otherwise than published, unless it is asked for: how questions are written (`TofuTemplate`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp
from scipy.stats import hmean, ks_2samp

from palimpsest.lazy import front_door

SMALLEST_LOG10 = -300.0  # of a p-value: what lies below underflows


def answer_probability(nll: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """P(a|q) = exp(-nll), the geometric mean of the tokens' probabilities; `nll` in nats a token.

    >>> answer_probability(np.array([0.0, np.log(4.0), np.inf])).round(2)
    array([1.  , 0.25, 0.  ])
    """
    return np.exp(-np.asarray(nll, dtype=np.float64))


def choice_probability(
    nll_answer: Float[np.ndarray, "rows"], nll_wrong: Float[np.ndarray, "rows wrong"]
) -> Float[np.ndarray, "rows"]:
    """P(a) / (P(a) + sum_i P(wrong_i)), the right answer's share among the choices; NaN wrong answers do not exist.

    >>> choice_probability(np.array([1.0]), np.array([[1.0, 1.0, 1.0]]))
    array([0.25])
    """
    nll_answer, nll_wrong = _check(nll_answer, nll_wrong)
    choices = -np.concatenate([nll_answer[:, None], np.where(np.isnan(nll_wrong), np.inf, nll_wrong)], axis=1)
    with np.errstate(invalid="ignore"):
        share = np.exp(choices[:, 0] - logsumexp(choices, axis=1))
    return np.where(np.isinf(nll_answer), 0.0, share)


def truth_ratio(
    nll_para: Float[np.ndarray, "rows"], nll_wrong: Float[np.ndarray, "rows wrong"], *, geo: bool = False
) -> Float[np.ndarray, "rows"]:
    """R = mean_i P(wrong_i) / P(paraphrase), computed from logarithms: low where the fact is known, about 1 where not.

    Args:
        nll_para: mean NLL of the paraphrased answer, in nats a token.
        nll_wrong: the same of each wrong answer; NaN where a row has fewer.
        geo: the geometric mean over wrong answers, exp(nll_para - mean_i nll_wrong_i), which forget quality takes.

    Returns:
        R; infinite where the paraphrase has no probability left, NaN for a row without wrong answers.

    >>> nll = np.log([[4.0, 2.0, 8.0]])  # probabilities 1/4 for the paraphrase, 1/2 and 1/8 for wrong answers
    >>> truth_ratio(nll[:, 0], nll[:, 1:]), truth_ratio(nll[:, 0], nll[:, 1:], geo=True)
    (array([1.25]), array([1.]))
    """
    nll_para, nll_wrong = _check(nll_para, nll_wrong)
    exists = ~np.isnan(nll_wrong)
    count = exists.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if geo:
            log_wrong = -np.where(exists, nll_wrong, 0.0).sum(axis=1) / count
        else:
            log_wrong = logsumexp(-np.where(exists, nll_wrong, np.inf), axis=1) - np.log(count)
        ratio = np.exp(nll_para + log_wrong)
    ratio = np.where(np.isinf(nll_para), np.inf, ratio)
    return np.where(count == 0, np.nan, ratio)


class ForgetQuality(NamedTuple):
    """Of a two-sample Kolmogorov-Smirnov test: `p`, its decimal logarithm (at least -300), the largest distance."""

    p: float
    log10_p: float
    statistic: float


def forget_quality(
    truth_ratios: Float[np.ndarray, "rows"], gold_truth_ratios: Float[np.ndarray, "gold_rows"]
) -> ForgetQuality:
    """Whether a model's truth ratios on the forget rows could be those of a model that never saw these rows.

    A high p means that nothing tells the two apart. Only ranks count: any increasing function of R gives the same.

    >>> forget_quality(np.arange(1.0, 9.0), np.arange(1.0, 9.0))
    ForgetQuality(p=1.0, log10_p=0.0, statistic=0.0)
    """
    samples = [np.asarray(sample, dtype=np.float64).ravel() for sample in (truth_ratios, gold_truth_ratios)]
    for name, sample in zip(("truth_ratios", "gold_truth_ratios"), samples, strict=True):
        if sample.size == 0 or np.isnan(sample).any():
            raise ValueError(f"{name} must be numbers: {np.isnan(sample).sum()} of {sample.size} are NaN")
    with warnings.catch_warnings():
        # An exact p-value too small for a float makes SciPy warn and fall back on the asymptotic one.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = ks_2samp(*samples)
    p = float(test.pvalue)
    log10_p = max(float(np.log10(p)), SMALLEST_LOG10) if p > 0 else SMALLEST_LOG10
    return ForgetQuality(p, log10_p, float(test.statistic))


def model_utility(parts: Sequence[float]) -> float:
    """The harmonic mean of the nine parts, each in [0, 1]: 0 as soon as one of them is.

    >>> round(model_utility([0.5] * 8 + [0.25]), 6)
    0.45
    """
    values = np.asarray(list(parts), dtype=np.float64)
    if values.size == 0 or np.isnan(values).any() or (values < 0).any() or (values > 1 + 1e-9).any():
        raise ValueError(f"the parts of the utility must lie in [0, 1], got {values.tolist()}")
    return float(hmean(values))


def _check(
    nll_right: Float[np.ndarray, "rows"], nll_wrong: Float[np.ndarray, "rows wrong"]
) -> tuple[Float[np.ndarray, "rows"], Float[np.ndarray, "rows wrong"]]:
    right, wrong = np.asarray(nll_right, dtype=np.float64), np.asarray(nll_wrong, dtype=np.float64)
    if right.ndim != 1 or wrong.ndim != 2 or len(right) != len(wrong):
        raise ValueError(f"expected shapes [rows] and [rows, wrong answers], got {right.shape} and {wrong.shape}")
    if np.isnan(right).any():
        raise ValueError(f"{np.isnan(right).sum()} of {len(right)} right answers have a NaN likelihood")
    return right, wrong


_MOVED = {
    "forget.tofu_measures": ("NEW_TOKENS", "RowScores", "TofuScores", "evaluate_tofu", "tofu_score"),
    "forget.tofu_templates": ("TEMPLATES", "TofuTemplate"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
