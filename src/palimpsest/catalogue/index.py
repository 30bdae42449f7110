"""`results/INDEX.md`: a line a paper, written by `python -m palimpsest.catalogue.index`.

The same command brings the withdrawals of the catalogue into the records.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from palimpsest.catalogue.papers import Entry, entries, record, record_file
from palimpsest.evidence.source import keep_facts
from palimpsest.paths import records
from palimpsest.record_files import marked, read, write

HEAD = """# Results of record

Of every paper the central sentence's word and all words (preconditions and checks of definitions are not counted),
the seeds, the day of the last run, the version of the claim (1: never amended), and whether the code that it reaches
is still the one that gave the results: *as recorded*; *verified*, it has changed but one seed of every arm gives the
values on record again; *differs*, it does not; *changed*, nobody has looked (*changed since*: not at this code).

| paper | central | words | seeds | date | version | code |
|---|---|---|---|---|---|---|
"""


def index() -> str:
    """The text of the index, from the records as they are."""
    lines = [_line(e) for e in entries() if e.is_paper]
    return HEAD + "".join(f"| {' | '.join(line)} |\n" for line in lines if line)


def write_index() -> Path:
    """Bring the catalogue's withdrawals into the records, then write the index beside them."""
    for e in entries():
        file = record_file(e)
        if e.is_paper and file.is_file():
            found = read(file)
            withdrawn = [{"sentences": list(w.sentences), "why": w.why} for w in e.withdrawn]
            if withdrawn != found.get("withdrawn", []):
                write(file, marked(found, withdrawn=withdrawn))
    path = records() / "INDEX.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(index(), encoding="utf-8")
    return path


def central_words() -> dict[str, str]:
    """Paper -> the word of its central sentence, as the index has it: one file, where the records are hundreds."""
    try:
        text = (records() / "INDEX.md").read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(re.findall(r"^\| \[(\w+)\]\([^|]*\| (\w+) \|", text, re.MULTILINE))


def _line(e: Entry) -> tuple[str, ...]:
    found = record(e)
    if found is None:
        return ()
    central = next(v for v in found["verdicts"] if not v["precondition"])
    words = " · ".join(f"{word} {n}" for word, n in found["counts"].items() if n) or "nothing counted"
    return (
        f"[{e.id}]({e.family}/{e.id}.json)",
        "withdrawn" if central["withdrawn"] else central["word"],
        words,
        str(len(found["seeds"])),
        found["time"][:10],
        str(found["registration"]["version"]),
        _age(found),
    )


def _age(found: dict[str, Any]) -> str:
    age, rerun = found["age"], found.get("rerun")
    if age == "recorded" or not rerun:
        return "as recorded" if age == "recorded" else age
    came = f"{'differs' if rerun['differ'] else 'verified'} {rerun['time'][:10]}"
    return f"changed since: {came}" if age == "changed" else came


if __name__ == "__main__":
    print(write_index())
    keep_facts()
