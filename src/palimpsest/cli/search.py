"""`palimpsest search "model forgets old classes"`."""

from dataclasses import dataclass
from textwrap import shorten
from typing import Annotated, Literal

from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from palimpsest.catalogue import Hit, commands, minilm, record, search
from palimpsest.cli.output import page, print_json, standing
from palimpsest.evidence.source import keep_facts

SHORT = 220  # characters of a summary that are enough to choose by


@dataclass(frozen=True)
class Arguments:
    """Find methods for a problem, each with what the evidence says about it.

    Searches the names, titles, summaries and problems of the catalogue.
    """

    words: Positional[tuple[str, ...]]
    """the problem in plain words, or a part of a name or title"""
    k: Annotated[int, arg(aliases=["-k"], metavar="N")] = 10
    """at most so many hits"""
    runs_on: Annotated[Literal["table", "images", "pairs", "rows"] | None, arg(metavar="K")] = None
    """only papers whose claims can be put to files of yours: table, images, pairs or rows"""
    rerank: bool = False
    """sort the best by meaning, with a sentence encoder: takes seconds, needs the extra `encoder`"""
    json: bool = False
    """print JSON"""


def main(args: Arguments) -> None:
    query = " ".join(args.words)
    hits = search(query, args.k, minilm if args.rerank else None, args.runs_on)
    if args.json:
        print_json([_plain(hit) for hit in hits])
        keep_facts()
        return
    with page() as console:
        answers = commands(query)
        for command in answers:
            console.print(Text.assemble("a command does this: ", (command, "cyan"), "\n"))
        if not hits and not answers:
            console.print(Text(f"Nothing resembles {query!r}. palimpsest show lists all there is."))
        for hit in hits:
            e = hit.entry
            about = " · ".join((e.family, e.kind, *([str(e.year)] if e.is_paper else [])))
            head = Table.grid(expand=True)
            head.add_column()
            head.add_column(justify="right", no_wrap=True)
            head.add_row(Text.assemble((e.id, "bold"), (f"  {about}", "bright_black")), standing(e))
            console.print(head)
            console.print(Padding(Text(e.title, style="italic"), (0, 0, 0, 2)))
            console.print(Padding(Text(shorten(e.summary, SHORT, placeholder=" …")), (0, 0, 1, 2)))
    keep_facts()


def _plain(hit: Hit) -> dict:
    e = hit.entry
    shown = {name: getattr(e, name) for name in ("id", "family", "kind", "title", "year", "arxiv", "summary")}
    return {**shown, "score": round(hit.score, 4), "counts": (record(e) or {}).get("counts")}
