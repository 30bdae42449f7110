"""How people write numbers in files: with a unit, with marks between thousands, with words for what is missing."""

from __future__ import annotations

import re
from dataclasses import dataclass

MARKS = frozenset(
    {"-", "--", "−", "–", "—", ".", "k.a.", "k. a.", "n.a.", "n. a.", "n.v.", "keine angabe", "unbekannt", "fehlt"}
    | {"missing", "unknown", "not available", "not applicable"}
)
"""cells, in lower case, that say that a value is missing where all others are numbers or dates: elsewhere they may be
categories"""

_UNIT = r"[%€$£¥₹]|EUR|USD|GBP|CHF"
_WITH_UNIT = re.compile(rf"(?P<sign>[+-]?)\s*(?P<before>{_UNIT})?\s*(?P<body>[+-]?[.\d].*?)\s*(?P<after>{_UNIT})?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:([ \u00a0\u2007\u2009\u202f'’])\d{3})(?:\1\d{3})*(?:[.,]\d+)?")


@dataclass(frozen=True)
class Written:
    """A cell that begins like a number.

    Attributes:
        plain: its number without unit and without marks between thousands, for `float` to read or not.
        unit: a percent sign or a currency; empty where there is none.
        between: what stands between thousands; empty where nothing does.
    """

    plain: str
    unit: str = ""
    between: str = ""


def written(cell: str) -> Written | None:
    """A cell taken apart; None where it cannot be a number.

    >>> written("13 €"), written("1'200.5")
    (Written(plain='13', unit='€', between=''), Written(plain='1200.5', unit='', between="'"))
    """
    found = _WITH_UNIT.fullmatch(cell.replace("−", "-"))
    if not found or (found["before"] and found["after"]) or (found["sign"] and found["body"][0] in "+-"):
        return None
    plain, between = found["sign"] + found["body"], ""
    if grouped := _THOUSANDS.fullmatch(plain):
        between = grouped[1]
        plain = plain.replace(between, "")
    return Written(plain, found["before"] or found["after"] or "", between)
