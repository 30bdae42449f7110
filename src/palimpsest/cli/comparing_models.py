"""What `palimpsest compare` does once its flags are read: it compares, shows, reports, and fails as it was told."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from palimpsest.audit.fail_conditions import parse
from palimpsest.audit.item_by_item import Change
from palimpsest.benches.model_answers import Manner
from palimpsest.benches.two_models import TwoModels, check_kinds, compare_models
from palimpsest.cli.output import number, print_json, print_tables, terminal
from palimpsest.errors import UserError
from palimpsest.evidence.figures import ARMS, FAINT, MUTED, STYLE, canvas, svg
from palimpsest.evidence.report import check_report, pages
from palimpsest.models.output_folders import written

STYLES = {"better": "green", "worse": "red", "equal": "cyan", "open": "yellow"}
SHOWN = 200  # items in a report


def main(args: Any) -> int:
    if args.batch_size < 1 or args.show < 0:
        raise UserError("--batch-size must be at least 1, and --show at least 0")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: it must be from 0 to below 2^32, which is what random generators take")
    conditions = [parse(text) for text in args.fail_if]
    data = {name: getattr(args, name) for name in ("rows", "table", "images", "pairs", "text")}
    check_kinds(args.before, args.after, data)
    html = None
    if args.report:
        html = check_report(args.report, [args.before, args.after, *filter(None, data.values())])
    found = compare_models(
        args.before,
        args.after,
        **data,
        id=args.id,
        target=args.target,
        measures=args.measure,
        lower=args.lower,
        margins=margins(args.margin),
        manner=manner(args),
        seed=args.seed,
        progress=lambda text: print(f"palimpsest: {text}", file=sys.stderr, flush=True),
    )
    failed = found.failed(conditions)
    if html:
        with written(html, report(found, failed, args)):
            pass
    if args.json:
        print_json({**found.as_json(), "failed": failed})
        return 1 if failed else 0
    console = terminal()
    print_tables(console, table(found))
    for line in told(found):
        console.print(line, soft_wrap=True, markup=False)
    for item in worst(found, args.show):
        console.print(item, soft_wrap=True, markup=False)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, style="bright_black")
    if html:
        console.print(f"report: {args.report}", soft_wrap=True, markup=False)
    for line in failed:
        console.print(Text.assemble(("failed: ", "bold red"), line), soft_wrap=True)
    return 1 if failed else 0


def margins(given: Sequence[str]) -> float | dict[str, float] | None:
    """The margins by measure, or one for all.

    >>> margins(["0.01"]), margins(["accuracy=0.01", "loss = 0.1"])
    (0.01, {'accuracy': 0.01, 'loss': 0.1})
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            margin = float(value)
        except ValueError:
            raise UserError(f"--margin {text!r}: write 0.01, or MEASURE=0.01") from None
        if not 0 < margin < float("inf"):
            raise UserError(f"--margin {text!r}: it must be above 0")
        found[name.strip()] = margin
    if "" in found and len(found) > 1:
        raise UserError("--margin: give one for all measures, or one for each by name")
    return found.get("", found) or None


def manner(args: Any) -> Manner:
    """How language models are asked."""
    options = {}
    if args.template_kwargs is not None:
        try:
            options = json.loads(args.template_kwargs)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--template-kwargs is not valid JSON ({error})") from None
        if not isinstance(options, dict):
            raise UserError(f"--template-kwargs must be a JSON object, got {args.template_kwargs}")
    end = {"yes": True, "no": False}.get(args.end_token)
    return Manner(args.system, options, end, args.batch_size)


def span(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"[{number(low)}, {number(high)}]"


def probability(p: float | None) -> str:
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def cells(found: TwoModels, each: Change) -> list[str]:
    """A line of the table."""
    p = found.adjusted.get(each.measure)
    seen = "–" if each.seen is None else number(each.seen)
    change = f"{'+' if each.difference > 0 else ''}{number(each.difference)}"
    row = [number(each.before), number(each.after), change, span(each.low, each.high), probability(p)]
    if any(other.margin is not None for other in found.changes):
        row.append(probability(each.p_equal))
    return [*row, seen, str(each.items), each.word]


def columns(found: TwoModels) -> list[str]:
    equal = ["p equal"] if any(each.margin is not None for each in found.changes) else []
    return ["before", "after", "change", "95% interval", "p", *equal, "could see", "items", ""]


def table(found: TwoModels) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("", no_wrap=True)
    for column in columns(found):
        shown.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for each in found.changes:
        *row, word = cells(found, each)
        shown.add_row(each.measure, *row, Text(word, style=STYLES[word.partition(",")[0]]))
    return shown


def told(found: TwoModels) -> list[str]:
    """What stands below the table."""
    lines = []
    if flips := found.flips:
        change = found[flips.measure]
        bounds = f"95% interval {span(flips.low, flips.high)}"
        if change.binary:
            lines.append(
                f"flips in {flips.measure}: {change.worse} of {change.items} items were right and are wrong"
                f" ({flips.worse:.1%}, {bounds}), {change.better} the other way"
            )
        else:
            lines.append(
                f"{flips.measure}: worse in {change.worse} of {change.items} items ({flips.worse:.1%}, {bounds}),"
                f" better in {change.better}"
            )
        if flips.answers is not None:
            lines.append(f"answers changed: {flips.answers:.1%} of the items")
    if each := found.calibration:
        lines.append(
            f"calibration error: {number(each.before)} before, {number(each.after)} after,"
            f" change {number(each.difference)} {span(each.low, each.high)}"
        )
    if each := found.drift:
        lines.append(
            f"drift: KL(before || after) {number(each.after)} nats a token {span(each.low, each.high)},"
            f" {each.items} windows of text"
        )
    return lines


def worst(found: TwoModels, most: int) -> list[str]:
    """The items that got worse, the worst first."""
    if not found.flips or not most:
        return []
    sign = 1 if found[found.flips.measure].higher_is_better else -1
    items = [item for item in found.flips.items if sign * (item["after"] - item["before"]) < 0]
    lines = [f"worse: {one(item)}" for item in items[:most]]
    return [*lines, f"and {len(items) - most} more (--show, --json)"] if len(items) > most else lines


def one(item: Mapping[str, Any]) -> str:
    asked = f" {short(item['asked'])!r}" if item.get("asked") else ""
    said = ""
    if "said_before" in item and item["said_before"] != item["said_after"]:
        said = f": {short(item['said_before'])!r}, then {short(item['said_after'])!r}"
    return f"{item['id']}{asked} {number(item['before'])} → {number(item['after'])}{said}"


def short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


@mpl.rc_context(STYLE)
def interval_figure(changes: Sequence[Change]) -> Figure:
    """Each measure's difference and interval, on an axis of its own: their units differ."""
    figure, axes = canvas(0.5 + 0.62 * len(changes))
    axes.remove()
    for place, (each, panel) in enumerate(
        zip(changes, figure.subplots(len(changes), 1, squeeze=False)[:, 0], strict=True)
    ):
        colour = ARMS[place % len(ARMS)]
        if each.margin is not None:
            panel.axvspan(-each.margin, each.margin, color=FAINT, alpha=0.5, linewidth=0)
        panel.axvline(0, color=MUTED, linewidth=0.8)
        if each.low is not None:
            panel.plot([each.low, each.high], [0, 0], color=colour, linewidth=3, solid_capstyle="round")
        panel.plot([each.difference], [0], "o", color=colour, markersize=6)
        reach = max(abs(value) for value in (each.low or 0, each.high or 0, each.difference, each.margin or 0, 1e-9))
        panel.set(xlim=(-1.15 * reach, 1.15 * reach), ylim=(-1, 1), yticks=[])
        panel.set_ylabel(each.measure, rotation=0, ha="right", va="center", parse_math=False)
        panel.tick_params(labelcolor=MUTED, length=0)
    return figure


def report(found: TwoModels, failed: Sequence[str], args: Any) -> str:
    """The page; all that comes from files and models is escaped."""
    main = found.changes[0]
    name = Path(args.after).name or str(args.after)
    values = f"{number(main.before)} before, {number(main.after)} after"
    lead = {
        "better": f"{main.measure} is surely better: {values}.",
        "worse": f"{main.measure} is surely worse: {values}.",
        "equal": f"{main.measure} is equal within {number(main.margin or 0)}.",
        "open": f"Whether {main.measure} changed cannot be said: {values}.",
    }[main.word.partition(",")[0]]
    items = list(found.flips.items) if found.flips else []
    return (
        pages()
        .get_template("two_models.html")
        .render(
            title=f"{name} after {Path(args.before).name}",
            lead=lead,
            failed=failed,
            columns=columns(found),
            table=[(each.measure, cells(found, each)) for each in found.changes],
            told=told(found),
            figure=Markup(svg(interval_figure(found.changes), "d")),
            items=items[:SHOWN],
            measure=found.flips.measure if found.flips else "",
            left_out=max(0, len(items) - SHOWN),
            notes=found.notes,
            settings={
                "before": str(args.before),
                "after": str(args.after),
                "kind": found.kind,
                "items": found.items,
                "matched by": found.matched,
                "seed of the bootstrap": args.seed,
                "fails if": "; ".join(args.fail_if) or "nothing was asked",
            },
        )
    )
