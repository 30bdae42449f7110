"""The report on a user's own model: what it remembers, or what became of it, as one HTML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from palimpsest.evidence.figures import ARMS, FAINT, INK, MUTED, STYLE, canvas, svg
from palimpsest.evidence.report import pages
from palimpsest.forget.tofu_measures import RowScores
from palimpsest.tasks.rows import Row

MEASURES = {
    "probability": "P: probability of the answer, the geometric mean over its tokens",
    "rouge": "ROUGE-L: recall of the expected answer's words in the model's own answer",
    "truth_ratio": "truth ratio: wrong answers' probability over the right one's, the median over rows",
    "truth_ratio_below_1": "truth ratio below 1: share of rows whose right answer is likelier than the wrong ones",
    "extraction_strength": "extraction strength: share of the answer that follows verbatim from its beginning",
    "exact_memorization": "exact memorization: share of the answer's tokens that are the model's first choice",
}
SHOWN_ROWS = 200


def measures(scores: RowScores | None) -> dict[str, float]:
    """The mean over rows of every measure that there is; empty without scores. A mean of truth ratios would be that of
    the few rows whose right answer has hardly any probability left: they get their median, and the share below 1."""
    if scores is None:
        return {}
    found = {}
    for name in MEASURES:
        column = np.asarray(getattr(scores, name.removesuffix("_below_1")), dtype=float)
        column = column[~np.isnan(column)]
        if name == "truth_ratio_below_1":
            column = column < 1
        if len(column):
            found[name] = float(np.median(column) if name == "truth_ratio" else column.mean())
    return found


@mpl.rc_context(STYLE)
def trade_off(points: Mapping[str, tuple[float, float]]) -> Figure:
    """Every method at (forgotten, kept): the corner at the upper right is where one wants to be."""
    figure, axes = canvas(3.6)
    for i, (name, (forgotten, kept)) in enumerate(points.items()):
        colour = ARMS[i % len(ARMS)]
        axes.plot([forgotten], [kept], "o", color=colour, markersize=7)
        axes.annotate(
            name, (forgotten, kept), xytext=(6, 6), textcoords="offset points", color=colour, parse_math=False
        )
    axes.set(xlim=(-0.03, 1.12), ylim=(-0.03, 1.08), xlabel="forgotten", ylabel="kept")
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.tick_params(labelcolor=MUTED, length=0)
    return figure


@mpl.rc_context(STYLE)
def distribution(name: str, groups: Mapping[str, Sequence[float]]) -> Figure:
    """Each group's rows from lowest to highest: the share of rows below a value is read off the horizontal axis."""
    figure, axes = canvas(2.6)
    for i, (group, values) in enumerate(groups.items()):
        finite = np.sort([value for value in values if math.isfinite(value)])
        share = (np.arange(len(finite)) + 0.5) / max(1, len(finite))
        axes.plot(share, finite, color=ARMS[i % len(ARMS)], linewidth=1.8, label=group)
    axes.set(xlabel="share of rows", ylabel=name, xlim=(0, 1))
    axes.yaxis.grid(True, color=FAINT, linewidth=0.6)
    axes.tick_params(labelcolor=MUTED, length=0)
    axes.legend(frameon=False, labelcolor=INK, loc="best")
    return figure


def page(
    title: str,
    lead: str,
    table: Sequence[tuple[str, Sequence[str]]],
    columns: Sequence[str],
    figures: Mapping[str, Figure],
    rows: Sequence[tuple[Row, Mapping[str, tuple[str, float, float]]]],
    notes: Sequence[str],
    settings: Mapping[str, Any],
) -> str:
    """The page as text; everything that comes from the user's files or model is escaped.

    Args:
        title, lead: what was done to which model; one sentence on what came out.
        table: (name, cells) a line, under `columns`.
        figures: caption -> figure.
        rows: each row with what every model answered: its name -> (answer, probability, ROUGE-L recall).
        notes: how to read the table.
        settings: what the command was given.
    """
    return (
        pages()
        .get_template("model_report.html")
        .render(
            title=title,
            lead=lead,
            table=table,
            columns=columns,
            figures=[(caption, Markup(svg(figure, f"f{i}"))) for i, (caption, figure) in enumerate(figures.items())],
            rows=rows[:SHOWN_ROWS],
            left_out=max(0, len(rows) - SHOWN_ROWS),
            notes=notes,
            settings=settings,
        )
    )


def answers(
    rows: Sequence[Row], models: Mapping[str, RowScores]
) -> list[tuple[Row, dict[str, tuple[str, float, float]]]]:
    """What every model answers to every row, for `page`."""
    return [
        (row, {name: (s.output[i], float(s.probability[i]), float(s.rouge[i])) for name, s in models.items()})
        for i, row in enumerate(rows)
    ]
