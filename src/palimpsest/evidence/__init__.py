"""Evidence: claims declared before their result is known, run on many seeds, judged by rules, kept and shown.

    from palimpsest.evidence import load_claim, run_claim

    outcome = run_claim("npo", workers=4)
    outcome.counts          # {'held': 2, 'refuted': 1, 'open': 0, 'void': 0}
    outcome.verdicts[0]     # word, estimate, 95% interval, p, Holm's p, effect, differences by seed

The rules are in `palimpsest.audit.hark` (registration, ledger) and `palimpsest.evidence.verdict` (the four words). What
a name needs (NumPy, and for running SciPy, joblib, rich) is loaded with the first use of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    **dict.fromkeys(("Claim", "Expectation", "claim_names", "expect", "given", "load_claim"), "claim"),
    "Job": "store",
    "Outcome": "outcome",
    "Store": "store",
    "Verdict": "verdict",
    "export": "recording",
    "judge": "verdict",
    "run_claim": "outcome",
    "verify": "verification",
    "write_report": "report",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"palimpsest.evidence has no {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
