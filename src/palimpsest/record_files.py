"""The results of record as files that a person can review, with a seal that a changed value, word or margin breaks.

`<paper>.json` begins with the verdicts, one a line; then come the values, a line for every metric of an arm in the
order of the seeds, and the registration. `<paper>.history.jsonl`, beside it, has a line for every registration,
amendment and verdict of the ledger and for every curve; it is not part of an installed package.

The seal is `{"digest": ..., "chain": ...}`: the SHA-256 of all the rest of the file as canonical JSON, and the hash of
the last row of the ledger that the results were read from (None where none was kept); the file beside has its own
digest in the record. It guards against slips and against edits after the fact by whoever does not seal again; what the
numbers come to is recomputed by the tests. The marks are what was found out later, and stand outside the seal:
`withdrawn`, verdicts that do not stand, which the catalogue says again, and `rerun`, what one seed of every arm gave
with later code, which has a digest of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError

_MEND = "restore the file, or run the claim again"
MARKS = ("withdrawn", "rerun")

# What is written over several lines, a line for every item, and the same of the items; "*" stands for any name.
_OPEN: dict[str, Any] = {
    "verdicts": {},
    "values": {"*": {}},
    "registration": {"plan": {"expectations": {}, "settings": {}}},
    "amendments": {},
    "failures": {},
    "withdrawn": {},
    "rerun": {"differ": {}},
}


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


def rerun_of(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a rerun gave, where that is written as `marked` wrote it, and for this very record; else None.

    >>> found = marked(sealed({"verdicts": []}, None), rerun={"seed": 100, "differ": 2})
    >>> rerun_of(found)["differ"], rerun_of({**found, "rerun": {**found["rerun"], "differ": 0}})
    (2, None)
    """
    rerun = record.get("rerun")
    return rerun if rerun and rerun.get("digest") == _rerun_digest(record, rerun) else None


def registration(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the registration (`palimpsest.audit.hark.Prereg`), of which a record writes none down twice."""
    own = {
        name: value
        for name, value in record["registration"].items()
        if name not in ("digest", "code", "modules", "time")
    }
    arms = list(record["values"])
    return {"hypothesis": record["question"], "task": record["paper"], "arms": arms, "seeds": record["seeds"], **own}


def numbers(record: Mapping[str, Any]) -> dict[str, dict[str, dict[int, float]]]:
    """The values of a record: arm -> metric -> seed -> value, without the seeds that have none."""
    return {
        arm: {
            metric: {seed: float(v) for seed, v in zip(record["seeds"], row, strict=True) if v is not None}
            for metric, row in metrics.items()
        }
        for arm, metrics in record["values"].items()
    }


def read(path: Path) -> dict[str, Any]:
    """A record as it was written."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record beside and then rename it, so that a reader never sees half of it."""
    _replace(path, f"{_text(record, _OPEN)}\n")


def marked(record: Mapping[str, Any], **marks: Any) -> dict[str, Any]:
    """The record with marks, next to the verdicts; one that is empty is taken away. The seal stays whole; a rerun gets
    a digest of itself and of the sealed record, so that it counts for this record only and as it was written.

    >>> record = sealed({"paper": "npo", "verdicts": [{"word": "held"}], "time": ""}, None)
    >>> found = marked(record, withdrawn=[{"sentences": ["a above b on m"], "why": "A slip."}])
    >>> list(found), broken(found), marked(found, withdrawn=[]) == record
    (['paper', 'verdicts', 'withdrawn', 'time', 'seal'], '', True)
    """
    if unknown := marks.keys() - set(MARKS):
        raise ValueError(f"marks are {', '.join(MARKS)}, got {', '.join(sorted(unknown))}")
    if rerun := marks.get("rerun"):
        marks["rerun"] = {**rerun, "digest": _rerun_digest(record, rerun)}
    kept = {name: value for name in MARKS if (value := marks.get(name, record.get(name)))}
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name not in MARKS:
            found |= {name: value, **(kept if name == "verdicts" else {})}
    return found


def history_of(path: Path) -> Path:
    """The file beside a record.

    >>> history_of(Path("results/forget/npo.json")).as_posix()
    'results/forget/npo.history.jsonl'
    """
    return path.with_suffix(".history.jsonl")


def read_history(path: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows beside a record: the ledger's entries, oldest first, then the curves.

    An installed package lacks the file; then there is the registration that stands, and no more.

    Raises:
        UserError: where the file is not the one that the record was written with.
    """
    beside = history_of(path)
    if not beside.is_file():
        own = record["registration"]
        kind = "amendment" if own["version"] > 1 else "registration"
        entry = {"kind": kind, "paper": record["paper"], "digest": own["digest"], "time": own["time"]}
        return [{**entry, "prereg": registration(record)}]
    text = beside.read_bytes()
    if sha256(text).hexdigest() != record["history"]:
        raise UserError(f"{beside} was changed after its record was sealed: {_MEND}")
    return [json.loads(line) for line in text.splitlines()]


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows beside a record; returns their digest, which the record keeps."""
    text = "".join(f"{_line(row)}\n" for row in rows)
    _replace(history_of(path), text)
    return sha256(text.encode()).hexdigest()


def _text(value: Any, opened: Mapping[str, Any] | None, indent: int = 1) -> str:
    """JSON with a line for every item of what is opened, and all else on the line that it begins on."""
    if opened is None or not value or not isinstance(value, (Mapping, list)):
        return _line(value)
    if isinstance(value, Mapping):
        items = [
            f"{_line(name)}: {_text(item, opened.get(name, opened.get('*')), indent + 1)}"
            for name, item in value.items()
        ]
    else:
        items = [_line(item) for item in value]
    first, last = "{}" if isinstance(value, Mapping) else "[]"
    return first + ",".join(f"\n{' ' * indent}{item}" for item in items) + f"\n{' ' * (indent - 1)}{last}"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _rerun_digest(record: Mapping[str, Any], rerun: Mapping[str, Any]) -> str:
    return _digest({**rerun, "digest": record["seal"]["digest"]})


def _digest(record: Mapping[str, Any]) -> str:
    sealed = {name: value for name, value in record.items() if name not in MARKS}
    text = json.dumps(sealed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()
