"""The results of record of an outcome: what of it is written down, and how."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palimpsest.audit.ledger import canonical_json
from palimpsest.errors import UserError
from palimpsest.evidence.looks import judge
from palimpsest.evidence.outcome import Outcome, last_line
from palimpsest.evidence.registration import STANDINGS, arm_modules
from palimpsest.evidence.verdict import Verdict
from palimpsest.paths import records
from palimpsest.record_files import numbers, sealed, write, write_history

DIGITS, EXACT = 7, 17


def export(outcome: Outcome, folder: Path | str | None = None) -> Path:
    """Write the results of record to `<folder>/<family>/<paper>.json`, by default into the checkout's `results/`, and
    the history and the curves to `<paper>.history.jsonl` beside it.

    The record holds what cannot be computed: the values in seven significant digits, and in full where a word would
    otherwise be another; beside each word there are its estimate and its interval, to be read without computing them.

    Raises:
        UserError: for anything but a full run of the registered claim on all of its seeds, from the claims package.
    """
    if outcome.standing != "of record":
        raise UserError(f"not exported: the run is {outcome.standing} ({STANDINGS[outcome.standing]})")
    if not outcome.claim.family:
        raise UserError(f"not exported: {outcome.claim.module} is not in palimpsest/claims/<family>/")
    path = (Path(folder) if folder else records()) / outcome.claim.family / f"{outcome.claim.paper}.json"
    entries = json.loads(canonical_json(outcome.history))
    beside = write_history(path, [*entries, *_curves(outcome)])
    write(path, sealed({**_record(outcome, entries), "history": beside}, outcome.chain or None))
    return path


def _record(outcome: Outcome, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    claim, prereg = outcome.claim, json.loads(canonical_json(vars(outcome.prereg)))
    for elsewhere in ("hypothesis", "task", "arms"):
        del prereg[elsewhere]
    if prereg["seeds"] == list(outcome.seeds):
        del prereg["seeds"]
    promises = [entry for entry in entries if entry["kind"] in ("registration", "amendment")]
    values, verdicts = _values(outcome)
    record = {
        "paper": claim.paper,
        "family": claim.family,
        "question": claim.question,
        "verdicts": [_line(verdict) for verdict in verdicts],
        "notes": claim.notes,
        "time": max(job.time for job in outcome.jobs),
        "seconds": _short(outcome.seconds),
        "peak bytes": max(job.peak_bytes for job in outcome.jobs),
        "environment": outcome.environment,
        "seeds": list(outcome.seeds),
        "values": values,
        "failures": [{"arm": j.arm, "seed": j.seed, "error": last_line(j.error or "")} for j in outcome.failures],
        "amendments": [
            {"version": entry["prereg"]["version"], "time": entry["time"], "reason": entry["prereg"]["reason"]}
            for entry in promises
            if entry["kind"] == "amendment"
        ],
        "registration": {
            "digest": outcome.digest,
            "code": outcome.jobs[0].code,
            **({"modules": modules} if (modules := arm_modules(claim)) else {}),
            "time": promises[-1]["time"] if promises else "",
            **prereg,
        },
    }
    return {name: value for name, value in record.items() if value != []}


def _values(outcome: Outcome) -> tuple[dict[str, dict[str, list[Any]]], tuple[Verdict, ...]]:
    """The values in the order of the seeds, and the verdicts that follow from them as they are written."""
    said = [(verdict.word, verdict.note) for verdict in outcome.verdicts]
    for digits in (DIGITS, EXACT):
        values = {
            arm: {
                metric: [_short(row[seed], digits) if seed in row else None for seed in outcome.seeds]
                for metric, row in metrics.items()
            }
            for arm, metrics in outcome.values.items()
        }
        again = judge(outcome.claim, numbers({"seeds": outcome.seeds, "values": values}), outcome.seeds)
        if [(verdict.word, verdict.note) for verdict in again] == said:
            break
    return values, again


def _line(verdict: Verdict) -> dict[str, Any]:
    line = {
        "word": verdict.word,
        "expectation": str(verdict.expectation),
        "estimate": _short(verdict.estimate),
        "interval": [_short(end) for end in verdict.interval],
    }
    if verdict.expectation.precondition:
        line["precondition"] = True
    if verdict.look:
        line |= {"look": verdict.look} | ({} if math.isnan(verdict.share) else {"share": _short(verdict.share)})
    return {**line, "note": verdict.note} if verdict.note else line


def _curves(outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {"kind": "curve", "metric": metric, "arm": arm, "seed": seed, "points": [list(map(_short, p)) for p in points]}
        for metric, arms in outcome.curves.items()
        for arm, by_seed in arms.items()
        for seed, points in by_seed.items()
    ]


def _short(value: float, digits: int = DIGITS) -> float | str:
    """Rounded to significant digits; what JSON has no number for as a string."""
    return float(f"{value:.{digits}g}") + 0.0 if math.isfinite(value) else str(value)  # + 0.0: -0.0 is 0.0
