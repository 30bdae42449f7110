"""Methods compared over seeds on a user's files: what the commands of most families do (`palimpsest.family.Kind`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from palimpsest.benches.comparison import RULE, Comparison, Line, compare, trained
from palimpsest.benches.verbs import recipes_of
from palimpsest.cli.family_run import table
from palimpsest.cli.model_report import page
from palimpsest.cli.output import number
from palimpsest.evidence.figures import metric_figure
from palimpsest.evidence.verdict import cell
from palimpsest.family import Family, files_of
from palimpsest.models.loading_checks import quiet
from palimpsest.models.output_folders import write_folder


class Comparing:
    """Trains every method on every seed, and the best once more where it is to be saved."""

    work = None
    shown: Mapping[str, str] = MappingProxyType({})  # what is trained beside the methods

    def __init__(self, family: Family, methods: Mapping[str, Any], args: Any) -> None:
        self.family, self.methods, self.args = family, methods, args
        name, files = files_of(family.kinds, vars(args))
        self.kind = family.kinds[name]
        several = [value if isinstance(value, list) else [value] for value in files.values()]
        self.inputs = [value for values in several for value in values if isinstance(value, Path)]
        self.yours = self.kind.read(**files)
        self.recipes = recipes_of(self.kind, methods, args.steps, args.batch_size)
        self.options = {option: _named(getattr(args, option)) for option in self.kind.takes}

    def compare(self) -> dict[str, Any]:
        args = self.args
        for note in self.yours.notes:
            print(f"palimpsest: {note}", file=sys.stderr)
        training = {"seeds": args.seeds, "lr": args.lr or self.kind.lr, "tune": args.tune}
        how = {"workers": args.workers, "progress": not args.json, "shown": self.shown}
        self.comparison = found = compare(self.yours, self.recipes, **training, **how)
        self.columns = [*found.measures, f"over {found.first.name}", "seconds", "lr"]
        self.rows = [(line.name, self.cells(line)) for line in found.lines]
        self.tables, self.said = [table(self.columns, self.rows)], notes(found)
        return self.as_json()

    def save(self, out: Path, **how: Any) -> None:
        found, best = self.comparison, self.comparison.best
        print(f"palimpsest: training {best.name} once more, to save it", file=sys.stderr)
        saved = self.kind.module.save_best
        with quiet():
            seed, model = trained(self.yours, self.recipes[best.name], best, found.seeds)
            write_folder(lambda folder: saved(self.yours.bench.world, seed, model, folder), out, **how)

    def done(self) -> None:
        """What was computed is kept: another method may be added."""

    def as_json(self) -> dict[str, Any]:
        """Everything that the command found."""
        found, first = self.comparison, self.comparison.first
        measure, lines = found.measures[0], {}
        for line in found.lines:
            names = [name for name in (*found.measures, "validation") if line.values.get(name)]
            lines[line.name] = {"values": {name: list(line.values[name]) for name in names}, "lr": line.lr}
            lines[line.name] |= {"error": line.error} if line.error else {}
            if line is not first:
                lines[line.name][f"gain in {measure} over {first.name}"] = found.gain(line, first, measure)
        return {
            "data": self.yours.about,
            "notes": list(self.yours.notes),
            "seeds": list(found.seeds),
            "methods": {name: asdict(method) for name, method in self.methods.items()},
            "settings": {name: getattr(self.args, name) for name in ("steps", "batch_size", "tune")} | self.options,
            "lines": lines,
            "tried": {name: [list(pair) for pair in tried] for name, tried in found.ledger.items()},
            "best": found.best.name,
            "not beaten": [line.name for line in found.ahead],
            "rule": RULE,
        }

    def cells(self, line: Line) -> list[str]:
        """A line of the table."""
        found = self.comparison
        gain = found.gain(line, found.first, found.measures[0])
        shown = [spread(line.mean(name), line.half(name)) for name in found.measures]
        shown += ["" if line is found.first else spread(*gain, signed=True), number(line.mean("seconds"))]
        return [*shown, "" if line.lr is None else f"{line.lr:g}"]

    def figures(self) -> dict[str, Figure]:
        """caption -> figure."""
        found, first = self.comparison, self.comparison.measures[0]
        seen = {line.name: dict(zip(found.seeds, line.values.get(first) or (), strict=False)) for line in found.lines}
        cells = {name: {first: cell(values)} if values else {} for name, values in seen.items()}
        return {f"{first} on the test rows, a point for each seed": metric_figure(first, cells)}

    def page(self, summary: dict[str, Any]) -> str:
        found = self.comparison
        return page(
            title=f"{self.family.compares} on {self.yours.about}",
            lead=" ".join(
                [
                    f"{found.best.name} is best by {RULE}.",
                    *(f"{said[0].upper()}{said[1:]}." for said in unbeaten(found)),
                ]
            ),
            table=self.rows,
            columns=self.columns,
            figures=self.figures(),
            rows=[],
            notes=[*self.said, *self.yours.notes],
            settings={**summary["settings"], **summary["methods"]},
        )


def _named(value: Any) -> Any:
    """An option as plain data: of files their names."""
    if isinstance(value, list):
        return [_named(each) for each in value]
    return value.name if isinstance(value, Path) else value


def spread(mean: float, half: float, signed: bool = False) -> str:
    """A mean, and half of its interval where there is one.

    >>> spread(0.5, 0.01), spread(0.02, 0.03, signed=True), spread(0.5, float("nan"))
    ('0.500 ± 0.010', '+0.020 ± 0.030', '0.500')
    """
    if mean != mean:
        return "–"
    sign = "+" if signed and mean >= 0 else ""
    said = f"{sign}{mean:.3f}".replace("-", "−")
    return said if half != half else f"{said} ± {half:.3f}"


def unbeaten(comparison: Comparison) -> list[str]:
    """A sentence for each of the lines beside the methods that the best method does not beat."""
    best, first, found = comparison.best, comparison.measures[0], []
    for line in comparison.ahead:
        some = any(comparison.beats(method, line) for method in comparison.methods)
        who = f"{best.name} did not beat" if some else "no method beat"
        test, valid = (f"{line.mean(key):.3f} against {best.mean(key):.3f}" for key in (first, "validation"))
        than = f"{test} of {best.name} in {first} on the test rows, {valid} on the validation rows"
        found.append(f"{who} {line.name!r}: {than}")
    return found


def notes(comparison: Comparison) -> list[str]:
    """How the table is read."""
    best, n = comparison.best, len(comparison.seeds)
    over = f"means of {n} seeds ± half of their 95% interval" if n > 1 else "one seed: nothing is known of the spread"
    found = [f"{over}; test rows are the same for all seeds", f"best: {best.name} ({RULE})"]
    found += unbeaten(comparison)
    found += [f"{line.name}: {line.error}" for line in comparison.lines if line.error]
    for name, tried in comparison.ledger.items():
        rates = [rate for rate, _ in tried]
        chosen = next(line.lr for line in comparison.lines if line.name == name)
        if chosen in (min(rates), max(rates)):
            found.append(f"{name}: its best rate {chosen:g} is at the edge of those tried: move --lr there")
    return found
