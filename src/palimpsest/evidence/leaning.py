"""Which way an open sentence leans: what its 95% interval would say, where the look asks for more.

The first looks decide only where p is at most 0.001 (`palimpsest.evidence.decision`), so that a sentence may be open
although its interval lies on one side of what was asked. A reader who has to choose now wants to know which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

REMARKS = {
    word: f"leans to {word} by its interval: before the last look only a p of 0.001 decides"
    for word in ("held", "weak", "refuted")
} | {"less": "what was asked lies outside the interval: whether there is any gain is open"}


def leaning(
    sentence: Mapping[str, Any], estimate: float, interval: tuple[float, float], share: float = math.nan
) -> Literal["held", "weak", "refuted", "less", ""]:
    """The word that the interval lies in: "less" where that is either weak or refuted, empty where it may be any.

    Args:
        sentence: the fields of a sentence as it was registered: `kind`, `by`, `share`.
        estimate, interval: the mean over seeds, and its 95% interval.
        share: the mean as a share of the room, where the sentence asks for one.

    >>> leaning({"kind": "above", "by": 0.1, "share": 0.0}, 0.2, (0.12, 0.28))
    'held'
    >>> leaning({"kind": "above", "by": 0.0, "share": 0.1}, 0.02, (0.01, 0.03), share=0.05)
    'weak'
    >>> leaning({"kind": "above", "by": 0.1, "share": 0.0}, 0.01, (-0.01, 0.03))
    'less'
    >>> leaning({"kind": "below", "by": 0.0, "share": 0.0}, 0.2, (0.12, 0.28))
    'refuted'
    """
    kind, by = sentence["kind"], sentence["by"]
    low, high = interval
    if kind in ("below", "at_most", "falls"):
        low, high = -high, -low
    if kind in ("at_least", "at_most"):
        by = by if kind == "at_least" else -by
        low, high, by = low - by, high - by, 0.0
    elif asked := sentence.get("share"):
        by = asked * abs(estimate / share) if share else math.nan
    if kind == "within":
        return "held" if -by <= low and high <= by else "refuted" if low > by or high < -by else ""
    if low > by:
        return "held"
    if high < min(0.0, by):
        return "refuted"
    return ("weak" if low > 0 else "less") if high < by else ""
