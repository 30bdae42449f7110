"""`palimpsest show simnpo`."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from math import isfinite, nan
from pathlib import Path
from statistics import stdev
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

import palimpsest
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
        role = "given" if verdict["precondition"] else verdict.get("role") or "primary" * (verdict is primary)
        numbers = f"{number(verdict['estimate'])} [{', '.join(map(number, verdict['interval']))}]"
        if "share" in verdict and verdict.get("ceiling"):
            numbers += f", {verdict['share']:.0%} of the room"
        said = Text.assemble(f"{role}: " if role else "", verdict["expectation"], (f"\n{numbers}", "bright_black"))
        for remark in [verdict["note"], *verdict["remarks"]]:
            if remark:
                said.append(f"\n{remark}", style="bright_black italic")
        word = "withdrawn" if verdict["withdrawn"] else verdict["word"]
        table.add_row(Text(word, style=STYLES[word]), said)
    made = f"{_seeds(result)}, {result['time'][:10]}; means with 95% intervals"
    if e.pool:
        made += (
            f"\non these rows: every seed splits the same {e.pool} anew, so that an interval tells how much the "
            "numbers change from split to split, and is too narrow for other rows"
        )
    if digest := next(reversed(_measured(result).get("pools", [])), ""):
        made += (
            f"\nof rows that are made from what is installed, with the digest {digest[:12]}: others are another world"
        )
    warnings = [warning for warning in (result["broken"], altered()) if warning]
    age = [Text(age, style="green" if result["age"] == "verified" else "red")] if (age := age_of(result)) else []
    amended = [f"amended on {a['time'][:10]}: {a['reason']}" for a in result.get("amendments", ())]
    return Group(
        *(Text(warning, style="red") for warning in warnings),
        *age,
        Text(result["question"]),
        *([Text(said, style="bold")] if (said := in_short(result)) else []),
        *([Text(said, style="bright_black")] if (said := left_out(result)) else []),
        Padding(table, (1, 0)),
        Padding(_arms(result), (0, 0, 1, 0)),
        counted(result["counts"], zeros=True),
        Text("\n".join([made, *amended]), style="bright_black"),
        *([Text(f"\n{result['notes']}\n")] if result["notes"] else []),
        rerun,
    )


_LEANS = {"less": "surely less than asked", **{word: f"leans to {word}" for word in ("held", "weak", "refuted")}}


def in_short(result: dict[str, Any]) -> str:
    """What a claim on a bench found, for who has to decide: both arms, floor and ceiling, seeds and cost."""
    central = next((v for v in result["verdicts"] if v.get("role") == "central"), None)
    if central is None:
        return ""
    on, (method, *others) = central["on"], central["arms"]
    means = {arm: mean(metrics[on]) for arm, metrics in result["values"].items() if on in metrics}
    if len(others) > 1 or not {method, *others} <= means.keys():
        return ""
    leans = f" ({_LEANS[central['leaning']]})" if central["leaning"] else ""
    said = f"{central['word']}{leans}: {method} {number(means[method])}"
    said += f" against {others[0]} {number(means[others[0]])}" if others else ""
    said += f" on {on}" + ("" if others else f", {central['kind'].replace('_', ' ')} {number(central['by'])} was asked")
    ends = [f"{arm} {number(means[arm])}" for arm in (central["floor"], central["ceiling"]) if arm in means]
    ends = ["lower is better"] * (central["kind"] == "below") + ends
    said += (f" ({', '.join(ends)})" if ends else "") + f", {_seeds(result)}"
    seconds = [mean(result["values"][arm].get("seconds", [])) for arm in central["arms"]]
    if others and all(second > 0 for second in seconds):
        said += f"; it costs {seconds[0] / seconds[1]:.2g} times the baseline's training"
    if unsettled := [v["expectation"] for v in result["verdicts"] if v["precondition"] and v["word"] != "held"]:
        said += f"; not settled that {', that '.join(unsettled)}"
    return said


def left_out(result: dict[str, Any]) -> str:
    """The best arm of a claim's bench that the claim does not have, where it is better than one of the two that are
    compared: on the pilot seeds that the bench was measured on. Empty where there is none."""
    central = next((v for v in result["verdicts"] if v.get("role") == "central"), None)
    measured = _measured(result)
    if central is None or len(central["arms"]) != 2 or not measured:
        return ""
    sign = -1 if central["kind"] == "below" else 1
    on, (method, baseline) = central["on"], central["arms"]
    means = {arm: mean(row[on]) for arm, row in measured["values"].items() if on in row}
    ours = {arm: mean(result["values"][arm][on]) for arm in (method, baseline)}
    others = {a: m for a, m in means.items() if a not in result["values"] and a != measured["again"] and isfinite(m)}
    best = max(others, key=lambda arm: sign * others[arm], default=None)
    if best is None or sign * others[best] <= min(sign * value for value in ours.values()):
        return ""
    there = f", where {baseline} has {number(means[baseline])}" if baseline in means else ""
    return f"not in it: {best} has {number(others[best])} on pilot seeds{there}: palimpsest bench {measured['bench']}"


def _measured(result: dict[str, Any]) -> dict[str, Any]:
    """What was measured of the bench of a record, as it is filed beside it; empty for a claim without one."""
    arms = result["registration"].get("plan", {}).get("settings", {}).values()
    for name in {arm["bench"] for arm in arms if isinstance(arm, dict) and "bench" in arm}:
        file = Path(palimpsest.__file__).parent / "benches" / "tuned" / name / "bench.json"  # benches load torch
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
    return {}


def _seeds(result: dict[str, Any]) -> str:
    """How many seeds there were; of a claim that is looked at three times, how many there could be."""
    made, promised = len(result["seeds"]), len(result["registration"].get("seeds", result["seeds"]))
    return f"{made} seeds" if made == promised else f"{made} of at most {promised} seeds"


def _arms(result: dict[str, Any]) -> Table:
    """The arms' own values of what the expectations are about."""
    metrics = list(dict.fromkeys(verdict["on"] for verdict in result["verdicts"]))
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("mean ± standard deviation", style="bright_black"), *(Text(m, style="italic") for m in metrics))
    for arm, row in result["values"].items():
        table.add_row(Text(arm), *(Text(_spread(row.get(metric, [])), justify="right") for metric in metrics))
    return table


def _spread(values: list[Any]) -> str:
    known = [float(value) for value in values if value is not None]
    if not known:
        return "–"
    return number(mean(known)) + (f" ± {number(stdev(known))}" if len(known) > 1 and all(map(isfinite, known)) else "")


def mean(values: list[Any]) -> float:
    """The mean of the values that are there; NaN of none."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else nan
