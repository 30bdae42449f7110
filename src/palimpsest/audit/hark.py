"""HARK: hypothesising after the results are known, and the rules that keep a comparison from it.

Gencoglu, van Gils, Guldogan, Morikawa, Süzen, Gruber, Leinonen, Huttunen, "HARK Side of Deep Learning: From Grad
Student Descent to Automated Machine Learning", 2019, arXiv:1904.07633.

The paper argues that deep learning reports the best of many tries as if it had been the only one, and recommends that
the question be written down first, that both sides be tuned alike and that negative results be kept. It has no
algorithm; this room is our operational form of its advice, and the evidence layer runs on it:

- `Prereg`, `digest`, `amend`: what will be tested, fixed before the run and known by its SHA-256;
- `decide`, `verdict`: an interval against a margin, one of four words;
- `TuningLedger`: the same number of tuning trials for every arm, on seeds that the verdict never sees;
- `chain`, `next_hash`, `verify_chain`: rows of which none can be dropped or changed unnoticed;

What the bad habits cost is in `palimpsest.audit.hark_measures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np
from scipy import stats

from palimpsest.audit.ledger import (  # noqa: F401 - the ledger is this room's, where it loads no NumPy
    GENESIS,
    Row,
    TamperedLedger,
    canonical_json,
    chain,
    next_hash,
    verify_chain,
)
from palimpsest.lazy import front_door

Word = Literal["held", "weak", "refuted", "open", "void"]
WORDS: tuple[Word, ...] = ("held", "weak", "refuted", "open", "void")
PAPER_WORDS: dict[Word, str] = {
    "held": "supported",
    "weak": "supported, but smaller than asked",
    "refuted": "refuted",
    "open": "inconclusive",
    "void": "says nothing",
}

TUNING_SEEDS = range(100)
VERDICT_SEEDS = (100, 101, 102, 103, 104)
LEAST_SEEDS = 5

# --- the registration -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prereg:
    """What a study will test, fixed before it runs. Only one metric decides; all others are exploratory."""

    hypothesis: str
    arms: tuple[str, ...]
    task: str
    metric: str
    """the primary metric, the only one that decides the hypothesis"""
    direction: str
    margin: float
    alpha: float = 0.05
    test: str = "t interval of the differences paired by seed; Holm over the expectations"
    seeds: tuple[int, ...] = VERDICT_SEEDS
    budget: Mapping[str, Any] = field(default_factory=dict)
    """per arm; an arm that is not named has the full budget"""
    stopping: str = "after the last seed; no verdict of record before it"
    plan: Mapping[str, Any] = field(default_factory=dict)
    """whatever else is fixed before the run: further expectations, settings, the digest of the source"""
    version: int = 1
    amends: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        for name in ("hypothesis", "metric", "direction"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty: say it before the run")
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms must be distinct and at least one, got {self.arms}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {self.alpha}")
        object.__setattr__(self, "arms", tuple(self.arms))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        check_verdict_seeds(self.seeds)


def check_verdict_seeds(seeds: Sequence[int]) -> None:
    """Raise ValueError unless the seeds are distinct, at least five, and none was open to tuning (0-99)."""
    if len(seeds) < LEAST_SEEDS or len(set(seeds)) != len(seeds):
        raise ValueError(f"a verdict needs at least {LEAST_SEEDS} distinct seeds, got {list(seeds)}")
    spent = sorted(seed for seed in seeds if seed < len(TUNING_SEEDS))
    if spent:
        raise ValueError(f"seeds 0-99 are for tuning and pilots: take verdict seeds from 100 up, got {spent}")


def digest(prereg: Prereg) -> str:
    """SHA-256 of what is claimed: every field but the bookkeeping of amendments (version, amends, reason).

    >>> a = Prereg("b beats a", ("a", "b"), "digits", "accuracy", "above", 0.02)
    >>> digest(a) == digest(replace(a, version=2)), digest(a) == digest(replace(a, margin=0.01))
    (True, False)
    """
    content = asdict(prereg)
    for bookkeeping in ("version", "amends", "reason"):
        del content[bookkeeping]
    return sha256(canonical_json(content).encode()).hexdigest()


def amend(prereg: Prereg, reason: str, **changes: Any) -> Prereg:
    """The next version of a registration, which names the version it replaces and says why.

    Raises:
        ValueError: without a reason, or where the changes leave the claim as it was.

    >>> first = Prereg("b beats a", ("a", "b"), "digits", "accuracy", "above", 0.02)
    >>> second = amend(first, "0.02 is below the test set's resolution", margin=0.05)
    >>> second.version, second.amends == digest(first)
    (2, True)
    """
    if not reason.strip():
        raise ValueError("an amendment needs a reason")
    new = replace(prereg, **changes, version=prereg.version + 1, amends=digest(prereg), reason=reason.strip())
    if digest(new) == digest(prereg):
        raise ValueError("nothing to amend: the claim is the one that is registered")
    return new


# --- the verdict ------------------------------------------------------------------------------------------------


def decide(low: float, high: float, least: float, most: float) -> Word:
    """Held where the interval [low, high] lies inside [least, most], refuted where the two are disjoint, else open.

    >>> decide(0.2, 0.4, 0.1, math.inf), decide(-0.2, 0.05, 0.1, math.inf), decide(0.0, 0.2, 0.1, math.inf)
    ('held', 'refuted', 'open')
    """
    if math.isnan(low) or math.isnan(high):
        return "open"
    if least <= low and high <= most:
        return "held"
    return "refuted" if high < least or low > most else "open"


def verdict(
    differences: Sequence[float] | Mapping[int, float],
    margin: float = 0.0,
    direction: Literal["above", "below"] = "above",
    *,
    alpha: float = 0.05,
    precondition: bool = True,
) -> Word:
    """One of the four words, from the differences (method - baseline) paired by seed.

    The (1 - alpha) t-interval of the mean difference is held against the margin: at least `margin` (above) or at most
    `-margin` (below). `PAPER_WORDS` translates to supported, refuted, inconclusive, failed precondition.

    >>> verdict([0.31, 0.28, 0.33, 0.30, 0.29], 0.1), verdict([0.31, -0.2, 0.1, 0.4, 0.0], 0.1)
    ('held', 'open')
    """
    values = np.array(list(differences.values() if isinstance(differences, Mapping) else differences), float)
    if direction not in ("above", "below"):
        raise ValueError(f"direction must be above or below, got {direction!r}")
    if not precondition:
        return "void"
    if values.size < 2 or not np.isfinite(values).all():
        return "open"
    half = stats.t.ppf(1 - alpha / 2, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size)
    least, most = (margin, math.inf) if direction == "above" else (-math.inf, -margin)
    return decide(values.mean() - half, values.mean() + half, least, most)


# --- tuning -----------------------------------------------------------------------------------------------------


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
    palimpsest.audit.hark.UnequalTuning: tuning trials differ: baseline 0, method 1
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


_MOVED = {
    "audit.hark_measures": (
        "Finding",
        "POLICIES",
        "Policy",
        "SelectiveReport",
        "harking_rate",
        "selective_report",
    ),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
