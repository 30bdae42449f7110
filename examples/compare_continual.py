"""All methods of `retain` on the same streams, against joint training: the tables and the figure of the guide.

    python examples/compare_continual.py [--work FOLDER] [--figure FILE] [--method NAME ...]

Two streams of MNIST in five tasks, 200 updates each: digits that come two by two, where an image is named among all
that have come; and all ten digits, turned further in every task. A method's learning rate is the one of RATES that is
best on the validation rows of seed 0, joint training's and fine-tuning's too; everything else is its own default, and
buffers have ROWS rows. The seeds that are shown are others. What is shown is

    joint training's average accuracy over all tasks in the end - the method's

Results are kept under --work, so that an interrupted run goes on where it stopped, and a new method adds its line.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from scipy import stats

from palimpsest.benches.arm import Arm, Recipe
from palimpsest.benches.stream_worlds import ACCURACY
from palimpsest.benches.streams import ROTATED_MNIST, SPLIT_MNIST, rows_of
from palimpsest.evidence.figures import ARMS, FAINT, MUTED, STYLE, canvas, svg
from palimpsest.retain.methods import METHODS
from palimpsest.retain.sequence import InSequence

STREAMS = {"new digits": SPLIT_MNIST, "turned digits": ROTATED_MNIST}
RATES, TUNING_SEED, SEEDS = (3e-4, 1e-3, 3e-3), 0, (1, 2, 3, 4, 5)
ROWS = rows_of(40_000, 14)
BUDGET = "full"
Table = dict[str, dict[str, list[float]]]


def recipe(name: str, lr: float) -> Recipe:
    """A method with its defaults, a buffer of ROWS rows where it has one, and a learning rate."""
    method = METHODS[name]
    if "size" in {field.name for field in fields(method)}:
        method = replace(method, size=ROWS)
    return Recipe(InSequence(method), settings={"lr": lr})


def measured(work: Path, chosen: list[str]) -> Table:
    """stream -> method -> average accuracy of each seed; a method that a stream does not suit is left out."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def once(stream: str, name: str, lr: float, seed: int) -> float | str:
        key = f"{stream} {name} {lr} {seed}"
        if key not in results:
            arm = Arm(STREAMS[stream], name, recipe(name, lr))
            try:
                found = arm.validated(seed, BUDGET) if seed == TUNING_SEED else arm(seed, BUDGET)
                results[key] = found["validation" if seed == TUNING_SEED else ACCURACY]
            except (ValueError, TypeError) as error:  # what it needs is not there
                results[key] = str(error)
            file.write_text(json.dumps(results, indent=1))
            print(key, results[key], flush=True)
        return results[key]

    table: Table = {}
    for stream in STREAMS:
        table[stream] = {}
        for name in chosen or METHODS:
            tuned = {lr: once(stream, name, lr, TUNING_SEED) for lr in RATES}
            if any(isinstance(value, str) for value in tuned.values()):
                continue
            lr = max(RATES, key=lambda lr: tuned[lr])
            table[stream][name] = [once(stream, name, lr, seed) for seed in SEEDS]
    return table


def distances(table: Table, stream: str) -> dict[str, tuple[float, float]]:
    """method -> mean distance to joint training and half of its 95% interval, paired by seed; the nearest first."""
    joint = np.array(table[stream]["joint"])
    found = {}
    for name, values in table[stream].items():
        gaps = joint - np.array(values)
        half = (
            stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        )
        found[name] = (float(gaps.mean()), float(half))
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def markdown(table: Table) -> str:
    """A line a method, by its distance on the first stream that it suits."""
    far = {stream: distances(table, stream) for stream in table}
    order = sorted(
        {name for found in far.values() for name in found}, key=lambda n: far[next(iter(far))].get(n, (2, 0))
    )
    lines = ["| method | " + " | ".join(far) + " |", "|---" * (len(far) + 1) + "|"]
    for name in order:
        cells = [f"{found[name][0]:.2f} ± {found[name][1]:.2f}" if name in found else "" for found in far.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = [f"{np.mean(table[stream]['joint']):.2f}" for stream in table]
    return "\n".join([*lines, "", "Joint training's average accuracy: " + ", ".join(means) + "."])


@mpl.rc_context(STYLE)
def draw(table: Table) -> str:
    """A row a method, a mark a stream: joint training is the line on the left."""
    far = {stream: distances(table, stream) for stream in table}
    order = list(dict.fromkeys(name for found in far.values() for name in found))
    drawing, axes = canvas(0.24 * len(order) + 1)
    for i, (stream, found) in enumerate(far.items()):
        names = [name for name in order if name in found]
        y = [order.index(name) + 0.3 * (i - 0.5) for name in names]
        x, half = zip(*(found[name] for name in names), strict=True)
        axes.errorbar(x, y, xerr=half, fmt="o", markersize=3.5, linewidth=1.2, color=ARMS[i], label=stream)
    axes.set_yticks(range(len(order)), order)
    axes.set(xlabel="average accuracy: joint training - method", ylim=(len(order) - 0.4, -0.6))
    axes.grid(True, axis="x", color=FAINT, linewidth=0.6)
    axes.tick_params(labelcolor=MUTED, length=0)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return svg(drawing, "continual")


def main(work: Path, figure: Path | None, chosen: list[str]) -> None:
    torch.set_num_threads(1)
    table = measured(work, ["joint", *chosen] if chosen else [])
    print(markdown(table))
    if figure:
        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_text(draw(table), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/continual"), help="where everything is kept")
    parser.add_argument("--figure", type=Path, help="where to write the figure (SVG)")
    parser.add_argument("--method", dest="chosen", action="append", default=[], help="only this one (repeatable)")
    main(**vars(parser.parse_args()))
