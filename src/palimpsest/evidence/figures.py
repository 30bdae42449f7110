"""The figures of a report, as SVG that takes its colours from the page.

matplotlib draws with the light palette; every colour is then replaced by a CSS variable of the page, so that one
drawing suits light, dark and print. Text stays text. Each figure function returns a matplotlib `Figure`; `svg` writes
it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from palimpsest.evidence.claim import Curve
from palimpsest.evidence.verdict import Cell, Verdict

INK, MUTED, FAINT, REGION = "#1b1b18", "#6f6e68", "#d9d7cf", "#e4efe9"
ARMS = ("#2a6f97", "#c2571a", "#3f7d3a", "#8a4f9e", "#a8323e", "#7d6608", "#0f7f86", "#5b5b7a")
_VARIABLES = {INK: "--ink", MUTED: "--muted", FAINT: "--faint", REGION: "--region"}
_VARIABLES |= {colour: f"--arm-{i}" for i, colour in enumerate(ARMS)}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "palimpsest",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_WIDTH = 7.2


@mpl.rc_context(STYLE)
def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element; `name` keeps its ids apart from those of the page's other figures."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for size in ("width", "height"):  # the page decides; the viewBox keeps the proportions
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'id="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.strip()


@mpl.rc_context(STYLE)
def metric_figure(metric: str, table: Mapping[str, Mapping[str, Cell]], marks: Sequence[float] = ()) -> Figure:
    """A row for every arm that has the metric, or has nothing: a point for every seed, the mean, its 95% interval.

    Points of one seed are joined from arm to arm, because the differences are paired; `marks` are thresholds.
    """
    everyone = list(table)
    arms = [arm for arm in everyone if metric in table[arm] or not table[arm]]
    figure, axes = canvas(0.34 * len(arms) + 0.62)
    cells = {row: table[arm][metric] for row, arm in enumerate(arms) if metric in table[arm]}
    for mark in marks:
        axes.axvline(mark, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    for seed in dict.fromkeys(seed for shown in cells.values() for seed in shown.values):
        path = [(shown.values.get(seed, math.nan), row) for row, shown in cells.items()]
        axes.plot(*zip(*path, strict=True), color=FAINT, linewidth=0.7, zorder=1)
    for row, shown in cells.items():
        _row(axes, row, list(shown.values.values()), shown.mean, shown.interval, _colour(arms[row], everyone))
    for row in set(range(len(arms))) - set(cells):
        axes.annotate(
            "no result", (0.5, row), xycoords=("axes fraction", "data"), va="center", ha="center", color=MUTED
        )
    _finish(axes, arms)
    axes.set_xlabel(metric, parse_math=False)
    return figure


@mpl.rc_context(STYLE)
def verdict_figure(verdict: Verdict) -> Figure:
    """A strip: the numbers of every seed, their mean and interval, and in the ground the region that was expected."""
    figure, axes = canvas(0.72)
    numbers = [value for value in verdict.differences.values() if math.isfinite(value)]
    ends = [end for end in verdict.region if math.isfinite(end)]
    known = [*numbers, *(bound for bound in verdict.interval if math.isfinite(bound)), *ends]
    room = 0.08 * (max(known) - min(known)) or 0.1
    left, right = min(known) - room, max(known) + room
    axes.set_xlim(left, right)
    axes.axvspan(max(left, verdict.region[0]), min(right, verdict.region[1]), color=REGION, linewidth=0, zorder=-2)
    for end in ends:
        axes.axvline(end, color=MUTED, linewidth=1, zorder=-1)
    if numbers:
        _row(axes, 0, numbers, verdict.estimate, verdict.interval, INK)
    _finish(axes, [""])
    return figure


@mpl.rc_context(STYLE)
def curve_figure(metric: str, curves: Mapping[str, Mapping[int, Curve]], arms: Sequence[str]) -> Figure:
    """A thin line for every seed and a thick one for the mean of each arm, its name at the end."""
    figure, axes = canvas(3.1)
    ends = []
    for arm, by_seed in curves.items():
        colour = _colour(arm, arms)
        for curve in by_seed.values():
            axes.plot(*np.array(curve, float).reshape(-1, 2).T, color=colour, linewidth=0.7, alpha=0.35)
        xs, ys = mean_curve(list(by_seed.values()))
        if len(xs):
            axes.plot(xs, ys, color=colour, linewidth=2)
            ends.append((ys[-1], arm, colour))
    axes.yaxis.grid(True, color=FAINT, linewidth=0.6)
    axes.tick_params(labelcolor=MUTED, length=0)
    axes.set_ylabel(metric, parse_math=False)
    # Names beside the ends of the curves, pushed apart where they would overlap.
    ends = sorted((end for end in ends if math.isfinite(end[0])), key=lambda end: end[0])
    low, high = axes.get_ylim()
    height = low
    for y, arm, colour in ends:
        height = max(y, height)
        axes.annotate(
            arm, (1.01, height), xycoords=("axes fraction", "data"), color=colour, va="center", parse_math=False
        )
        height += 0.07 * (high - low)
    return figure


def mean_curve(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over curves at every x that all of them have.

    >>> [list(map(float, row)) for row in mean_curve([[(0, 1), (1, 3)], [(0, 2), (1, 5), (2, 9)]])]
    [[0.0, 1.0], [1.5, 4.0]]
    """
    shared = sorted(set.intersection(*({x for x, _ in curve} for curve in curves))) if curves else []
    if not shared:
        return np.array([]), np.array([])
    return np.array(shared), np.mean([[dict(curve)[x] for x in shared] for curve in curves], axis=0)


def canvas(height: float) -> tuple[Figure, Any]:
    """An empty figure as wide as the page, `height` in inches, and its axes."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _colour(arm: str, arms: Sequence[str]) -> str:
    return ARMS[arms.index(arm) % len(ARMS)]


def _row(axes: Any, row: int, values: Sequence[float], mean: float, interval: tuple[float, float], colour: str) -> None:
    if math.isfinite(interval[0]) and math.isfinite(interval[1]):
        axes.plot(interval, (row, row), color=colour, linewidth=2, solid_capstyle="butt", zorder=3)
    if math.isfinite(mean):
        axes.plot((mean, mean), (row - 0.28, row + 0.28), color=colour, linewidth=2, zorder=4)
    values = [value for value in values if math.isfinite(value)]
    axes.plot(values, [row] * len(values), "o", color=colour, markersize=5, alpha=0.45, markeredgewidth=0, zorder=2)


def _finish(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3)
    axes.xaxis.set_major_locator(MaxNLocator(6))
