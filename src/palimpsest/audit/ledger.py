"""A ledger that only grows: rows that chain by hash, so that none can be dropped or changed unnoticed.

Loads neither NumPy nor SciPy: who reads a ledger need not compute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from hashlib import sha256
from typing import Any

GENESIS = "0" * 64


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII; NaN and infinities as the strings nan, inf, -inf.

    Dataclasses become objects with their class name under `is`; NumPy numbers become plain ones.

    Raises:
        TypeError: for anything that has no such form (a function, a set, an open file).

    >>> canonical_json({"b": (1, float("nan")), "a": 0.5})
    '{"a":0.5,"b":[1,"nan"]}'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if type(value).__module__ == "numpy":
        return _plain(value.tolist())
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else str(value)  # + 0.0: -0.0 is 0.0
    if is_dataclass(value) and not isinstance(value, type):
        shown = {f.name: getattr(value, f.name) for f in fields(value)}
        return _plain({"is": type(value).__name__} | shown)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(item) for item in value]
    raise TypeError(f"a {type(value).__name__} has no canonical JSON: use numbers, strings, lists and dicts")


class TamperedLedger(ValueError):
    """A row of the ledger was changed, dropped or moved."""


@dataclass(frozen=True)
class Row:
    """One link: the canonical JSON of what happened, the hash before it and its own."""

    body: str
    previous: str
    hash: str


def next_hash(previous: str, body: str) -> str:
    """SHA-256 of the previous row's hash and this row's body."""
    return sha256(f"{previous}\n{body}".encode()).hexdigest()


def chain(previous: str, body: Any) -> Row:
    """The row that follows the hash `previous` (`GENESIS` for the first).

    >>> first = chain(GENESIS, {"verdict": "refuted"})
    >>> verify_chain([first, chain(first.hash, {"verdict": "held"})]) == chain(first.hash, {"verdict": "held"}).hash
    True
    """
    text = canonical_json(body)
    return Row(text, previous, next_hash(previous, text))


def verify_chain(rows: Iterable[Row]) -> str:
    """Check every link and return the head's hash; keep the head elsewhere to notice rows cut from the end.

    Raises:
        TamperedLedger: naming the first row (from 1) that does not fit.
    """
    head = GENESIS
    for number, row in enumerate(rows, 1):
        if row.previous != head or row.hash != next_hash(row.previous, row.body):
            raise TamperedLedger(f"row {number} of the ledger does not follow from the one before it: it was altered")
        head = row.hash
    return head
