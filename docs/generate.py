"""Writes the catalogue's and the reference's pages when the guide is built, from the entries, results and code."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from palimpsest.benches import shelf, tuning
from palimpsest.catalogue import Entry, age_of, entries, record, tiers
from palimpsest.evidence.decision import LOOKS

SOURCE = Path(__file__).parents[1] / "src"
LEFT_OUT = ("cli", "claims", "catalogue")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for title, pages in (("Benches", benches()), ("Catalogue", catalogue()), ("Reference", reference())):
        for name, text in pages.items():
            files.append(File.generated(config, name, content=text))
        config.nav.append({title: contents(pages)})
    return files


def contents(pages: Iterable[str]) -> list:
    """The index, then a section a folder."""
    index, *others = pages
    sections: dict[str, list[str]] = {}
    for name in others:
        sections.setdefault(name.split("/")[1], []).append(name)
    return [index, *({folder: names} for folder, names in sections.items())]


def benches() -> dict[str, str]:
    """A page that lists what comparisons are made on, and one for each."""
    pages, rows = {}, []
    for bench in shelf.benches():
        rooms = tuning.room(bench)
        tables = [f"# {bench.name}", bench.about]
        if digests := tuning.pools(bench):
            tables.append(f"Its rows are made from what is installed; their digest is `{digests[-1]}`.")
        for room in rooms:
            better = bench.read[room.measure].better
            ends = {bench.floor[0]: " (floor)", bench.ceiling[0]: " (ceiling)"}
            arms = "\n".join(f"| {arm}{ends.get(arm, '')} | {value:.3g} |" for arm, value in room.values.items())
            gains = ", ".join(f"{gain:.2g} at {look} seeds" for look, gain in room.decides.items())
            tables.append(f"## {room.measure}\n\n| arm | {better} is better |\n|---|---|\n{arms}")
            said = "Trained again, an arm is the same: how large a gain can be found is not known."
            if gains:
                said = (
                    f"An arm differs from itself, trained again, by {room.spread:.2g} (standard deviation over seeds). "
                    f"80% of runs find a gain above the margin of {gains}."
                )
            tables.append(said)
        for name in bench.baselines:
            if found := tuning.ledger(bench, name):
                lines = [
                    f"| {', '.join(f'{field} {value}' for field, value in trial['point'].items())}"
                    f"{' (chosen)' if trial['point'] == found['chosen'] else ''} | {trial['validation']} |"
                    for trial in found["trials"]
                ]
                head = f"## {name}\n\nTuned by the validation rows of seeds {found['seeds']}."
                tables.append(f"{head}\n\n| point | validation |\n|---|---|\n" + "\n".join(lines))
        pages[f"benches/all/{bench.name}.md"] = "\n\n".join(tables) + "\n"
        if rooms:
            first, values = rooms[0], rooms[0].values
            best = (max if bench.read[first.measure].better == "higher" else min)(
                values[name] for name in bench.baselines if name in values
            )
            seconds = tuning.seconds(bench)
            ends = [values[bench.floor[0]], best, values[bench.ceiling[0]]]
            found = [first.spread, *first.decides.values()] if first.decides else []
            columns = [*(f"{value:.3g}" for value in ends), f"{seconds:.2g}", *(f"{value:.2g}" for value in found)]
            numbers = " | ".join([*columns, *["-"] * (4 + 1 + len(LOOKS) - len(columns))])
            rows.append(f"| [{bench.name}](all/{bench.name}.md) | {first.measure} | {numbers} |")
    head = (
        "# Benches\n\nWhat comparisons are made on. Values are means over pilot seeds, on test rows; seconds are those "
        "of the dearest arm on a seed. The spread is that of the first baseline's difference from itself, trained "
        "again (none where nothing is drawn). At 5, 10 and 20 seeds 80% of runs find a gain above the margin of so "
        "much, for a method whose differences spread like that.\n\n"
    )
    titles = ["bench", "measure", "floor", "best baseline", "ceiling", "seconds an arm", "spread"]
    titles += [f"found at {look}" for look in LOOKS]
    head += f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|\n"
    return {"benches/index.md": head + "\n".join(rows) + "\n", **pages}


def catalogue() -> dict[str, str]:
    """A page a paper, and an index of all with their verdicts."""
    pages, rows = {}, []
    for entry in entries():
        if not entry.is_paper:
            continue
        found = record(entry)
        counts = (found or {}).get("counts", {})
        words = ", ".join(f"{n} {word}" for word, n in counts.items() if n) or "not measured yet"
        words += {"changed": ", older than its code", "differs": ", not verified"}.get((found or {}).get("age"), "")
        rows.append(f"| [{entry.id}]({entry.family}/{entry.id}.md) | {entry.family} | {entry.title} | {words} |")
        pages[f"catalogue/{entry.family}/{entry.id}.md"] = page(entry, found)
    head = ["# Catalogue", "", "Every paper, and what its claim came to.", ""]
    table = ["| paper | family | title | verdicts |", "|---|---|---|---|", *rows]
    return {"catalogue/index.md": "\n".join([*head, *table]) + "\n", **pages}


def page(entry: Entry, found: dict | None) -> str:
    """What `palimpsest show` says, as Markdown."""
    parts = [
        f"# {entry.id}",
        f"*{entry.title}*, {', '.join(entry.authors)}, {entry.year}. "
        f"[arXiv {entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})",
        entry.summary,
        "## For",
        "\n".join(f"- {problem}" for problem in entry.solves),
        "## Use it",
        "```python\n" + "\n".join((*entry.imports, entry.example.rstrip())) + "\n```",
        "## Evidence",
    ]
    if found is None:
        parts.append(f"Not measured yet: `palimpsest run {entry.id}`.")
    else:
        age = [f"**{age}**"] if (age := age_of(found)) else []
        parts += [found["question"], verdicts(found), *age, *said_of_its_rows(entry)]
        parts.append(f"Again: `palimpsest run {entry.id}`.")
        if found["notes"]:
            parts.append(found["notes"])
    parts += ["## Tiers of evidence", "\n".join(f"- *{tier}*: {said}" for tier, said in tiers(entry, found).items())]
    parts += ["## Limits", "\n".join(f"- {limit}" for limit in entry.limits)]
    return "\n\n".join(parts) + "\n"


def verdicts(found: dict) -> str:
    lines = ["| verdict | expectation | estimate | 95% interval |", "|---|---|---|---|"]
    for v in found["verdicts"]:
        given = "given: " if v["precondition"] else ""
        low, high = (f"{float(bound):.3g}" for bound in v["interval"])
        word = "withdrawn" if v["withdrawn"] else v["word"]
        said = "; ".join([f"{given}{v['expectation']}", *v["remarks"]])
        lines.append(f"| **{word}** | {said} | {float(v['estimate']):.3g} | {low} to {high} |")
    return "\n".join(lines)


def said_of_its_rows(entry: Entry) -> list[str]:
    told = "on these rows: every seed splits the same {} anew, and an interval is too narrow for other rows."
    return [told.format(entry.pool).capitalize()] if entry.pool else []


def reference() -> dict[str, str]:
    """A page a module, by mkdocstrings."""
    pages = {"reference/index.md": "# Reference\n\nEvery module, from its docstrings.\n"}
    for file in sorted((SOURCE / "palimpsest").rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        if len(parts) < 3 or parts[1] in LEFT_OUT or parts[-1].startswith("__"):
            continue
        if ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))):
            pages[f"reference/{'/'.join(parts[1:])}.md"] = f"# {parts[-1]}\n\n::: {'.'.join(parts)}\n"
    return pages
