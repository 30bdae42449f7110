"""Writes the catalogue's and the reference's pages when the guide is built, from the entries, results and code."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from palimpsest.catalogue import Entry, age_of, entries, record, tiers

SOURCE = Path(__file__).parents[1] / "src"
LEFT_OUT = ("cli", "claims", "catalogue")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for title, pages in (("Catalogue", catalogue()), ("Reference", reference())):
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
        parts += [found["question"], verdicts(found), *age, *on_these_rows(entry)]
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


def on_these_rows(entry: Entry) -> list[str]:
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
