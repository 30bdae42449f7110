"""`palimpsest run simnpo`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from palimpsest.catalogue import age_of, entries, entry, record, record_file
from palimpsest.catalogue.index import write_index
from palimpsest.cli.output import counted, page, print_json
from palimpsest.errors import UserError
from palimpsest.family import Kind
from palimpsest.paths import home
from palimpsest.record_files import marked, read, write
from palimpsest.train.ranges import Above, AtLeast, check_fields

KINDS = {
    "table": Kind(needs={"target": "the column that is predicted"}, takes=("group", "time", "each")),
    "images": Kind(takes=("size", "each")),
    "pairs": Kind(needs={"model": "the encoder that they train"}),
    "rows": Kind(
        needs={"retain": "the rows to keep", "model": "the language model that knows them"},
        takes=("retrain", "retrain_epochs", "retrain_lr"),
    ),
}
OPTIONS = [option for kind in KINDS.values() for option in (*kind.needs, *kind.takes)]
ON_YOURS = dict.fromkeys([*KINDS, *OPTIONS, "steps", "scale_lr"])


@dataclass(frozen=True)
class Arguments:
    """Put a paper's claim to the test: every arm on every seed, verdicts, a report.

    Finished jobs are kept: an interrupted run goes on when it is called again.
    """

    names: Positional[tuple[str, ...]]
    """papers whose claims to run"""
    family: str | None = None
    """all claims of a family, such as forget"""
    all: bool = False
    """all claims there are"""
    seeds: int | None = None
    """how many seeds; with others than all of a claim's own, or a look's (5, 10, 20), verdicts are preliminary"""
    workers: int | None = None
    """processes at the same time; one for every processor unless told otherwise"""
    ray: bool = False
    """run on a Ray cluster (that of RAY_ADDRESS, or one started here); needs the extra `ray`"""
    budget: Literal["full", "smoke"] = "full"
    """smoke: a few steps on one seed, only to see that it runs"""
    fresh: bool = False
    """run again what is stored already"""
    report: Path | None = None
    """where to write the HTML report: a file, or a folder, as several claims need"""
    export: bool = False
    """write the results of record to results/<family>/<paper>.json"""
    verify: bool = False
    """run one seed of every arm again and compare it with the results of record, which are then marked"""
    amend: str = ""
    """why the claim was changed since it was registered: enters the ledger"""
    table: Path | None = None
    """put the claim to your own table (CSV, Parquet or JSON lines), with --target; the verdict is yours"""
    target: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """the column of --table that is predicted; several times for several labels"""
    group: str | None = None
    """a column of --table whose rows of one value stay in one part, such as a patient"""
    time: str | None = None
    """a column of --table that tells when: the latest rows are tested on"""
    images: Path | None = None
    """put the claim to your own images, in a folder for each class; the verdict is yours"""
    size: int | None = None
    """pixels that the sides of --images are brought to; about their own, and at most 64, unless told otherwise"""
    each: Annotated[int | None, AtLeast(1)] = None
    """classes of a task of --table or --images, for a claim on classes that arrive in groups; 2 unless you say"""
    pairs: Path | None = None
    """put the claim to your own pairs of texts (JSON lines), with --model; the verdict is yours"""
    rows: Path | None = None
    """put a claim on forgetting to your own --model and JSON lines to forget, with --retain; the verdict is yours"""
    retain: Path | None = None
    """JSON lines to keep, for --rows"""
    model: Path | None = None
    """folder of the sentence-transformers encoder that --pairs train, or of the language model that knows the --rows"""
    retrain: Path | None = None
    """folder of the model from before it learned the --rows: trained on --retain, once, it is the ceiling"""
    retrain_epochs: Annotated[float | None, Above(0)] = None
    """passes over --retain that --retrain takes; 5 unless told otherwise"""
    retrain_lr: Annotated[float | None, Above(0)] = None
    """learning rate of --retrain; 1e-5 unless told otherwise, and up to 1e-3 for very small models"""
    steps: Annotated[int | None, AtLeast(1)] = None
    """steps of every training on your data, in place of the claim's"""
    scale_lr: Annotated[float | None, Above(0)] = None
    """times which learning rates are taken on your data: those of our small models are too high for pretrained ones"""
    json: bool = False
    """print JSON"""


def main(args: Arguments) -> int:
    check_fields(args)
    papers = chosen(args)
    several = len(papers) > 1 or args.all or args.family is not None
    if several and args.report and args.report.is_file():
        raise UserError(f"--report {args.report} is a file: several claims need a folder")

    if args.verify:
        return _verify(args, papers, several)
    if any(getattr(args, name) for name in ON_YOURS):
        from palimpsest.cli import running_yours  # late: torch takes seconds, help must not

        return running_yours.main(args, papers)

    from palimpsest.evidence import export, load_claim, run_claim
    from palimpsest.evidence.registration import is_of_record
    from palimpsest.evidence.report import check_report, write_report
    from palimpsest.evidence.terminal import show

    outcomes, reports, errors = [], [], {}
    for paper in papers:
        try:
            if broken := (record(entry(paper)) or {}).get("broken"):
                print(f"palimpsest: {broken}", file=sys.stderr)
            if args.export and args.seeds is not None:
                claim = load_claim(paper)
                if not is_of_record(claim, claim.seeds[: args.seeds]):
                    raise UserError(f"--export writes results of record, which {paper} has on all its seeds only")
            if args.budget == "full" and (elsewhere := load_claim(paper).other_world):
                if args.export:
                    raise UserError(elsewhere)
                print(f"palimpsest: {elsewhere}", file=sys.stderr)
            if report := _report(args, paper, several):
                report = check_report(report)
            outcome = run_claim(
                paper,
                seeds=args.seeds,
                workers=args.workers,
                ray=args.ray,
                budget=args.budget,
                amend=args.amend,
                fresh=args.fresh,
            )
            outcomes.append(outcome)
            reports.append(report and write_report(outcome, report))
            exported = export(outcome) if args.export else None
        except UserError as error:  # of one claim: the others can still be run
            if not several:
                raise
            errors[paper] = str(error)
            print(f"palimpsest: {paper}: {error}", file=sys.stderr)
            continue
        if not args.json:
            with page(widest=160) as console:
                console.print(Text(paper, style="bold"))
                show(outcome, console)
                for what, path in (("report", report), ("exported", exported)):
                    if path:
                        console.print(Text(f"\n{what}: {path}"), soft_wrap=True)
                console.print()
    if args.export:
        write_index()
    if args.json:
        pairs = zip(outcomes, reports, strict=True)
        results = [{**outcome.to_dict(), "report": report and str(report)} for outcome, report in pairs]
        print_json(results if several else results[0])
    elif several:
        with page(widest=160) as console:
            console.print(_summary(outcomes, errors))
    return 2 if errors else 1 if any(outcome.failures for outcome in outcomes) else 0


def chosen(args: Arguments) -> list[str]:
    """The papers that are asked for, and a word with the user where they or the flags make no sense."""
    papers = [e for e in entries() if e.is_paper]
    families = list(dict.fromkeys(e.family for e in papers))
    if bool(args.names) + (args.family is not None) + args.all != 1:
        raise UserError("which claims? Give names of papers, or --family FAMILY, or --all")
    if args.family is not None and args.family not in families:
        raise UserError(f"no family {args.family!r}: there are {', '.join(families)}")
    named = [entry(name) for name in args.names] or [e for e in papers if args.family in (None, e.family)]
    for e in named:
        if not e.is_paper:
            measured = f": it is an arm in the claims of {', '.join(e.arm_of)}" if e.arm_of else ""
            raise UserError(f"{e.id} is a baseline and has no claim of its own{measured}")
    if args.export and (args.seeds not in (None, 5, 10, 20) or args.budget == "smoke"):
        raise UserError("--export writes results of record: leave out --seeds, but for a look's, and --budget smoke")
    yours = any(getattr(args, name) for name in ON_YOURS)
    others = yours or args.export or args.amend or args.fresh or args.ray or args.report or args.seeds is not None
    if args.verify and (others or args.budget == "smoke"):
        raise UserError(
            "--verify runs one seed of every arm and compares: leave out all flags but --workers and --json"
        )
    if args.amend and (len(named) > 1 or args.budget == "smoke"):
        raise UserError("--amend is about the full run of one claim: name it, without --budget smoke")
    return list(dict.fromkeys(e.id for e in named))


def _report(args: Arguments, paper: str, several: bool) -> Path | None:
    """Where the report goes: by default to the user's own folder, and nowhere after a smoke run."""
    if args.report is None:
        return home() / "reports" / f"{paper}.html" if args.budget == "full" else None
    return args.report / f"{paper}.html" if several or args.report.is_dir() else args.report


def _verify(args: Arguments, papers: Sequence[str], several: bool) -> int:
    """Run one seed of every arm of the papers again, say what differs, and mark the records."""
    from palimpsest.evidence.verification import made_anew

    with made_anew():  # once for all papers: many share a world
        reruns, errors = _reruns(args, papers, several)
    if reruns:
        write_index()
    if args.json:
        results = [asdict(rerun) for rerun in reruns]
        print_json(results if several else results[0])
    return 2 if errors else 1 if any(rerun.differences for rerun in reruns) else 0


def _reruns(args: Arguments, papers: Sequence[str], several: bool) -> tuple[list, dict[str, str]]:
    """What came of each paper, and what kept others from being verified. A record is marked as soon as it is done."""
    from palimpsest.evidence import load_claim, verify

    reruns, errors = [], {}
    for paper in papers:
        file = record_file(entry(paper))
        try:
            if not (found := record(entry(paper))):
                raise UserError(f"there is nothing on record to verify: palimpsest run {paper} --export")
            if found["broken"]:
                raise UserError(found["broken"])
            rerun = verify(load_claim(paper), found, workers=args.workers, progress=not args.json)
        except UserError as error:  # of one claim: the others can still be verified
            if not several:
                raise
            errors[paper] = str(error)
            print(f"palimpsest: {paper}: {error}", file=sys.stderr)
            continue
        reruns.append(rerun)
        write(file, marked(read(file), rerun=rerun.mark()))
        if not args.json:
            with page() as console:
                console.print(Text.assemble((paper, "bold"), f"  {age_of(record(entry(paper)))}"))
                for failure in rerun.failures:
                    console.print(Text(f"  failed: {failure}", style="red"))
                for d in rerun.differences:
                    again = "nothing" if d.again is None else f"{d.again:.7g}"
                    far = f" ({d.spreads:.1f} standard deviations of the seeds)" if isfinite(d.spreads) else ""
                    console.print(Text(f"  {d.arm} · {d.metric}: {d.recorded:.7g} on record, {again} now{far}"))
    return reruns, errors


def _summary(outcomes: Sequence, errors: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 1))
    for outcome in outcomes:
        about = Text(f"{outcome.standing}, {outcome.seconds:.0f} s", style="bright_black")
        failed = Text(f"{len(outcome.failures)} jobs failed" if outcome.failures else "", style="red")
        table.add_row(Text(outcome.claim.paper), counted(outcome.counts, zeros=True), about, failed)
    for paper in errors:
        table.add_row(Text(paper), Text("not run", style="red"), Text(errors[paper], style="bright_black"))
    return table
