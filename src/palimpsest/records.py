"""The results of record as files: one JSON a paper, with a seal that a changed value, word or margin breaks.

The seal is `{"digest": ..., "chain": ...}`: the SHA-256 of all the rest of the file as canonical JSON, and the hash of
the last row of the ledger that the results were read from (None where none was kept). It guards against slips and
against edits after the fact by whoever does not seal again; what the numbers come to is recomputed by the tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

_MEND = "restore the file, or run the claim again"


def sealed(record: Mapping[str, Any], chain: str | None) -> dict[str, Any]:
    """The record with its seal.

    Args:
        record: plain JSON data; a seal that it has already is replaced.
        chain: the hash of the ledger's last row, None where there is no ledger.

    >>> broken(sealed({"paper": "npo", "estimate": 0.5}, None))
    ''
    >>> broken(sealed({"paper": "npo", "estimate": 0.5}, None) | {"estimate": 0.9})
    'the record of npo was changed after it was sealed: restore the file, or run the claim again'
    """
    seal = {"chain": chain}
    return {**record, "seal": {**seal, "digest": _digest({**record, "seal": seal})}}


def broken(record: Mapping[str, Any]) -> str:
    """What is wrong with a record's seal, in one line; empty where nothing is."""
    paper, seal = record.get("paper"), record.get("seal")
    if not isinstance(seal, Mapping) or "digest" not in seal:
        return f"the record of {paper} has no seal: {_MEND}"
    whole = seal["digest"] == _digest({**record, "seal": {"chain": seal.get("chain")}})
    return "" if whole else f"the record of {paper} was changed after it was sealed: {_MEND}"


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record beside and then rename it, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def _digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()
