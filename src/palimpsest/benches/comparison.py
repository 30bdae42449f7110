"""Several methods on a user's data, with intervals over seeds, and the best by a stated rule.

Methods are tuned alike on the validation rows of two pilot seeds, each over as many learning rates; then each is
trained on every seed, on the same rows and from the same weights, and measured once on the test rows. The best is the
one with the highest mean on the validation rows: the test rows choose nothing. Where the model as it is or a plain one
is no worse than the best method, the comparison names it: there is then nothing to choose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import stats
from torch import nn

from palimpsest.benches import tuning
from palimpsest.benches.arm import Arm, Metrics, Recipe, plain
from palimpsest.benches.bench import Bench
from palimpsest.benches.yours import Yours
from palimpsest.errors import UserError
from palimpsest.evidence.outcome import last_line, watched
from palimpsest.evidence.runner import run_jobs
from palimpsest.evidence.store import Job, Store
from palimpsest.locks import held
from palimpsest.paths import home

RULE = "the highest mean on the validation rows over the seeds"
FIRST_SEED = 200


@dataclass(frozen=True)
class Judged:
    """An arm that is measured and validated in one training."""

    arm: Arm

    def __call__(self, seed: int, budget: str = "full") -> Metrics:
        world, applied, cost = self.arm.trained(seed, budget == "smoke")
        bench = self.arm.bench
        valid = float(bench.validate(world, applied.model, cost))
        return {**bench.measures(world, applied.model), "validation": valid, **cost}


@dataclass(frozen=True)
class Line:
    """What became of a method.

    Attributes:
        values: measure -> its values, seed by seed; "validation" and "seconds" among them.
        lr: the learning rate that it was trained at; None of the model as it is, and of what is shown beside.
        error: why a seed failed, if one did.
        shown: of what is trained like the methods and none of them: "beside", which they should beat, or "ceiling".
        curves: name -> the points of it, seed by seed, where the bench has curves.
    """

    name: str
    values: Mapping[str, Sequence[float]]
    lr: float | None = None
    error: str = ""
    shown: str = ""
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]] = field(default_factory=dict)

    def mean(self, measure: str) -> float:
        """NaN where it was not measured."""
        return float(np.mean(self.values[measure])) if self.values.get(measure) else nan

    def half(self, measure: str) -> float:
        """Half of the mean's 95% interval over seeds; NaN for a single seed."""
        return half_interval(self.values.get(measure, ()))


@dataclass(frozen=True)
class Comparison:
    """Several methods side by side.

    Attributes:
        lines: the model as it is, what the bench shows beside it, and the methods in the order they were named.
        seeds: that all were trained on.
        measures: as the bench reads them, the first of which is looked at.
        ledger: of each method, the rates that were tried and what the validation rows gave.
        lower: those of the measures of which less is better.
    """

    lines: tuple[Line, ...]
    seeds: tuple[int, ...]
    measures: tuple[str, ...]
    ledger: Mapping[str, Sequence[tuple[float, float]]]
    lower: frozenset[str] = frozenset()

    @property
    def methods(self) -> tuple[Line, ...]:
        """The lines of which one is the best."""
        return tuple(line for line in self.lines if line.lr is not None and not line.shown)

    @property
    def first(self) -> Line:
        """What was trained first, which the others are compared with."""
        return next(line for line in self.lines if line.lr is not None)

    @property
    def best(self) -> Line:
        """By `RULE`, of the methods that came to their end.

        Raises:
            UserError: none did.
        """
        done = [line for line in self.methods if not line.error]
        if not done:
            raise UserError("; ".join(f"{line.name}: {line.error}" for line in self.methods))
        return max(done, key=lambda line: line.mean("validation"))

    @property
    def ahead(self) -> tuple[Line, ...]:
        """What is shown beside the methods (the model as it is, a plain model) and is as good as the best method or
        better: on the validation rows, which chose that one, or on the test rows, which the table shows."""
        beside = [line for line in self.lines if (line.lr is None or line.shown == "beside") and not line.error]
        return tuple(line for line in beside if not self.beats(self.best, line))

    def beats(self, line: Line, other: Line) -> bool:
        """Whether a line's mean is higher on the validation rows, and better on the test rows in the measure that is
        looked at. A line that failed beats none."""
        first = self.measures[0]
        sign = -1 if first in self.lower else 1
        shown = sign * (line.mean(first) - other.mean(first))
        return not line.error and shown > 0 and line.mean("validation") > other.mean("validation")

    def gain(self, line: Line, over: Line, measure: str) -> tuple[float, float]:
        """The mean difference, paired by seed, and half of its 95% interval."""
        if line.error or over.error:
            return nan, nan
        gains = np.subtract(line.values[measure], over.values[measure])
        return float(gains.mean()), half_interval(gains)


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95% interval of a mean, by Student's t.

    >>> round(half_interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else nan


def compare(
    yours: Yours,
    recipes: Mapping[str, Recipe],
    *,
    seeds: int = 5,
    lr: float,
    tune: int | None = None,
    workers: int | None = None,
    progress: bool = True,
    shown: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    """Train every method on every seed, and measure it. What was finished before is not run again.

    Args:
        recipes: name -> method, without a grid. Beside them the bench's own baselines are shown, as they are.
        seeds: how many.
        lr: the learning rate, or the middle of those that are tried.
        tune: how many rates each method tries, half a decade apart.
        shown: those of the recipes that are no methods, and how they are shown (`Line.shown`).

    Raises:
        UserError: fewer than one seed; no method came to its end.
    """
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {seeds}")
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}")
    folder = place(yours)
    with held(folder / "comparison", f"compares methods on {yours.about}"):
        rates = [float(f"{lr * 10 ** ((i - (tune - 1) / 2) / 2):.3g}") for i in range(tune)] if tune else [lr]
        bench = replace(yours.bench, tuned=folder / "tuned", points=len(rates))
        arms, chosen, ledger = {}, {}, {}
        for name, recipe in recipes.items():
            recipe = replace(recipe, grid={"lr": rates})
            if tune and tuning.chosen(bench, name, recipe) is None:
                tuning.tune(bench, name, recipe, workers=workers, progress=progress)
            if tune:
                found = tuning.ledger(bench, name)["trials"]
                ledger[name] = [(trial["point"]["lr"], float(np.mean(trial["validation"]))) for trial in found]
            chosen[name] = tuning.chosen(bench, name, recipe)["lr"] if tune else lr
            arms[name] = Judged(Arm(bench, name, recipe.at({"lr": chosen[name]})))
        beside = dict([bench.floor, *bench.baselines.items()])
        arms = {name: Judged(Arm(bench, name, recipe)) for name, recipe in beside.items()} | arms
        numbers = tuple(range(FIRST_SEED, FIRST_SEED + seeds))
        values, curves, errors = _run(bench, arms, numbers, folder, workers, progress)
        lines = tuple(
            Line(name, values[name], chosen.get(name), errors.get(name, ""), shown.get(name, ""), curves[name])
            for name in arms
        )
        lower = frozenset(name for name, measure in bench.read.items() if measure.better == "lower")
        result = Comparison(lines, numbers, tuple(bench.read), ledger, lower)
        _ = result.best  # raises where there is none
        return result


def trained(yours: Yours, recipe: Recipe, line: Line, seeds: Sequence[int]) -> tuple[int, nn.Module]:
    """The model of a line, trained once more on the seed whose validation rows it did best on; and that seed."""
    seed = seeds[int(np.argmax(line.values["validation"]))]
    arm = Arm(yours.bench, line.name, replace(recipe, settings={**recipe.settings, "lr": line.lr}))
    return seed, arm.trained(seed)[1].model


def place(yours: Yours) -> Path:
    """Where tuning and results on these files are kept."""
    said = json.dumps({"bench": yours.bench.name, "world": plain(yours.bench.world)}, sort_keys=True)
    return home() / "yours" / sha256(said.encode()).hexdigest()[:16]


def _run(
    bench: Bench,
    arms: Mapping[str, Judged],
    seeds: Sequence[int],
    folder: Path,
    workers: int | None,
    progress: bool,
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, list[Any]]], dict[str, str]]:
    """arm -> measure -> values; arm -> curve -> its points; and why arms failed."""
    found: dict[tuple[str, int], Any] = {}
    errors: dict[str, str] = {}
    with Store(folder / "evidence.sqlite") as store:
        keys = {name: judged.arm.stored for name, judged in arms.items()}
        for name, (*key, title) in keys.items():
            for (arm, seed), job in store.jobs(*key, "full").items():
                if arm == title and job.error is None:
                    found[name, seed] = job.metrics
        todo = [Job(bench.name, "", "", "full", name, s) for s in seeds for name in arms if (name, s) not in found]
        for job in watched(
            run_jobs(arms, todo, workers=workers), bench.name, len(seeds) * len(arms), len(todo), progress
        ):
            if job.error:
                errors[job.arm] = last_line(job.error)
                continue
            paper, promised, code, title = keys[job.arm]
            store.add(replace(job, paper=paper, digest=promised, code=code, arm=title))
            found[job.arm, job.seed] = job.metrics
    values = {
        name: {
            measure: [found[name, seed][measure] for seed in seeds]
            for measure in (*bench.read, "validation", "seconds")
            if all(measure in found.get((name, seed), {}) for seed in seeds)
        }
        for name in arms
    }
    curves = {}
    for name in arms:
        metrics = [found.get((name, seed), {}) for seed in seeds]
        named = [curve for curve, points in metrics[0].items() if isinstance(points, Sequence)]
        curves[name] = {curve: [each[curve] for each in metrics] for curve in named if all(metrics)}
    return values, curves, errors
