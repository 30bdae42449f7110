"""`palimpsest run simnpo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from palimpsest.cli.output import counted, print_json, terminal
from palimpsest.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Put the claims of papers to the test: every arm on every seed, the verdicts, and a report.

    Finished jobs are kept at once: an interrupted run goes on where it stopped.
    """

    names: Positional[tuple[str, ...]]
    """papers, such as npo simnpo"""
    seeds: int | None = None
    """run the first so many of the verdict's seeds; by default all five"""
    workers: int | None = None
    """processes, of one thread each; by default one for every processor"""
    ray: bool = False
    """run on the Ray cluster that this machine belongs to, or on a local one"""
    budget: Literal["full", "smoke"] = "full"
    """smoke runs a few steps on one seed, to see that everything works"""
    family: str | None = None
    """all claims of a family"""
    all: bool = False
    """all claims"""
    report: Path | None = None
    """where to write the HTML report of a single claim"""
    export: bool = False
    """write the results of record into the checkout's results/"""
    amend: str = ""
    """the reason why a claim differs from its registration"""
    fresh: bool = False
    """run everything again, also what is stored"""
    json: bool = False
    """print JSON"""


def main(args: Arguments) -> int:
    names = chosen(args)
    from palimpsest.evidence import export, run_claim
    from palimpsest.evidence.terminal import show

    console = terminal()
    outcomes = []
    for name in names:
        outcome = run_claim(
            name,
            seeds=args.seeds,
            workers=args.workers,
            ray=args.ray,
            budget=args.budget,
            report=args.report or True,
            amend=args.amend,
            fresh=args.fresh,
        )
        outcomes.append(outcome)
        if not args.json:
            show(outcome, console)
            console.print(f"report: {outcome.report}", soft_wrap=True, markup=False)
        if args.export:
            path = export(outcome)
            if not args.json:
                console.print(f"results of record: {path}", soft_wrap=True, markup=False)
    if args.json:
        shown = [{**outcome.to_dict(), "report": str(outcome.report)} for outcome in outcomes]
        print_json(shown[0] if len(args.names) == 1 else shown)
    elif len(outcomes) > 1:
        summary = Table.grid(padding=(0, 2))
        for outcome in outcomes:
            summary.add_row(Text(outcome.claim.paper, style="bold"), counted(outcome.counts), Text(outcome.standing))
        console.print(summary)
    return 1 if any(outcome.failures for outcome in outcomes) else 0


def chosen(args: Arguments) -> list[str]:
    """The papers that are asked for.

    Raises:
        UserError: for none, for names together with a family, or for one report of several claims.
    """
    from palimpsest.evidence import claim_names

    if bool(args.names) + bool(args.family) + args.all != 1:
        raise UserError("say what to run: names of papers, or --family NAME, or --all (palimpsest show lists them)")
    names = list(dict.fromkeys(args.names)) or claim_names(args.family)
    if len(names) > 1 and (args.report or args.amend):
        raise UserError("--report and --amend are about one claim: run them one by one")
    return names
