"""The tiers of evidence about a paper: which exist, and what each says.

*Formula*: the quantities of the room beside those of the authors' own code. *Miniature*: the paper's claim, measured
on many seeds at a size that one processor carries. *Yours*: the method on data and models of the user's own. *At
scale*: the paper's own models and data.
"""

from __future__ import annotations

from typing import Any

from palimpsest.catalogue.papers import Entry, Parity
from palimpsest.family import family
from palimpsest.retain.family import LANGUAGE


def tiers(entry: Entry, found: dict[str, Any] | None) -> dict[str, str]:
    """Tier -> what there is, in a sentence.

    Args:
        entry: a paper.
        found: its results of record, as `palimpsest.catalogue.record` gives them.

    >>> from palimpsest.catalogue import entry
    >>> tiers(entry("simnpo"), None)["at scale"]
    'not tried at scale'
    """
    counted = " · ".join(f"{word} {n}" for word, n in found["counts"].items() if n) if found else ""
    measured = f"{counted or 'nothing counted'}, on {len(found['seeds'])} seeds" if found else "not measured yet"
    return {
        "formula": formula(entry.parity),
        "miniature": measured,
        "yours": "\n".join(on_yours(entry)) or "no command applies it to models of your own; the import does",
        "at scale": "not tried at scale",
    }


VERBS = {
    "forget": "palimpsest forget MODEL --method {} --forget forget.jsonl --retain keep.jsonl --out DIR",
    "contrast": "palimpsest contrast --pairs mine.jsonl --model ENCODER --method {} --out DIR",
    "classify": "palimpsest classify --table mine.csv --target COLUMN --method {} --out DIR",
    "retain": "palimpsest retain --table mine.csv --target COLUMN --tasks COLUMN --method {}",
}
TEACHES = "palimpsest retain MODEL --new new.jsonl --keep old.jsonl --method {} --out DIR"
FILES = {
    "table": "--table mine.csv --target COLUMN",
    "images": "--images FOLDER",
    "pairs": "--pairs mine.jsonl --model ENCODER",
    "rows": "--rows forget.jsonl --retain keep.jsonl --model MODEL",
}


def on_yours(entry: Entry) -> list[str]:
    """The commands that apply a paper to the user's own data: the method's, and the claim's for each kind of files.

    >>> from palimpsest.catalogue import entry
    >>> on_yours(entry("squentropy"))[1]
    'palimpsest run squentropy --table mine.csv --target COLUMN'
    """
    offered = family(entry.family).methods if entry.family in VERBS else {}
    named = [name for name in (entry.id, *entry.aliases) if name in offered][:1]
    command = [VERBS[entry.family].format(name) for name in named]
    if entry.family == "retain":
        command = [TEACHES.format(name) for name in named if name in LANGUAGE] + command
    if entry.command:
        command = [" ".join(entry.command.replace("\\\n", " ").split())]
    return command + [f"palimpsest run {entry.id} {FILES[kind]}" for kind in entry.runs_on]


def formula(parity: Parity | str | None) -> str:
    """How the room compares with the authors' own code."""
    if parity is None:
        return "not compared with the authors' code"
    if isinstance(parity, str):
        return parity
    said = (
        f"{parity.what}: they differ by {parity.largest_difference:.2g} at most from https://github.com/{parity.repo}"
    )
    return f"{said} at {parity.commit[:10]}. {parity.differs}".rstrip()
