"""What `palimpsest contrast` does once its flags are read: it compares, saves the best, and reports."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from rich.table import Table

from palimpsest.benches.comparison import RULE, Comparison, compare, trained
from palimpsest.benches.verbs import LEARNING_RATE, on, recipes_of, saver
from palimpsest.benches.yours import Yours
from palimpsest.cli.contrast import METHODS
from palimpsest.cli.method_flags import chosen
from palimpsest.cli.model_report import page
from palimpsest.cli.output import number, print_json, print_tables, terminal
from palimpsest.errors import UserError
from palimpsest.evidence.report import check_report
from palimpsest.locks import held
from palimpsest.models.output_folders import check_out, tidy, write_folder, written
from palimpsest.train.ranges import check_fields


def main(args: Any) -> None:
    methods = chosen(args, METHODS)
    check_fields(args)
    kind, yours = on("contrast", **data(args))
    inputs = [path for path in (args.pairs, args.model, args.images) if path]
    out = check_out(args.out, args.force, inputs) if args.out else None
    report = args.report or (out and out.with_name(f"{out.name}.html"))
    html = report and check_report(report, inputs, args.report is not None or args.force)
    if html and out and (html == out or out in html.parents):
        raise UserError(f"--report {html} would be published with the model: choose a place outside {out}")
    for note in yours.notes:
        print(f"palimpsest: {note}", file=sys.stderr)
    recipes = recipes_of(kind, methods, args.steps, args.batch_size)
    comparison = compare(
        yours,
        recipes,
        seeds=args.seeds,
        lr=args.lr or LEARNING_RATE[kind],
        tune=args.tune,
        workers=args.workers,
        progress=not args.json,
    )
    summary = as_json(comparison, yours, methods, args)
    if html:
        with held(html, f"writes {html}"), written(html, page_of(comparison, yours, summary, args)):
            pass
    if out:
        best = comparison.best
        print(f"palimpsest: training {best.name} once more, to save it", file=sys.stderr)
        model = trained(yours, recipes[best.name], best, comparison.seeds)
        with held(out, f"writes {out}"):
            tidy(out)
            extra = {"palimpsest.json": json.dumps(summary, indent=2) + "\n"}
            write_folder(lambda folder: saver(kind)(model, folder), out, args.force, extra)
    if args.json:
        print_json(summary)
        return
    console = terminal()
    print_tables(console, table(comparison))
    for line in notes(comparison):
        console.print(line, soft_wrap=True, markup=False)
    for what, path in (("model", out and args.out), ("report", html)):
        if path:
            console.print(f"{what}: {path}", soft_wrap=True, markup=False)


def data(args: Any) -> dict[str, Any]:
    """What the data is.

    Raises:
        UserError: no data or two kinds, or a flag of the other kind.
    """
    if (args.pairs is None) == (args.images is None):
        raise UserError("give --pairs FILE with --model ENCODER, or --images FOLDER")
    if args.pairs:
        if args.model is None:
            raise UserError("--pairs needs --model: the folder of the sentence-transformers encoder that they train")
        if args.size or args.no_flip:
            raise UserError("--size and --no-flip are about --images")
        return {"pairs": args.pairs, "model": args.model}
    if args.model:
        raise UserError("--model is the encoder of --pairs; --images train a network of their own")
    return {"images": args.images, "size": args.size, "flip": not args.no_flip}


def as_json(comparison: Comparison, yours: Yours, methods: dict[str, Any], args: Any) -> dict[str, Any]:
    """Everything that the command found."""
    first = comparison.measures[0]
    lines = {}
    for line in comparison.lines:
        measured = {
            name: list(line.values[name]) for name in (*comparison.measures, "validation") if line.values.get(name)
        }
        gain = comparison.gain(line, comparison.lines[1], first)
        lines[line.name] = {
            "values": measured,
            "lr": line.lr,
            **({"error": line.error} if line.error else {}),
            **({f"gain in {first} over {comparison.lines[1].name}": gain} if line is not comparison.lines[1] else {}),
        }
    return {
        "data": yours.about,
        "notes": list(yours.notes),
        "seeds": list(comparison.seeds),
        "methods": {name: asdict(method) for name, method in methods.items()},
        "settings": {name: getattr(args, name) for name in ("steps", "batch_size", "tune", "size", "no_flip")},
        "lines": lines,
        "tried": {name: [list(pair) for pair in tried] for name, tried in comparison.ledger.items()},
        "best": comparison.best.name,
        "rule": RULE,
    }


def rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """A line of cells for each arm."""
    first, base = comparison.measures[0], comparison.lines[1]
    found = []
    for line in comparison.lines:
        cells = [spread(line.mean(name), line.half(name)) for name in comparison.measures]
        gain = "" if line is base else spread(*comparison.gain(line, base, first), signed=True)
        found.append(
            (line.name, [*cells, gain, number(line.mean("seconds")), "" if line.lr is None else f"{line.lr:g}"])
        )
    return found


def columns(comparison: Comparison) -> list[str]:
    return [*comparison.measures, f"over {comparison.lines[1].name}", "seconds", "lr"]


def table(comparison: Comparison) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    shown.add_column("", no_wrap=True)
    for name in columns(comparison):
        shown.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    for name, cells in rows(comparison):
        shown.add_row(name, *cells)
    return shown


def spread(mean: float, half: float, signed: bool = False) -> str:
    """A mean, and half of its interval where there is one.

    >>> spread(0.5, 0.01), spread(0.02, 0.03, signed=True), spread(0.5, float("nan"))
    ('0.500 ± 0.010', '+0.020 ± 0.030', '0.500')
    """
    if mean != mean:
        return "–"
    sign = "+" if signed and mean >= 0 else ""
    said = f"{sign}{mean:.3f}".replace("-", "−")
    return said if half != half else f"{said} ± {half:.3f}"


def notes(comparison: Comparison) -> list[str]:
    """How the table is read."""
    best = comparison.best
    n = len(comparison.seeds)
    over = f"means of {n} seeds ± half of their 95% interval" if n > 1 else "one seed: nothing is known of the spread"
    found = [f"{over}; test rows are the same for all seeds", f"best: {best.name} ({RULE})"]
    found += [f"{line.name}: {line.error}" for line in comparison.lines if line.error]
    for name, tried in comparison.ledger.items():
        rates = [rate for rate, _ in tried]
        chosen = next(line.lr for line in comparison.lines if line.name == name)
        if chosen in (min(rates), max(rates)):
            found.append(f"{name}: its best rate {chosen:g} is at the edge of those tried: move --lr there")
    return found


def page_of(comparison: Comparison, yours: Yours, summary: dict[str, Any], args: Any) -> str:
    """The report."""
    return page(
        title=f"contrastive losses on {yours.about}",
        lead=f"{comparison.best.name} is best by {RULE}.",
        table=rows(comparison),
        columns=columns(comparison),
        figures={},
        rows=[],
        notes=[*notes(comparison), *yours.notes],
        settings={**summary["settings"], **summary["methods"]},
    )
