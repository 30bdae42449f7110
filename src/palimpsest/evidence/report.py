"""The report of an outcome: one HTML file for screen (light, dark) and print, without scripts or outside resources."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from palimpsest.audit.hark import canonical_json
from palimpsest.audit.verdict_words import PAPER_WORDS, WORDS
from palimpsest.errors import UserError
from palimpsest.evidence.figures import ARMS, curve_figure, metric_figure, svg, verdict_figure
from palimpsest.evidence.outcome import Outcome
from palimpsest.evidence.registration import STANDINGS
from palimpsest.evidence.terminal import interval, leaning_of, number, numbers_of, probability, seeds_of, sentence_of
from palimpsest.evidence.verdict import omnibus
from palimpsest.models.output_folders import written
from palimpsest.paths import resolved


def check_report(path: Path, inputs: Iterable[Path] = (), replace: bool = True) -> Path:
    """Where a report will be written, in full, or the error: asked before a long computation.

    Args:
        path: the file that the user named, or a default.
        inputs: what is read, which the report may not replace.
        replace: whether a file that is there already may be replaced.

    Raises:
        UserError: the path is no file's name, what is there is no earlier report or may not be replaced, or the place
            cannot be written to.

    >>> check_report(Path("/dev/null"))
    Traceback (most recent call last):
    palimpsest.errors.UserError: the report /dev/null is not a file: name one
    """
    path = resolved(path, "the report ")
    exists = path.exists()
    for read in map(resolved, inputs):
        if path == read or read in path.parents:
            raise UserError(f"the report {path} lies in {read}, which is read: choose another file")
    if exists and not path.is_file():
        raise UserError(f"the report {path} is not a file: name one")
    if exists and not _is_report(path):
        raise UserError(f"the report would replace {path}, which is no report: choose another file")
    if exists and not replace:
        raise UserError(f"the report would replace {path}: name a file with --report, or replace it with --force")
    parent = next(parent for parent in path.parents if parent.exists())
    if not parent.is_dir() or not os.access(path if exists else parent, os.W_OK):
        raise UserError(f"the report {path} cannot be written there: choose another file")
    return path


# What the head of a page holds: as it is written, and as it was before pages named who made them.
_MARKS = (
    b'<meta name="generator" content="palimpsest">',
    b"""content="default-src 'none'; style-src 'unsafe-inline'">""",
)


def _is_report(path: Path) -> bool:
    """Whether a file is a page that was written here; an empty one may be replaced as well."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return True  # whether the place can be written to is another question
    return not head or any(mark in head for mark in _MARKS)


def write_report(outcome: Outcome, path: Path | str) -> Path:
    """Write the page, beside and then renamed, so that a reader never sees half of it. Returns its absolute path."""
    path = Path(path).absolute()
    with written(path, render(outcome)):
        return path


def render(outcome: Outcome) -> str:
    """The page as text. All that a claim or its results contribute is escaped; the drawings escape their own."""
    return (
        pages()
        .get_template("report.html")
        .render(
            outcome=outcome,
            claim=outcome.claim,
            words=WORDS,
            meaning=PAPER_WORDS,
            standing=STANDINGS[outcome.standing],
            sentence_of=sentence_of,
            numbers_of=numbers_of,
            leaning_of=leaning_of,
            seeds=seeds_of(outcome),
            verdict_figures=[
                Markup(svg(verdict_figure(v), f"v{i}")) if v.differences else "" for i, v in enumerate(outcome.verdicts)
            ],
            metric_figures=[_metric(outcome, metric, f"m{i}") for i, metric in enumerate(outcome.metrics)],
            curve_figures=[
                (metric, Markup(svg(curve_figure(metric, curves, list(outcome.claim.arms)), f"c{i}")))
                for i, (metric, curves) in enumerate(outcome.curves.items())
            ],
            rerun=_rerun(outcome),
            history=[entry for entry in outcome.history if entry["kind"] in ("registration", "amendment", "verdict")],
            minutes=f"{outcome.seconds / 60:.1f} min" if outcome.seconds >= 60 else f"{outcome.seconds:.1f} s",
            peak=max(job.peak_bytes for job in outcome.jobs) / 2**20,
        )
    )


def pages() -> jinja2.Environment:
    """The templates of this folder: `page.html` is the frame of every report. What they are given is escaped."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("palimpsest.evidence", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": number, "interval": interval, "p": probability, "pretty": _pretty}
    templates.globals["palette"] = list(enumerate(ARMS))
    return templates


def _metric(outcome: Outcome, metric: str, name: str) -> dict[str, Any]:
    thresholds = [e.by for e in outcome.claim.expects if e.on == metric and e.kind in ("at_least", "at_most")]
    drawing = svg(metric_figure(metric, outcome.table, thresholds), name)
    return {
        "name": metric,
        "figure": Markup(drawing),
        "exploratory": metric in outcome.exploratory,
        "friedman": omnibus(outcome.values, metric),
    }


def _rerun(outcome: Outcome) -> tuple[str, str]:
    """The command and the Python that give this outcome again."""
    name = outcome.claim.paper
    command, call = f"palimpsest run {name}", f'run_claim("{name}"'
    registered = list(outcome.claim.seeds)
    if outcome.budget == "smoke":
        command, call = f"{command} --budget smoke", f'{call}, budget="smoke"'
    elif list(outcome.seeds) == registered[: len(outcome.seeds)] and len(outcome.seeds) < len(registered):
        command, call = f"{command} --seeds {len(outcome.seeds)}", f"{call}, seeds={len(outcome.seeds)}"
    elif list(outcome.seeds) != registered:
        call = f"{call}, seeds={list(outcome.seeds)}"
        command = ""
    return command, f"from palimpsest.evidence import run_claim\n{call})"


def _pretty(value: Any) -> str:
    return json.dumps(json.loads(canonical_json(value)), indent=2, ensure_ascii=False)
