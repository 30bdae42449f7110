"""Tuning as data: every point that an arm tried, what it gave on the validation rows of pilot seeds, and the best.

`tuned/<bench>/<name>.json` beside this file is one arm's ledger: the recipe that was tuned, a line for each point of
its grid with its values, and the point that was chosen. An arm whose recipe has changed since is not tuned. Baselines
are tuned once for all claims of a bench; a claim's method is tuned under the paper's id, over as many points. Where
the best value of a number is the last one tried, values beyond it are tried (`bracket`), by one rule for all arms.

`tuned/<bench>/bench.json` holds what the floor, the baselines and the ceiling give on pilot seeds, and what the first
baseline gives when it is trained again with other draws: the spread of a comparison with nothing to find. Where the
world is made from what is installed, the digest of its rows is filed there too: another digest is another world.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest.benches.arm import Arm, Metrics, Recipe, plain
from palimpsest.benches.bench import Bench
from palimpsest.errors import UserError
from palimpsest.evidence.decision import LOOKS, detectable
from palimpsest.evidence.outcome import last_line, watched
from palimpsest.evidence.runner import run_jobs
from palimpsest.evidence.store import Job

FOLDER = Path(__file__).parent / "tuned"
BUDGETS = ("steps", "batch_size")  # what an arm may spend: tuned among the values that were asked for, never beyond


@dataclass(frozen=True)
class Trial:
    """An arm whose validation is what it gives."""

    arm: Arm

    def __call__(self, seed: int, budget: str = "full") -> Metrics:
        return self.arm.validated(seed, budget)


def tune(
    bench: Bench, name: str, recipe: Recipe, *, workers: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Try every point of a recipe's grid on the bench's pilot seeds, and file what came of it.

    Raises:
        UserError: no point gave a number; the rows are others than the bench was measured on.
    """
    if elsewhere := other_world(bench):
        raise UserError(f"{elsewhere}; to go on with these rows: palimpsest bench {bench.name} --measure")
    lines, seconds = _try(bench, name, recipe, recipe.points, workers, progress)
    if all(_mean(line) == -math.inf for line in lines):
        raise UserError(f"{name} on {bench.name}: no point of the grid gave a number")
    filed = {
        "bench": bench.name,
        "name": name,
        "recipe": _recipe(bench, recipe),
        "seeds": list(bench.pilots),
        "seconds": seconds,
        "trials": lines,
        "chosen": _best(lines)["point"],
    }
    _write(_file(bench, name), filed)
    return filed


def bracket(
    bench: Bench, name: str, recipe: Recipe, *, workers: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Go on from a tuning that is filed: while the best value of a number is the least or the greatest tried, try the
    one beyond it, as far from it as its neighbour is (by factor), the other values as in the best point.

    At most as many points are added as the grid has. Where a number still ends at an edge, `edges` says why.

    Raises:
        UserError: nothing is filed for the recipe as it is.
    """
    filed = ledger(bench, name)
    if filed is None or filed["recipe"] != _recipe(bench, recipe):
        raise UserError(f"{name} is not tuned as it is: palimpsest bench {bench.name} --tune {name}")
    lines, most = list(filed["trials"]), 2 * len(recipe.points)
    edges: dict[str, str] = {}
    while beyond := {field: value for field, value in _beyond(lines).items() if field not in edges}:
        field, value = next(iter(beyond.items()))
        point = _as_asked(recipe, {**_best(lines)["point"], field: value})
        if len(lines) == most:
            edges |= dict.fromkeys(beyond, "as many points were added as the grid has")
            break
        try:
            lines += _try(bench, name, recipe, [point], workers, progress)[0]
        except (UserError, ValueError, TypeError) as error:
            edges[field] = f"{value} cannot be tried: {error}"
    filed = {**filed, "trials": lines, "chosen": _best(lines)["point"], "edges": edges}
    _write(_file(bench, name), filed)
    return filed


def at_edge(filed: Mapping[str, Any]) -> set[str]:
    """The numbers of a filed tuning whose best value has no tried value on one side, and no reason is filed why."""
    return set(_beyond(filed["trials"])) - set(filed.get("edges", {}))


def _beyond(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """field -> the next value to try, for every number whose best value is the least or the greatest that was tried."""
    best = _best(lines)["point"]
    following = {}
    for field, value in best.items():
        tried = sorted({line["point"][field] for line in lines}) if _number(value) else []
        if len(tried) < 2 or value not in (tried[0], tried[-1]) or field in BUDGETS:
            continue
        neighbour = tried[1] if value == tried[0] else tried[-2]
        step = value * value / neighbour if value * neighbour > 0 else 2 * value - neighbour
        step = round(step) if isinstance(value, int) else _short(step, 2)
        if step not in tried:
            following[field] = step
    return following


def _try(
    bench: Bench,
    name: str,
    recipe: Recipe,
    points: Sequence[Mapping[str, Any]],
    workers: int | None,
    progress: bool,
) -> tuple[list[dict[str, Any]], float]:
    """A line for each point with what it gives on the pilot seeds, and the mean seconds of an arm."""
    trials = {_label(point): Trial(Arm(bench, name, recipe.at(point))) for point in points}
    found = _run(f"{bench.name}: {name}", trials, bench.pilots, workers, progress)
    lines = [
        {"point": plain(point), "validation": [_short(found[_label(point)][s]["validation"]) for s in bench.pilots]}
        for point in points
    ]
    seconds = [found[trial][seed]["seconds"] for trial in trials for seed in bench.pilots]
    return lines, _short(float(np.mean(seconds)), 3)


def _mean(line: Mapping[str, Any]) -> float:
    """A point's mean on the validation rows; minus infinity where it broke down."""
    mean = float(np.mean(line["validation"]))
    return mean if math.isfinite(mean) else -math.inf


def _best(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(lines, key=_mean)


def _as_asked(recipe: Recipe, point: Mapping[str, Any]) -> dict[str, Any]:
    """A filed point with the values as the grid has them; beyond the grid there are numbers only."""
    return {
        field: next((asked for asked in recipe.grid[field] if plain(asked) == value), value)
        for field, value in point.items()
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def ledger(bench: Bench, name: str) -> dict[str, Any] | None:
    """What is filed for a name; None where nothing is.

    Raises:
        UserError: for a file that is damaged.
    """
    file = _file(bench, name)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}; palimpsest bench {bench.name} --tune {name}") from None


def chosen(bench: Bench, name: str, recipe: Recipe) -> dict[str, Any] | None:
    """The point that tuning chose for a recipe; None where it was not tuned, or the recipe was another."""
    found = ledger(bench, name)
    if found is None or found["recipe"] != _recipe(bench, recipe):
        return None
    return _as_asked(recipe, found["chosen"])


def measure(bench: Bench, *, workers: int | None = None, progress: bool = True) -> dict[str, Any]:
    """Run the bench's own arms on pilot seeds, and the first baseline once more with other draws; file the values."""
    from palimpsest.benches import shelf  # late: no record depends on it

    arms = {name: bench.arm(name) for name in bench.recipes}
    first = next(iter(bench.baselines))
    again = f"{first}, again"
    arms[again] = replace(arms[first], again=1)
    found = _run(bench.name, arms, bench.measured, workers, progress)
    values = {
        arm: {
            name: [_short(by_seed[seed][name], 5) for seed in bench.measured]
            for name in [*bench.read, "seconds", "steps"]
            if all(name in by_seed[seed] for seed in bench.measured)
        }
        for arm, by_seed in found.items()
    }
    result = {"bench": bench.name, "seeds": list(bench.measured), "again": again, "values": values}
    if here := shelf.pool(bench.name):
        filed = pools(bench)
        result["pools"] = filed if filed[-1:] == [here] else [*filed, here]
    _write(_file(bench, "bench"), result)
    return result


def pools(bench: Bench) -> list[str]:
    """The digests of the rows that a bench was measured on, the first and every other since; none where its world is
    not made from what is installed."""
    return (ledger(bench, "bench") or {}).get("pools", [])


def other_world(bench: Bench) -> str:
    """What to say where a bench's rows are others here than those it was measured on last; empty where they are not."""
    from palimpsest.benches import shelf  # late: no record depends on it

    filed = pools(bench)
    if not filed or filed[-1] == (here := shelf.pool(bench.name)):
        return ""
    return (
        f"{bench.name} is another world here, for its rows are made from what is installed (digest {here[:12]}, on "
        f"record {filed[-1][:12]}): nothing is compared with the record"
    )


def kept_apart(bench: Bench) -> str:
    """The digest of the rows, where they are others than those that results were first kept of: else empty."""
    from palimpsest.benches import shelf  # late: no record depends on it

    filed = pools(bench)
    return here if filed and (here := shelf.pool(bench.name)) != filed[0] else ""


@dataclass(frozen=True)
class Room:
    """What a bench leaves to gain on one measure.

    Attributes:
        values: arm -> mean over the pilot seeds, floor first and ceiling last.
        spread: the standard deviation of the difference of the first baseline with itself, trained again.
        decides: look -> the true gain above a margin that 80% of runs find held, for a method whose differences spread
            like that; a method that helps some seeds more than others needs more. Empty where the arm is the same
            again, because it draws nothing: then nothing is known of it.
    """

    measure: str
    values: Mapping[str, float]
    spread: float
    decides: Mapping[int, float]


def room(bench: Bench) -> list[Room]:
    """The room of every measure of a bench that was measured."""
    found = ledger(bench, "bench")
    if found is None:
        return []
    values, again = found["values"], found["again"]
    first = again.removesuffix(", again")
    rooms = []
    for name in bench.read:
        if not all(name in values.get(arm, {}) for arm in (first, again)):
            continue
        spread = float(np.std(np.subtract(values[first][name], values[again][name]), ddof=1))
        means = {arm: float(np.mean(row[name])) for arm, row in values.items() if name in row and arm != again}
        decides = {look: detectable(spread, look) for look in LOOKS if spread > 1e-9}
        rooms.append(Room(name, means, spread, decides))
    return rooms


def seconds(bench: Bench) -> float:
    """Processor seconds of the bench's dearest arm on a seed; NaN before it was measured."""
    rows = (ledger(bench, "bench") or {"values": {}})["values"].values()
    return max((max(row["seconds"]) for row in rows if "seconds" in row), default=math.nan)


def _run(
    title: str, arms: Mapping[str, Any], seeds: Sequence[int], workers: int | None, progress: bool
) -> dict[str, dict[int, Any]]:
    """arm -> seed -> metrics; the first job that fails is the user's error."""
    jobs = [Job(title, "", "", "full", arm, seed) for seed in seeds for arm in arms]
    found: dict[str, dict[int, Any]] = {arm: {} for arm in arms}
    with closing(run_jobs(arms, jobs, workers=workers)) as finished:
        for job in _checked(watched(finished, title, len(jobs), len(jobs), progress)):
            found[job.arm][job.seed] = job.metrics
    return found


def _checked(jobs: Iterator[Job]) -> Iterator[Job]:
    for job in jobs:
        if job.error:
            raise UserError(f"{job.arm} failed on seed {job.seed}: {last_line(job.error)}")
        yield job


def _recipe(bench: Bench, recipe: Recipe) -> Any:
    """What a ledger is of, as JSON gives it back."""
    return json.loads(json.dumps(plain({"training": bench.training, "start": bench.start, **vars(recipe)})))


def _label(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items()) or "as it is"


def _file(bench: Bench, name: str) -> Path:
    return (bench.tuned or FOLDER / bench.name) / f"{name}.json"


def _short(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Written beside and renamed, with a line for every trial."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    if "trials" in content:
        lines = ",\n".join(f"  {json.dumps(line)}" for line in content["trials"])
        shown = json.dumps({**content, "trials": "HERE"}, indent=1, ensure_ascii=False)
        text = shown.replace('"HERE"', f"[\n{lines}\n ]")
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(f"{text}\n", encoding="utf-8")
    beside.replace(file)
