"""`palimpsest run asl --table mine.csv --target label`: a paper's claim on the user's own data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.text import Text

from palimpsest.benches import yours
from palimpsest.catalogue import entry
from palimpsest.cli.output import page, print_json
from palimpsest.cli.run import KINDS
from palimpsest.errors import UserError
from palimpsest.evidence import load_claim, run_claim
from palimpsest.evidence.report import check_report, write_report
from palimpsest.evidence.terminal import show
from palimpsest.family import files_of
from palimpsest.locks import held
from palimpsest.paths import home


def main(args: Any, papers: Sequence[str]) -> int:
    """Put one claim to the user's files, show the verdict, write the report."""
    if len(papers) != 1:
        raise UserError("one claim at a time is put to your data: name one paper")
    if args.export or args.amend:
        raise UserError("--export and --amend are about our results: a verdict on your data is not one of them")
    kind, files = files_of(KINDS, vars(args))
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers must be at least 1, got {args.workers}")
    yours.check_takes(papers[0], kind, entry(papers[0]).runs_on)  # what it measures may need more than its bench does
    asked = yours.ask(load_claim(papers[0]), kind, steps=args.steps, scale_lr=args.scale_lr or 1.0, **files)
    report = args.report or (home() / "reports" / f"{papers[0]} on {asked.folder.name}.html")
    if args.budget == "full" or args.report:
        report = check_report(report)
    with held(asked.folder / "claim", f"puts a claim to {asked.yours.about}"):
        for note in asked.yours.notes:
            print(f"palimpsest: {note}", file=sys.stderr)
        if args.budget == "full":
            yours.tune(asked, workers=args.workers, progress=not args.json)
        outcome = run_claim(
            asked.claim,
            seeds=args.seeds,
            workers=args.workers,
            ray=args.ray,
            budget=args.budget,
            store=asked.folder / "evidence.sqlite",
            progress=not args.json,
            fresh=args.fresh,
        )
    outcome = replace(outcome, standing="yours", claim=replace(outcome.claim, notes=said(asked)))
    written = write_report(outcome, report) if args.budget == "full" or args.report else None
    if args.json:
        about = {"data": asked.yours.about, "notes": asked.yours.notes, "not asked": asked.left_out}
        print_json({**outcome.to_dict(), "yours": about, "report": written and str(written)})
    else:
        with page(widest=160) as console:
            console.print(Text.assemble((papers[0], "bold"), f" on your data: {asked.yours.about}"))
            show(outcome, console)
            for line in asked.left_out:
                console.print(Text(f"not asked: {line}", style="dim"))
            if written:
                console.print(Text(f"\nreport: {written}"), soft_wrap=True)
    return 1 if outcome.failures else 0


def said(asked: yours.Asked) -> str:
    """What stands in the report beside the verdicts."""
    parts = [
        f"Your verdict on your data ({asked.yours.about}), not a result of the paper's record. The test rows are the"
        " same for every seed; training rows, weights and draws are not: an interval is over those, on these rows."
    ]
    parts += asked.yours.notes
    parts += [f"Not asked: {line}." for line in asked.left_out]
    return " ".join(parts)
