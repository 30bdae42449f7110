"""What every family's command does once its flags are read: it asks where results may go, has the work done, saves the
best and writes the report, so that neither is seen without the other, and shows the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from importlib import import_module
from typing import Any

from rich.table import Table

from palimpsest.cli.family_command import chosen
from palimpsest.cli.output import print_json, print_tables, terminal
from palimpsest.errors import UserError
from palimpsest.evidence.report import check_report
from palimpsest.family import Family
from palimpsest.locks import held
from palimpsest.models.output_folders import check_out, tidy, written
from palimpsest.train.ranges import check_fields


def run(family: Family, args: Any) -> None:
    """The command of a family. Its job is made of the family, the methods and the flags, and has by then read the files
    and refused what it can refuse. It has

        inputs           what it reads, where nothing may be put
        work             a folder that only one process at a time may work in, or None
        compare()        the work; gives everything that it found as plain data, and leaves `tables` and lines, `said`
        page(found)      the report
        save(out, ...)   saves the best model; the others are the `force` and `extra` of `write_folder`
        done()           clears away what is needed no more once model and report are in their places
    """
    methods = chosen(args, family.methods)
    check_fields(args)
    module, name = family.job.split(":")
    job = getattr(import_module(f"palimpsest.cli.{module}"), name)(family, methods, args)
    out = check_out(args.out, args.force, job.inputs) if args.out else None
    report = args.report or (out and out.with_name(f"{out.name}.html"))
    html = report and check_report(report, job.inputs, args.report is not None or args.force)
    if html and out and (html == out or out in html.parents):
        raise UserError(f"--report {html} would be published with the model: choose a place outside {out}")
    with ExitStack() as locks:
        for path in filter(None, (out, html)):
            locks.enter_context(held(path, f"writes {path}"))
            tidy(path)
        if job.work:
            locks.enter_context(held(job.work, "runs the same command"))
        if out:
            check_out(out, args.force)  # again: another process may have written it before it let go
        summary = job.compare()
        with written(html, job.page(summary)) if html else nullcontext():
            if out:
                extra = {"palimpsest.json": json.dumps(summary, indent=2) + "\n"}
                job.save(out, force=args.force, extra=extra)
        job.done()
    if args.json:
        print_json(summary)
        return
    console = terminal()
    print_tables(console, *job.tables)
    for line in job.said:
        console.print(line, soft_wrap=True, markup=False)
    for what, path in (("model", out and args.out), ("report", html)):
        if path:
            console.print(f"{what}: {path}", soft_wrap=True, markup=False)


def table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], narrow: bool = False) -> Table:
    """A name and its cells a line, as a terminal shows it; narrow, a heading of several words takes two lines."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    shown.add_column("", no_wrap=True)
    for column in columns:
        heading = column.replace(" ", "\n", 1) if narrow else column
        shown.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for name, cells in rows:
        shown.add_row(name, *cells)
    return shown
