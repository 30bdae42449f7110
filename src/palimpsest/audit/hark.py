"""HARK: hypothesising after the results are known, and the rules that keep a comparison from it.

Gencoglu, van Gils, Guldogan, Morikawa, Süzen, Gruber, Leinonen, Huttunen, "HARK Side of Deep Learning: From Grad
Student Descent to Automated Machine Learning", 2019, arXiv:1904.07633.

The paper argues that deep learning reports the best of many tries as if it had been the only one, and recommends that
the question be written down first, that both sides be tuned alike and that negative results be kept. It has no
algorithm; this room is our operational form of its advice, and the evidence layer runs on it:

- `Prereg`, `digest`, `amend`: what will be tested, fixed before the run and known by its SHA-256;
- `verdict_words`: an interval against a margin, one of five words;
- `tuning_ledger`: the same number of tuning trials for every arm, on seeds that the verdict never sees;
- `ledger`: rows of which none can be dropped or changed unnoticed.

What the bad habits cost is in `palimpsest.audit.hark_measures`; all of these names can be imported from here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any

from palimpsest.audit.ledger import GENESIS, Row, TamperedLedger, canonical_json, chain, next_hash, verify_chain  # noqa: F401 - the ledger is this room's, where it loads no NumPy
from palimpsest.lazy import front_door

TUNING_SEEDS = range(100)
VERDICT_SEEDS = (100, 101, 102, 103, 104)
LEAST_SEEDS = 5


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


_MOVED = {
    "audit.hark_measures": ("Finding", "POLICIES", "Policy", "SelectiveReport", "harking_rate", "selective_report"),
    "audit.tuning_ledger": ("Trial", "TuningLedger", "UnequalTuning"),
    "audit.verdict_words": ("PAPER_WORDS", "WORDS", "Word", "decide", "verdict"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
