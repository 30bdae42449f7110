"""Evidence: claims declared before their result is known, run on many seeds, judged by rules, kept and shown.

    from palimpsest.evidence import load_claim, run_claim

    outcome = run_claim("npo", workers=4)
    outcome.counts          # {'held': 2, 'weak': 0, 'refuted': 1, 'open': 0, 'void': 0}
    outcome.verdicts[0]     # word, estimate, 95% interval, p, Holm's p, effect, differences by seed

The rules are in `palimpsest.audit.hark` (registration, ledger) and `palimpsest.evidence.looks` (the words). What
a name needs (NumPy, and for running SciPy, joblib, rich) is loaded with the first use of it.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "claim": ("Claim", "Expectation", "claim_names", "expect", "given", "load_claim"),
    "outcome": ("Outcome", "run_claim"),
    "outcome_record": ("export",),
    "report": ("write_report",),
    "store": ("Job", "Store"),
    "looks": ("judge",),
    "verdict": ("Verdict",),
    "verification": ("verify",),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
