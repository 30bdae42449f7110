"""What it costs to choose afterwards what to report, where there is nothing to find (Gencoglu et al. 2019, arXiv
1904.07633; the rules against it are in `palimpsest.audit.hark`).

The best of k independent null variants passes a test at level alpha with probability 1 - (1 - alpha)^k: 64% for k = 20
at 5%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import integrate, stats

from palimpsest.audit.significance import holm

Policy = Literal["all", "best_variant", "best_metric", "best_seed_subset", "stop_when_significant"]
POLICIES: tuple[Policy, ...] = ("all", "best_variant", "best_metric", "best_seed_subset", "stop_when_significant")


def harking_rate(k: int, alpha: float = 0.05, rho: float = 0.0, *, draws: int = 0, seed: int = 0) -> float:
    """Chance that the best of k null variants passes a one-sided test at level alpha.

    Independent variants: 1 - (1 - alpha)^k. Statistics with pairwise correlation rho (variants share a baseline):
    Z_i = sqrt(rho) Z + sqrt(1 - rho) e_i, so the chance is 1 - E_Z[Phi((c - sqrt(rho) Z) / sqrt(1 - rho))^k] with
    c the upper alpha point; the expectation is a one-dimensional integral. `draws > 0` simulates it instead.

    >>> round(harking_rate(20), 3), round(harking_rate(20, rho=0.5), 3), harking_rate(20, rho=1.0)
    (0.642, 0.339, 0.05)
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must lie in [0, 1], got {rho}")
    cut = stats.norm.isf(alpha)
    if draws:
        rng = np.random.default_rng(seed)
        shared = math.sqrt(rho) * rng.standard_normal((draws, 1))
        best = (shared + math.sqrt(1 - rho) * rng.standard_normal((draws, k))).max(axis=1)
        return float((best > cut).mean())
    if rho in (0, 1):
        return float(alpha if rho == 1 else -math.expm1(k * math.log1p(-alpha)))
    shared = np.linspace(-9, 9, 20001)
    none_passes = stats.norm.cdf((cut - math.sqrt(rho) * shared) / math.sqrt(1 - rho)) ** k
    return float(1 - integrate.trapezoid(none_passes * stats.norm.pdf(shared), shared))


@dataclass(frozen=True)
class Finding:
    """One comparison as a reader would see it: which variant and metric, on which seeds, its mean gain and p."""

    variant: int
    metric: int
    seeds: tuple[int, ...]
    gain: float
    p: float


@dataclass(frozen=True)
class SelectiveReport:
    """What a policy shows of a study; `announced` are the findings it calls significant."""

    policy: Policy
    findings: tuple[Finding, ...]
    alpha: float

    @property
    def announced(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.p <= self.alpha)


def selective_report(
    results: Float[np.ndarray, "variants metrics seeds"] | Float[np.ndarray, "variants seeds"],
    policy: Policy,
    *,
    alpha: float = 0.05,
    least_seeds: int = 3,
) -> SelectiveReport:
    """What a study announces under one of five habits, to measure what each does to true nulls.

    Args:
        results: gains of every variant over the baseline, paired by seed, higher is better; without the middle axis
            there is one metric. Variant 0 and metric 0 are the ones that were registered.
        policy: `all` shows every variant on metric 0 with Holm's correction over the variants. The others show one
            finding, uncorrected: `best_variant` the variant with the highest mean gain on metric 0; `best_metric`
            the metric of variant 0 with the smallest p; `best_seed_subset` the best `least_seeds` or more seeds of
            variant 0, as many as give the smallest p; `stop_when_significant` variant 0 after the first seed (from
            `least_seeds` on) at which p <= alpha, or after all of them.
        alpha: level of the one-sided paired t-tests of gain > 0.

    >>> study = np.random.default_rng(0).standard_normal((20, 1, 5))
    >>> len(selective_report(study, "all").announced), len(selective_report(study, "best_variant").announced)
    (0, 1)
    """
    gains = np.asarray(results, float)
    gains = gains[:, None] if gains.ndim == 2 else gains
    if gains.ndim != 3 or 0 in gains.shape or gains.shape[2] < 2:
        raise ValueError(f"results must be [variants, metrics, seeds] with 2 seeds or more, got {np.shape(results)}")
    if not np.isfinite(gains).all():
        raise ValueError("results must be finite")
    seeds = gains.shape[2]
    if not 2 <= least_seeds <= seeds:
        raise ValueError(f"least_seeds must lie between 2 and the {seeds} seeds, got {least_seeds}")

    def finding(variant: int, metric: int, used: Sequence[int], p: float) -> Finding:
        used = tuple(int(seed) for seed in used)
        return Finding(int(variant), int(metric), used, float(gains[variant, metric, list(used)].mean()), float(p))

    every = tuple(range(seeds))
    first = gains[0, 0]
    if policy == "all":
        shown = [finding(variant, 0, every, p) for variant, p in enumerate(holm(_p_gain(gains[:, 0])))]
    elif policy == "best_variant":
        best = int(gains[:, 0].mean(axis=-1).argmax())
        shown = [finding(best, 0, every, _p_gain(gains[best, 0]))]
    elif policy == "best_metric":
        p_values = _p_gain(gains[0])
        shown = [finding(0, p_values.argmin(), every, p_values.min())]
    elif policy == "best_seed_subset":
        order = np.argsort(-first, kind="stable")
        p_values = [_p_gain(first[order[:n]]) for n in range(least_seeds, seeds + 1)]
        best = int(np.argmin(p_values))
        shown = [finding(0, 0, sorted(order[: least_seeds + best]), p_values[best])]
    elif policy == "stop_when_significant":
        looks = ((n, _p_gain(first[:n])) for n in range(least_seeds, seeds + 1))
        n, p = next(look for look in looks if look[1] <= alpha or look[0] == seeds)
        shown = [finding(0, 0, range(n), p)]
    else:
        raise ValueError(f"unknown policy {policy!r}: choose from {', '.join(POLICIES)}")
    return SelectiveReport(policy, tuple(shown), alpha)


def _p_gain(gains: Float[np.ndarray, "*rows seeds"]) -> Float[np.ndarray, "*rows"]:
    """One-sided p of mean gain > 0; gains that do not vary are decided exactly."""
    mean, spread = gains.mean(axis=-1), gains.std(axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / (spread / math.sqrt(gains.shape[-1]))
    p = stats.t.sf(t, gains.shape[-1] - 1)
    return np.where(spread > 0, p, np.where(mean > 0, 0.0, 1.0))
