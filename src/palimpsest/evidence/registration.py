"""Pre-registration: what a claim promises, by digest, and whether a run keeps to it.

The digest covers the question, the arms, the expectations, the settings, the seeds, the claim's normalised source and
all code of the package that its arms reach. Registrations of the first scheme, without that code, keep their digest;
their next amendment is of the second.
It enters the ledger with the first run on the verdict's seeds; runs on the tuning seeds (0-99) are pilots and register
nothing. A claim that differs from the registered one is exploratory until it is amended with a reason; other code that
was verified to give the values on record is no difference. Registrations, amendments and verdicts of a paper stay
listed; those of the results of record are taken over into a new store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

from palimpsest.audit.hark import TUNING_SEEDS, Prereg, amend, canonical_json, digest
from palimpsest.errors import UserError
from palimpsest.evidence.claim import Claim
from palimpsest.evidence.decision import LOOKS
from palimpsest.evidence.source import code_digest, digest_of, reach_digest, source_digest
from palimpsest.evidence.store import Store, now
from palimpsest.paths import records
from palimpsest.record_files import broken, read, read_history, rerun_of

Standing = Literal["of record", "preliminary", "exploratory", "pilot", "smoke", "yours"]
STANDINGS: dict[Standing, str] = {
    "of record": "the registered claim on all of its seeds, or on those of a look",
    "preliminary": "the registered claim on other seeds than all of its own",
    "exploratory": "the claim, code that it reaches (unverified) or the rows of its world are not what was registered",
    "pilot": "on seeds that are open to tuning; registers nothing",
    "smoke": "a few steps on one seed, to see that it runs",
    "yours": "your verdict, on your data and its test rows; none of it is kept as a result of the paper",
}


BY_LOOKS = "t intervals of the gains paired by seed at 5, 10 and 20 seeds, levels 0.001, 0.001, 0.048; Holm at each"
STOPPING = "at the first look that decides the central sentence, or at the last"


def preregister(claim: Claim, *, reach: bool = True) -> Prereg:
    """The claim as a registration: its first expectation is the primary one, all of it is in the plan.

    Args:
        claim: the claim.
        reach: also the code that the claim's module imports; False as in the first scheme, before it was covered.
    """
    expectations = {"expectations": [asdict(expectation) for expectation in claim.expects]}
    if claim.sequential:
        described = {name: arm.described() for name, arm in claim.arms.items()}
        plan = {"settings": described, "reach": {name: digest_of(arm.modules) for name, arm in claim.arms.items()}}
        rule = {"test": BY_LOOKS, "stopping": STOPPING}
    else:
        plan = {"settings": claim.settings, "source": source_digest(claim.module)}
        plan |= {"reach": reach_digest(claim.module)} if reach else {}
        rule = {}
    return Prereg(
        hypothesis=claim.question,
        arms=tuple(claim.arms),
        task=claim.paper,
        metric=claim.primary.on,
        direction=claim.primary.kind,
        margin=claim.primary.by,
        seeds=tuple(claim.seeds),
        budget=dict.fromkeys(claim.arms, "full"),
        plan=json.loads(canonical_json({**expectations, **plan})),
        **rule,
    )


def arm_modules(claim: Claim) -> list[str]:
    """The modules that the arms of a bench reach, which a record names so that their change is noticed; none for a
    claim that is not on a bench, whose module says it."""
    return sorted({module for arm in claim.arms.values() for module in arm.modules}) if claim.sequential else []


def code_of(claim: Claim) -> str:
    """SHA-256 of the code that a claim's arms reach."""
    return digest_of(arm_modules(claim)) if claim.sequential else code_digest(claim.module)


def is_of_record(claim: Claim, seeds: Sequence[int]) -> bool:
    """Whether these are the seeds of a verdict of record: all of the claim's, or those of one of its looks."""
    if not claim.sequential:
        return sorted(seeds) == sorted(claim.seeds)
    return any(sorted(seeds) == sorted(claim.seeds[:look]) for look in LOOKS)


def enter(store: Store, claim: Claim, seeds: Sequence[int], reason: str = "") -> tuple[Prereg, Standing]:
    """Register the claim, or amend it where a reason is given, and say what a full run on these seeds counts as.

    Raises:
        UserError: for a reason without a change, together with pilot seeds, or where the rows of its world are others.
    """
    current = preregister(claim)
    if (elsewhere := claim.other_world) and reason:
        raise UserError(f"{elsewhere}, nor amended by it")
    if all(seed in TUNING_SEEDS for seed in seeds):
        if reason:
            raise UserError("an amendment belongs to a run on the verdict's seeds, not to a pilot")
        return current, "pilot"
    if elsewhere:
        return current, "exploratory"
    with store.lock:
        return _stand(store, claim, seeds, reason, current)


def _stand(store: Store, claim: Claim, seeds: Sequence[int], reason: str, current: Prereg) -> tuple[Prereg, Standing]:
    known = registered(store, claim.paper)
    if known is None or not _promises(known, claim):
        known = _from_record(store, claim, known)
    if known is None:
        if reason:
            raise UserError(f"{claim.paper} is not registered yet: there is nothing to amend")
        known = _enter(store, claim.paper, "registration", current)
    elif reason:
        changes = {f.name: getattr(current, f.name) for f in fields(Prereg)}
        for bookkeeping in ("version", "amends", "reason"):
            del changes[bookkeeping]
        try:
            known = _enter(store, claim.paper, "amendment", amend(known, reason, **changes))
        except ValueError as error:
            raise UserError(f"{claim.paper}: {error}") from None
    if not _promises(known, claim):
        return current, "exploratory"
    return known, "of record" if is_of_record(claim, seeds) else "preliminary"


def _promises(known: Prereg, claim: Claim) -> bool:
    """Whether a registration is of the claim as it is, by the scheme that it was made with; code that its arms reach
    may be other code where that was verified to give the values on record."""
    current = preregister(claim, reach="reach" in known.plan)
    return digest(known) == digest(current) or (
        digest(_without_reach(known)) == digest(_without_reach(current)) and _verified(claim)
    )


def _without_reach(prereg: Prereg) -> Prereg:
    return replace(prereg, plan={name: value for name, value in prereg.plan.items() if name != "reach"})


def _verified(claim: Claim) -> bool:
    """Whether one seed of every arm gave the values on record again, at the code at hand."""
    try:
        rerun = rerun_of(read(record_file(claim)))
    except (OSError, ValueError, KeyError, TypeError):  # there is no record, or it is damaged, which `run` says
        return False
    return bool(rerun) and rerun["code"] == code_of(claim) and not rerun["differ"]


def registered(store: Store, paper: str) -> Prereg | None:
    """The registration that stands: the first, or its last amendment."""
    entries = [entry for entry in history(store, paper) if entry["kind"] in ("registration", "amendment")]
    return Prereg(**entries[-1]["prereg"]) if entries else None


def history(store: Store, paper: str) -> list[dict[str, Any]]:
    """Every registration, amendment and verdict of a paper, oldest first, taken-over records included."""
    entries: list[dict[str, Any]] = []
    for body in store.ledger(paper):
        if body["kind"] == "record":
            entries += [entry for entry in body["history"] if entry not in entries]
        elif body["kind"] != "job":
            entries.append(body)
    return entries


def keep_verdict(store: Store, paper: str, verdict: dict[str, Any]) -> None:
    """Put a verdict into the ledger, unless it is the last one over again."""
    body = {"kind": "verdict", "paper": paper, **verdict}
    with store.lock:
        earlier = [entry for entry in history(store, paper) if entry["kind"] == "verdict"]
        if not earlier or canonical_json({**earlier[-1], "time": ""}) != canonical_json({**body, "time": ""}):
            store.append({**body, "time": now()})


def _enter(store: Store, paper: str, kind: str, prereg: Prereg) -> Prereg:
    store.append({"kind": kind, "paper": paper, "digest": digest(prereg), "prereg": asdict(prereg), "time": now()})
    return prereg


def record_file(claim: Claim) -> Path:
    """Where the results of record of a claim are, once there are any; nowhere for a claim of no family."""
    return records() / (claim.family or "-") / f"{claim.paper}.json"


def _from_record(store: Store, claim: Claim, known: Prereg | None) -> Prereg | None:
    """Take over the exported history of a paper: into a store that knows nothing of it, or that is behind it."""
    file = record_file(claim)
    if not file.is_file():
        return known
    try:
        found = read(file)
        exported = [entry for entry in read_history(file, found) if entry["kind"] != "curve"]
        last = next(entry for entry in reversed(exported) if entry["kind"] in ("registration", "amendment"))
    except (ValueError, KeyError, TypeError, StopIteration):
        raise UserError(f"{file} is damaged: restore it, or move it away") from None
    if known is None or (_promises(Prereg(**last["prereg"]), claim) and last not in history(store, claim.paper)):
        if wrong := broken(found):
            raise UserError(f"its registration cannot be taken over from {file}: {wrong}")
        store.append({"kind": "record", "paper": claim.paper, "history": exported, "time": now()})
        return Prereg(**last["prereg"])
    return known
