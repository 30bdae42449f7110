"""The entries: read from `<family>/<id>.toml`, found by name."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.evidence.leaning import REMARKS, leaning
from palimpsest.evidence.source import code_digest, digest_of
from palimpsest.paths import records
from palimpsest.record_files import broken, read, rerun_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Parity:
    """The comparison of an entry with its authors' published code, on the same tensors.

    Attributes:
        repo: the authors' repository on GitHub, as owner/name.
        commit: the commit that was compared, in full or its first seven digits or more.
        what: which quantities were compared, on what.
        largest_difference: the largest absolute difference found.
        differs: where the two are not meant to agree, why.

    Raises:
        ValueError: for a field that is not what it should be.
    """

    repo: str
    commit: str
    what: str
    largest_difference: float
    differs: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(self.repo)):
            raise ValueError(f"repo is owner/name, got {self.repo!r}")
        if not re.fullmatch(r"[0-9a-f]{7,40}", str(self.commit)):
            raise ValueError(f"commit is 7 to 40 hexadecimal digits, got {self.commit!r}")
        if not (isinstance(self.what, str) and self.what.strip() and isinstance(self.differs, str)):
            raise ValueError(f"what and differs are sentences, got {self.what!r} and {self.differs!r}")
        number = self.largest_difference
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
            raise ValueError(f"largest_difference is a number from 0 up, got {number!r}")


@dataclass(frozen=True)
class Withdrawal:
    """Verdicts that do not stand until the claim's next version.

    Attributes:
        sentences: the expectations, as the record writes them.
        why: the reason, in one sentence.
    """

    sentences: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Entry:
    """A paper, or a baseline that papers compare against.

    Attributes:
        id: its name everywhere: the room's module, the claim's module, the command line.
        family: what it is for: forget, audit, ...
        title: the paper's title; a baseline's name.
        kind: method, benchmark, study, survey, theory, application, or baseline.
        summary: what it is and when to reach for it, two to four sentences.
        solves: the problems it solves, as a user would phrase them.
        imports: the import statements that bring it in.
        example: Python that runs after those imports.
        command: the command line that applies it to a model of the user's own, where there is one.
        authors, year: of the paper; of a baseline's source, where it has one.
        arxiv: its arXiv id, without a version.
        code: the authors' repository on GitHub, as owner/name; None where there is none.
        aliases: other names that find it.
        uses: the entries it builds on.
        arm_of: the papers whose claims measure this baseline.
        limits: what it does not do, and what to watch for.
        withdrawn: the verdicts of its record that do not stand, and why.
        definitions: expectations that follow from what is measured and cannot fail: they check the code, not the paper.
        runs_on: the kinds of a user's files that its claim can be put to: "table", "images", "pairs", ...
        pool: the rows that every seed of the claim splits anew, where seeds draw no rows of their own.
        parity: how it compares with the authors' own code, or a word on why it was not compared (none published).
    """

    id: str
    family: str
    title: str
    kind: str
    summary: str
    solves: tuple[str, ...]
    imports: tuple[str, ...]
    example: str
    command: str | None = None
    authors: tuple[str, ...] = ()
    year: int | None = None
    arxiv: str | None = None
    code: str | None = None
    aliases: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    arm_of: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    withdrawn: tuple[Withdrawal, ...] = ()
    definitions: tuple[str, ...] = ()
    runs_on: tuple[str, ...] = ()
    pool: str = ""
    parity: Parity | str | None = None

    @property
    def is_paper(self) -> bool:
        """Whether it has a room and a claim of its own."""
        return self.kind != "baseline"

    @property
    def module(self) -> str:
        """The room.

        >>> entry("simnpo").module
        'palimpsest.forget.simnpo'
        """
        return f"palimpsest.{self.family}.{self.id}"

    @property
    def claim(self) -> str:
        """The module of the claim.

        >>> entry("simnpo").claim
        'palimpsest.claims.forget.simnpo'
        """
        return f"palimpsest.claims.{self.family}.{self.id}"


def entries() -> list[Entry]:
    """All entries: family by family, the papers and then the baselines, each in alphabetical order."""
    return list(_shelf()[0])


def hall(family: str) -> list[str]:
    """The modules of a family that hold no paper: what its rooms share.

    >>> "procedure" in hall("forget")
    True
    """
    return list(_shelf()[1][family])


def entry(name: str) -> Entry:
    """The entry of that name. Case, spaces, dashes and underscores do not matter, and aliases count.

    >>> entry("Gradient Ascent").id
    'grad_ascent'

    Raises:
        UserError: if there is none; the message offers the nearest names.
    """
    names = {_plain(n): e for e in reversed(entries()) for n in (e.title, *e.aliases, e.id)}
    if found := names.get(_plain(name)):
        return found
    near = dict.fromkeys(names[n].id for n in get_close_matches(_plain(name), names, n=5, cutoff=0.6))
    hint = f"did you mean {' or '.join(near)}?" if near else "palimpsest search finds methods by the problem"
    raise UserError(f"nothing in the catalogue is called {name!r}: {hint}")


def record_file(entry: Entry) -> Path:
    """Where the results of record of an entry's claim are, once there are any."""
    return records() / entry.family / f"{entry.id}.json"


def record(entry: Entry) -> dict[str, Any] | None:
    """The results of record of an entry's claim, as `palimpsest.evidence.export` wrote them, and what to make of them.

    Besides what is in the file there are `broken`, what is wrong with its seal (empty if nothing is), and `age`, what
    has become of the code that the claim reaches: "recorded" where it is the record's, "verified" where it is not but
    one seed of every arm gave the record's values again, "differs" where it did not, "changed" where nobody has
    looked. Every verdict has the fields of its expectation, `remarks`, sentences that a reader needs beside the word,
    and `counted`: `counts` leaves out preconditions, checks of definitions and the withdrawn, and says how many of the
    last there are. None before the first export.
    """
    file = record_file(entry)
    if not file.is_file():
        return None
    counts = dict.fromkeys(("held", "weak", "refuted", "open", "void"), 0)
    try:
        found = read(file)
        promised = found["registration"]["plan"]["expectations"]
        last = len(found["registration"].get("seeds", ()))
        verdicts = [
            _remarked(entry, {"note": "", "look": 0, **promise, **verdict, "asked": promise}, last)
            for promise, verdict in zip(promised, found["verdicts"], strict=True)
        ]
        for verdict in verdicts:
            counts[verdict["word"]] += verdict["counted"]
        wrong, age = broken(found), _age(entry, found)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} is damaged: restore it, or palimpsest run {entry.id} --export") from None
    if withdrawn := sum(verdict["withdrawn"] for verdict in verdicts):
        counts["withdrawn"] = withdrawn
    return {**found, "rerun": rerun_of(found), "verdicts": verdicts, "counts": counts, "broken": wrong, "age": age}


def _age(entry: Entry, found: dict[str, Any]) -> str:
    registration, rerun = found["registration"], rerun_of(found)
    if rerun and rerun["code"] == _code(entry, rerun.get("modules") or registration.get("modules")):
        return "differs" if rerun["differ"] else "verified"
    return "recorded" if registration["code"] == _code(entry, registration.get("modules")) else "changed"


def _code(entry: Entry, modules: list[str] | None) -> str:
    """The digest of the modules that a record or a rerun names; without any, of all that the claim imports."""
    return digest_of(modules) if modules else code_digest(entry.claim)


def age_of(found: dict[str, Any]) -> str:
    """What `record` calls the record's age, in a sentence; empty where the code is the record's own.

    >>> rerun = {"code": "0123456789ab", "seed": 100, "time": "2026-11-30", "values": 60, "differ": 0}
    >>> age_of({"age": "verified", "paper": "npo", "rerun": rerun})
    'verified at code 0123456789 on 2026-11-30: seed 100 of every arm gives the values on record again, all 60'
    """
    again, rerun = f"palimpsest run {found['paper']} --verify", found.get("rerun")
    if found["age"] == "recorded":
        return ""
    if found["age"] == "changed":
        earlier = ""
        if rerun:
            what = f"{rerun['differ']} of {rerun['values']} values differed" if rerun["differ"] else "it was verified"
            earlier = f" (at earlier code, on {rerun['time'][:10]}, {what})"
        return f"the code it reaches has changed since, and it is not verified at that code{earlier}: {again}"
    at = f"at code {rerun['code'][:10]} on {rerun['time'][:10]}: seed {rerun['seed']} of every arm"
    if found["age"] == "verified":
        return f"verified {at} gives the values on record again, all {rerun['values']}"
    spreads = rerun.get("spreads")
    far = f", the farthest by {spreads:g} standard deviations of the seeds" if spreads is not None else ""
    return (
        f"not verified {at} gives {rerun['differ']} of {rerun['values']} values otherwise than on record{far}: {again}"
    )


def _remarked(entry: Entry, verdict: dict[str, Any], last: int) -> dict[str, Any]:
    """A verdict with what its word alone does not say; `last` is the number of seeds of its last look."""
    sentence, word, precondition = verdict["expectation"], verdict["word"], verdict["precondition"]
    remarks = [f"withdrawn, see the next version: {w.why}" for w in entry.withdrawn if sentence in w.sentences]
    withdrawn, definition = bool(remarks), sentence in entry.definitions
    if definition:
        remarks.append("a check of a definition: it cannot fail while the code is right")
    low, high = map(float, verdict["interval"])
    verdict["leaning"] = ""
    if word == "open" and 0 < verdict["look"] < last and not precondition:
        share = float(verdict.get("share", math.nan))
        verdict["leaning"] = leaning(verdict["asked"], float(verdict["estimate"]), (low, high), share)
    if towards := verdict["leaning"]:
        remarks.append(REMARKS[towards])
    elif (verdict["kind"] == "above" and low > 0) or (verdict["kind"] == "below" and high < 0):
        if word == "refuted" and verdict["by"] > 0:
            remarks.append(f"there is a difference of that sign, but it is smaller than {verdict['by']:g}")
        if word == "open" and (verdict["by"] > 0 or verdict.get("share", 0) > 0):
            remarks.append("there is a difference of that sign; whether it is as large as asked is open")
    counted = not (precondition or withdrawn or definition)
    return {**verdict, "withdrawn": withdrawn, "definition": definition, "counted": counted, "remarks": remarks}


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _parity(id: str, value: Any) -> Parity | str | None:
    """The field as the entry holds it; a slip of who wrote it is named with the entry."""
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    try:
        return Parity(**value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"parity of {id}: {error}") from None


@cache
def _shelf() -> tuple[tuple[Entry, ...], dict[str, tuple[str, ...]]]:
    """All entries, and each family's hall."""
    found, halls = [], {}
    for file in sorted(Path(__file__).parent.glob("*/*.toml")):
        family, id = file.parent.name, file.stem
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        if id == "hall":
            halls[family] = tuple(table["modules"])
            continue
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        fields["summary"] = " ".join(fields["summary"].split())
        fields["withdrawn"] = tuple(
            Withdrawal(tuple(one["sentences"]), one["why"]) for one in table.get("withdrawn", ())
        )
        fields["parity"] = _parity(id, table.get("parity"))
        found.append(Entry(id=id, family=family, **fields))
    return tuple(sorted(found, key=lambda e: (e.family, not e.is_paper, e.id))), halls
