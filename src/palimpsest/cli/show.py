"""`palimpsest show simnpo`."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from palimpsest.catalogue import Entry, entries, entry, record
from palimpsest.cli.output import WORDS, counted, number, print_json, terminal


@dataclass(frozen=True)
class Arguments:
    """What a method is, how to import it, and what the evidence says.

    Without a name: everything that the catalogue holds.
    """

    name: Positional[tuple[str, ...]]
    """a paper or a baseline, such as simnpo or "gradient ascent" """
    json: bool = False
    """print JSON"""


def main(args: Arguments) -> None:
    if not args.name:
        _list(entries(), args.json)
        return
    found = entry(" ".join(args.name))
    result = record(found) if found.is_paper else None
    if args.json:
        modules = {"module": found.module, "claim": found.claim} if found.is_paper else {}
        print_json({**asdict(found), **modules, "record": result})
        return
    console = terminal()
    _head(console, found)
    _section(console, "For", _bullets(found.solves))
    _section(
        console,
        "Use it",
        Syntax("\n".join((*found.imports, found.example.rstrip())), "python", background_color="default"),
    )
    if found.is_paper:
        _section(console, "Evidence", _evidence(found, result))
    elif found.arm_of:
        _section(console, "Evidence", Text(f"An arm in the claims of {', '.join(found.arm_of)}."))
    _section(console, "Limits", _bullets(found.limits))
    if found.uses:
        _section(console, "Builds on", Text(", ".join(found.uses)))


def _list(all_entries: Iterable[Entry], json: bool) -> None:
    if json:
        print_json([{"id": e.id, "family": e.family, "kind": e.kind, "title": e.title} for e in all_entries])
        return
    table = Table.grid(padding=(0, 2))
    family = None
    for e in all_entries:
        if e.family != family:
            if family:
                table.add_row()
            table.add_row(Text(e.family, style="bold"))
            family = e.family
        title = e.title if e.is_paper else f"{e.title} (baseline)"
        table.add_row(Text("  " + e.id), Text(title, overflow="ellipsis", no_wrap=True), _counts(e))
    terminal().print(table)


def _counts(e: Entry) -> Text:
    return counted((record(e) or {}).get("counts")) if e.is_paper else Text()


def _head(console: Console, e: Entry) -> None:
    console.print(Text.assemble((e.id, "bold"), (f"  {e.family} · {e.kind}", "bright_black")))
    console.print(Text(e.title, style="italic"))
    if e.authors:
        console.print(Text(f"{', '.join(e.authors)}, {e.year}"))
    links = [f"arxiv.org/abs/{e.arxiv}"] if e.arxiv else []
    links += [f"github.com/{e.code}"] if e.code else []
    if links:
        console.print(Text(" · ".join(links), style="bright_black"))
    console.print(Padding(Text(e.summary), (1, 0, 0, 0)))


def _section(console: Console, title: str, body: RenderableType) -> None:
    console.print(Padding(Text(title, style="bold"), (1, 0, 0, 0)))
    console.print(Padding(body, (0, 0, 0, 2)))


def _bullets(lines: Iterable[str]) -> Table:
    table = Table.grid(padding=(0, 1))
    for line in lines:
        table.add_row("·", Text(line))
    return table


def _evidence(e: Entry, result: dict[str, Any] | None) -> RenderableType:
    rerun = Text(f"palimpsest run {e.id}", style="cyan")
    if result is None:
        return Text.assemble("Not measured yet: ", rerun)
    table = Table.grid(padding=(0, 2))
    for verdict in result["verdicts"]:
        given = "given: " if verdict["precondition"] else ""
        sentence = Text(given + verdict["expectation"])
        sentence.append(f"\n{_numbers(verdict)}", style="bright_black")
        table.add_row(Text(verdict["word"], style=WORDS[verdict["word"]]), sentence)
    return Group(
        Text(result["question"]),
        Padding(table, (1, 0)),
        Text.assemble(
            counted(result["counts"]), f"  on {len(result['seeds'])} seeds, {result['time'][:10]}; again: ", rerun
        ),
    )


def _numbers(verdict: dict[str, Any]) -> str:
    """The number that the sentence is about, its interval and any remark."""
    what = "difference" if len(verdict["arms"]) == 2 else "mean" if len(verdict["arms"]) == 1 else "rise"
    low, high = map(number, verdict["interval"])
    told = f"{what} {number(verdict['estimate'])}, 95% interval {low} to {high}"
    return "; ".join(part for part in (told, verdict["note"]) if part)
