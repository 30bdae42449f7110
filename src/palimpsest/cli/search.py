"""`palimpsest search "model forgets old classes"`."""

from dataclasses import dataclass

from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from palimpsest.catalogue import Hit, minilm, record, search
from palimpsest.cli.output import counted, print_json, terminal


@dataclass(frozen=True)
class Arguments:
    """Find methods for a problem.

    Reads the names, titles, summaries and problems of the catalogue. Each hit comes with the verdicts of its paper's
    claim: held, refuted, open or void.
    """

    words: Positional[tuple[str, ...]]
    """the problem in plain words, or a part of a name or title"""
    k: int = 10
    """at most so many hits"""
    rerank: bool = False
    """sort the best by meaning with a sentence encoder: takes seconds, needs the extra `encoder`"""
    json: bool = False
    """print JSON"""


def main(args: Arguments) -> None:
    query = " ".join(args.words)
    hits = search(query, args.k, minilm if args.rerank else None)
    if args.json:
        print_json([_plain(hit) for hit in hits])
        return
    console = terminal()
    if not hits:
        console.print(
            Text(f"nothing in the catalogue resembles {query!r}: other words may, or palimpsest show lists it all")
        )
    for hit in hits:
        e = hit.entry
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right", no_wrap=True)
        about = [e.family, e.kind, *([str(e.year)] if e.is_paper else [])]
        head.add_row(
            Text.assemble((e.id, "bold"), ("  " + " · ".join(about), "bright_black")),
            counted((record(e) or {}).get("counts")) if e.is_paper else Text(),
        )
        console.print(head)
        console.print(Padding(Text(e.title, style="italic"), (0, 0, 0, 2)))
        console.print(Padding(Text(e.summary), (0, 0, 1, 2)))


def _plain(hit: Hit) -> dict:
    e = hit.entry
    shown = {name: getattr(e, name) for name in ("id", "family", "kind", "title", "year", "arxiv", "summary")}
    return {**shown, "score": round(hit.score, 4), "counts": (record(e) or {}).get("counts")}
