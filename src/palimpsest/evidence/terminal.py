"""An outcome in the terminal: the verdicts, then arms by metrics."""

from __future__ import annotations

import math
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from palimpsest.audit.verdict_words import WORDS
from palimpsest.evidence.decision import LOOKS
from palimpsest.evidence.leaning import REMARKS, leaning
from palimpsest.evidence.outcome import Outcome
from palimpsest.evidence.registration import STANDINGS
from palimpsest.evidence.verdict import Cell, Verdict

_STYLES = {
    "held": "bold green",
    "weak": "bold cyan",
    "refuted": "bold red",
    "open": "bold yellow",
    "void": "bold magenta",
}


def show(outcome: Outcome, console: Console | None = None) -> None:
    """Print the question, the verdicts and the table of results, to stdout by default."""
    console = console or Console()
    console.print(Text(outcome.claim.question, style="italic"))
    console.print(verdict_table(outcome))
    for table in metric_tables(outcome, console.width):
        console.print(table)
    for job in outcome.failures:
        last = (job.error or "").strip().splitlines()[-1]
        console.print(Text(f"failed: {job.arm}, seed {job.seed}: {last}", style="red"))


def verdict_table(outcome: Outcome) -> Table:
    """A row for every expectation with its numbers, and the count of all four words below."""
    counts = Text(" · ").join(Text(f"{word} {outcome.counts[word]}", style=_STYLES[word]) for word in WORDS)
    tier = "; a miniature, not tried at scale" if outcome.claim.family else ""
    caption = Text.assemble(counts, f"\n{outcome.standing}: {STANDINGS[outcome.standing]}{tier}")
    table = Table(box=box.SIMPLE, show_header=False, caption=caption, caption_justify="left")
    for verdict in outcome.verdicts:
        said = Text.assemble(sentence_of(verdict, outcome), (f"\n{numbers_of(verdict)}", "dim"))
        for note in (verdict.note, leaning_of(verdict)):
            if note:
                said.append(f"\n{note}", style="dim italic")
        table.add_row(Text(verdict.word, style=_STYLES[verdict.word]), said)
    return table


def metric_tables(outcome: Outcome, width: int = 100) -> list[Table]:
    """Arms by the metrics that an expectation is about: means ± half their 95% intervals; several tables where one
    would be wider than the terminal. The exploratory metrics are left to the report."""
    metrics = [metric for metric in outcome.metrics if metric not in outcome.exploratory]
    beside = max(1, (width - max(map(len, outcome.claim.arms)) - 4) // 18)
    tables = []
    for shown in (metrics[i : i + beside] for i in range(0, len(metrics), beside)):
        table = Table(box=box.SIMPLE)
        table.add_column("arm", no_wrap=True)
        for metric in shown:
            table.add_column(Text(metric), justify="right", vertical="bottom")
        for arm, row in outcome.table.items():
            if any(name in row for name in shown) or not row:
                table.add_row(Text(arm), *(Text(mean(row[name])) if name in row else Text("–") for name in shown))
        tables.append(table)
    left_out = len(outcome.exploratory)
    more = f"; exploratory metrics in the report: {left_out}" if left_out else ""
    tables[-1].caption = Text(f"mean ± half of its 95% interval, seeds {seeds_of(outcome)}{more}")
    tables[-1].caption_justify = "left"
    return tables


def sentence_of(verdict: Verdict, outcome: Outcome) -> str:
    """The expectation in words, marked as a precondition, by its role, or as the primary one."""
    if verdict.expectation.precondition:
        return f"given: {verdict.expectation}"
    if verdict.expectation.sequential:
        return f"{verdict.expectation.role}: {verdict.expectation}"
    return f"{verdict.expectation}{' (primary)' if verdict.expectation == outcome.claim.primary else ''}"


def numbers_of(verdict: Verdict) -> str:
    """Estimate, interval, p, Holm's p and effect size, as far as there are any."""
    tests = (
        ("p", verdict.p, probability),
        ("Holm", verdict.adjusted, probability),
        ("dz", verdict.effect, number),
    )
    shown = [f"{name} {write(value)}" for name, value, write in tests if not math.isnan(value)]
    bounds = "" if math.isnan(verdict.interval[0]) else f" {interval(verdict.interval)}"
    of_room = [] if math.isnan(verdict.share) else [f"{verdict.share:.0%} of the room"]
    return " · ".join([number(verdict.estimate) + bounds, *of_room, *shown])


def leaning_of(verdict: Verdict) -> str:
    """Which way a sentence leans that an early look leaves open; empty for any other."""
    if verdict.word != "open" or not 0 < verdict.look < max(LOOKS) or verdict.expectation.precondition:
        return ""
    towards = leaning(asdict(verdict.expectation), verdict.estimate, verdict.interval, verdict.share)
    return REMARKS[towards] if towards else ""


def seeds_of(outcome: Outcome) -> str:
    """Seeds as 100–104 where they follow each other, else listed."""
    seeds = sorted(outcome.seeds)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def number(value: float) -> str:
    """Three or four figures, aligned: 0.913, 12.50, 1,204; – for NaN.

    >>> [number(x) for x in (0.91284, -12.5, 1203.6, 0.0, 2e-5, math.inf, math.nan)]
    ['0.913', '−12.50', '1,204', '0', '2.0e−05', '∞', '–']
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.0005:
        text = f"{value:.1e}"
    elif size < 10:
        text = f"{value:.3f}"
    elif size < 1000:
        text = f"{value:.2f}"
    else:
        text = f"{value:,.0f}" if size < 1e7 else f"{value:.2e}"
    return text.replace("-", "−")


def interval(bounds: tuple[float, float]) -> str:
    """[low, high]; – where there is none."""
    return "–" if math.isnan(bounds[0]) else f"[{number(bounds[0])}, {number(bounds[1])}]"


def mean(cell: Cell) -> str:
    """mean ± half-width of the 95% interval, or the mean alone."""
    low, high = cell.interval
    return number(cell.mean) if math.isnan(low) else f"{number(cell.mean)} ± {number((high - low) / 2)}"


def probability(p: float) -> str:
    """p to three places, <0.001 below."""
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
