"""`palimpsest show simnpo`."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from palimpsest.catalogue import Entry, age_of, entries, entry, record, tiers
from palimpsest.cli.output import STYLES, counted, number, page, print_json, standing
from palimpsest.evidence.chain import altered
from palimpsest.evidence.source import keep_facts


@dataclass(frozen=True)
class Arguments:
    """What a method is, how to import it, and what the evidence says.

    Without a name: everything that the catalogue holds.
    """

    name: Positional[tuple[str, ...]]
    """a paper or a baseline: simnpo, gradient ascent"""
    json: bool = False
    """print JSON"""


def main(args: Arguments) -> None:
    try:
        _show(args)
    finally:
        keep_facts()


def _show(args: Arguments) -> None:
    if not args.name:
        _show_all(entries(), args.json)
        return
    e = entry(" ".join(args.name))
    result = record(e) if e.is_paper else None
    if args.json:
        modules = {"module": e.module, "claim": e.claim} if e.is_paper else {}
        print_json({**asdict(e), **modules, "record": result})
        return
    with page() as console:
        _show_head(console, e)
        sections = {
            "Good for": _bullets(e.solves),
            "Use it": _use(e),
            "Evidence": _evidence(e, result),
            "Tiers of evidence": _tiers(e, result),
            "Limits": _bullets(e.limits),
            "Builds on": Text(", ".join(e.uses)),
        }
        for title, body in sections.items():
            if body:
                console.print(Padding(Text(title, style="bold"), (1, 0, 0, 0)))
                console.print(Padding(body, (0, 0, 0, 2)))


def _show_all(shelf: Iterable[Entry], json: bool) -> None:
    if json:
        print_json([{name: getattr(e, name) for name in ("id", "family", "kind", "title")} for e in shelf])
        return
    with page() as console:
        for family, members in groupby(shelf, key=lambda e: e.family):
            console.print(Text(family, style="bold"))
            table = Table.grid(padding=(0, 2), expand=True)
            table.add_column(no_wrap=True, min_width=18)
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
            table.add_column(no_wrap=True)
            for e in members:
                last = standing(e) if e.is_paper else Text(e.kind, style="bright_black")
                table.add_row(Text(f"  {e.id}"), Text(e.title, no_wrap=True, overflow="ellipsis"), last)
            console.print(table)


def _show_head(console: Console, e: Entry) -> None:
    console.print(Text.assemble((e.id, "bold"), (f"  {e.family} · {e.kind}", "bright_black")))
    console.print(Text(e.title, style="italic"))
    if e.authors:
        console.print(Text(f"{', '.join(e.authors)}, {e.year}"))
    links = [f"https://arxiv.org/abs/{e.arxiv}"] if e.arxiv else []
    links += [f"https://github.com/{e.code}"] if e.code else []
    console.print(Text("\n".join(links), style="bright_black"))
    console.print(Text(f"\n{e.summary}"))


def _bullets(lines: Iterable[str]) -> Table:
    table = Table.grid(padding=(0, 1))
    for line in lines:
        table.add_row("·", Text(line))
    return table


def _use(e: Entry) -> RenderableType:
    code = "\n".join(e.imports) + f"\n\n{e.example.strip()}"
    python = Syntax(code, "python", theme="ansi_dark", background_color="default")
    return Group(python, Text(f"\n{e.command}", style="cyan")) if e.command else python


def _tiers(e: Entry, result: dict[str, Any] | None) -> Table | None:
    if not e.is_paper:
        return None
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for tier, said in tiers(e, result).items():
        table.add_row(Text(tier, style="italic"), Text(said))
    return table


def _evidence(e: Entry, result: dict[str, Any] | None) -> RenderableType | None:
    if not e.is_paper:
        return Text(f"An arm in the claims of {', '.join(e.arm_of)}.") if e.arm_of else None
    rerun = Text(f"palimpsest run {e.id}", style="cyan")
    if result is None:
        return Text.assemble("Not measured yet: ", rerun)
    table = Table.grid(padding=(0, 2))
    primary = next(verdict for verdict in result["verdicts"] if not verdict["precondition"])
    for verdict in result["verdicts"]:
        given = "given: " if verdict["precondition"] else ""
        mark = " (primary)" if verdict is primary else ""
        numbers = f"{number(verdict['estimate'])} [{', '.join(map(number, verdict['interval']))}]"
        said = Text.assemble(given, verdict["expectation"], mark, (f"\n{numbers}", "bright_black"))
        for remark in [verdict["note"], *verdict["remarks"]]:
            if remark:
                said.append(f"\n{remark}", style="bright_black italic")
        word = "withdrawn" if verdict["withdrawn"] else verdict["word"]
        table.add_row(Text(word, style=STYLES[word]), said)
    made = f"{len(result['seeds'])} seeds, {result['time'][:10]}; means with 95% intervals"
    if e.pool:
        made += (
            f"\non these rows: every seed splits the same {e.pool} anew, so that an interval tells how much the "
            "numbers change from split to split, and is too narrow for other rows"
        )
    warnings = [warning for warning in (result["broken"], altered()) if warning]
    age = [Text(age, style="green" if result["age"] == "verified" else "red")] if (age := age_of(result)) else []
    amended = [f"amended on {a['time'][:10]}: {a['reason']}" for a in result.get("amendments", ())]
    return Group(
        *(Text(warning, style="red") for warning in warnings),
        *age,
        Text(result["question"]),
        Padding(table, (1, 0)),
        counted(result["counts"], zeros=True),
        Text("\n".join([made, *amended]), style="bright_black"),
        *([Text(f"\n{result['notes']}\n")] if result["notes"] else []),
        rerun,
    )
