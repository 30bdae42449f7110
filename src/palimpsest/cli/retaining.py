"""What `palimpsest retain` does: methods beside plain fine-tuning and joint training, with what happened on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from palimpsest.benches.streams_yours import MATRIX
from palimpsest.cli.comparing import Comparing
from palimpsest.cli.family_run import table
from palimpsest.evidence.figures import INK, MUTED, STYLE, canvas, curve_figure
from palimpsest.family import Family
from palimpsest.retain.methods import METHODS

FLOOR, CEILING = "fine_tune", "joint"
LORA = 10  # times the rate of all weights


class Retaining(Comparing):
    """Trains every method on every seed; fine-tuning is shown whether it is named or not, and of classifiers joint
    training."""

    def __init__(self, family: Family, methods: Mapping[str, Any], args: Any) -> None:
        # To a language model the ceiling is but replay with the largest buffer: there it has to be named.
        shown = {FLOOR: "beside", **({} if args.new else {CEILING: "ceiling"})}
        named = {**{name: METHODS[name] for name in shown if name not in methods}, **methods}
        super().__init__(family, named, args)
        self.shown = {name: role for name, role in shown.items() if name not in methods}
        if args.lora:
            args.lr = args.lr or LORA * self.kind.lr
        if args.new:
            args.workers = args.workers or 1  # each has a model of its own in memory
        elif args.out:
            for name, method in methods.items():
                self.kind.module.check_saved(name, method)
        more = {"precision": args.precision} if args.precision != "no" else {}
        for name, recipe in self.recipes.items():
            self.recipes[name] = replace(recipe, settings={**recipe.settings, **more})

    def compare(self) -> dict[str, Any]:
        summary = super().compare()
        first = 5 if self.args.new else len(self.comparison.measures)  # a terminal is too narrow for all
        self.tables = [
            table(self.columns[part], [(name, cells[part]) for name, cells in self.rows], narrow=True)
            for part in (slice(first), slice(first, None))
        ]
        return summary

    def figures(self) -> dict[str, Figure]:
        """Every curve, a line for each method, and the matrix of each."""
        lines = [line for line in self.comparison.lines if line.curves]
        found = super().figures()
        for name in dict.fromkeys(name for line in lines for name in line.curves if name != MATRIX):
            curves = {
                line.name: dict(zip(self.comparison.seeds, line.curves[name], strict=True))
                for line in lines
                if len(line.curves.get(name, [[]])[0]) > 1
            }
            found[f"{name}, along the way"] = curve_figure(name, curves, [line.name for line in lines])
        for line in lines:
            values = np.mean([[value for _, value in curve] for curve in line.curves[MATRIX]], axis=0)
            n = round(len(values) ** 0.5)
            found[f"{line.name}: each task (column) after each (row), mean of the seeds"] = matrix_figure(
                values.reshape(n, n)
            )
        return found


@mpl.rc_context(STYLE)
def matrix_figure(matrix: np.ndarray) -> Figure:
    """The values of a matrix as shades, with their numbers."""
    n = len(matrix)
    figure, axes = canvas(0.5 + 0.34 * n)
    axes.imshow(matrix, cmap="Greens", vmin=0, vmax=1, aspect="auto", alpha=0.6)
    for row, column in np.ndindex(n, n):
        axes.text(column, row, f"{matrix[row, column]:.2f}", ha="center", va="center", color=INK)
    axes.set(xticks=range(n), yticks=range(n))
    axes.tick_params(labelcolor=MUTED, length=0)
    return figure
