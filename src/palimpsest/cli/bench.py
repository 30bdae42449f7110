"""`palimpsest bench glyphs`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from palimpsest.cli.output import number, page, print_json
from palimpsest.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """What a comparison is made on: floor, tuned baselines, ceiling, and how large a gain it can find.

    Without a name: all benches.
    """

    name: Positional[tuple[str, ...]]
    """benches"""
    tune: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """try the grid of this baseline, or of this paper's method, and file the results in the package; may be repeated"""
    bracket: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """go on from what is filed of this one, beyond the edges of its grid, as --tune does by itself; may be repeated"""
    measure: bool = False
    """run floor, baselines and ceiling on pilot seeds, and file the results in the package"""
    workers: int | None = None
    """processes at the same time; one for every processor unless told otherwise"""
    json: bool = False
    """print JSON"""


def main(args: Arguments) -> None:
    from palimpsest.benches import tuning
    from palimpsest.benches.shelf import bench, benches

    if (args.tune or args.bracket or args.measure) and len(args.name) != 1:
        raise UserError("--tune, --bracket and --measure are of one bench: name it")
    chosen = [bench(name) for name in args.name] or benches()
    for name in args.tune:
        tuning.tune(chosen[0], name, _recipe(chosen[0], name), workers=args.workers, progress=not args.json)
    for name in [*args.tune, *args.bracket]:
        tuning.bracket(chosen[0], name, _recipe(chosen[0], name), workers=args.workers, progress=not args.json)
    if args.measure:
        tuning.measure(chosen[0], workers=args.workers, progress=not args.json)
    if args.json:
        found = [_content(one) for one in chosen]
        print_json(found[0] if len(args.name) == 1 else found)
        return
    with page() as console:
        if args.name:
            for one in chosen:
                _show(console, one)
        else:
            _list(console, chosen)


def _recipe(bench: Any, name: str) -> Any:
    """The recipe that is tuned under a name: a baseline's, or that of a paper's method."""
    if name in bench.baselines:
        return bench.baselines[name]
    from palimpsest.evidence import load_claim

    for arm in load_claim(name).arms.values():
        if getattr(arm, "name", "") == name and arm.bench == bench and not arm.changes:
            return arm.recipe
    raise UserError(f"the claim of {name} has no method on the bench {bench.name}")


def _content(bench: Any) -> dict[str, Any]:
    from palimpsest.benches import tuning

    tuned = {name: tuning.ledger(bench, name) for name in bench.baselines}
    about = {"name": bench.name, "about": bench.about, "floor": bench.floor[0], "ceiling": bench.ceiling[0]}
    return {
        **about,
        "pools": tuning.pools(bench),
        "baselines": tuned,
        "measures": [asdict(room) for room in tuning.room(bench)],
    }


def _list(console: Console, benches: Sequence[Any]) -> None:
    from palimpsest.benches import tuning

    table = Table.grid(padding=(0, 2))
    for title in ("bench", "measure", "floor", "best baseline", "ceiling", "seconds an arm"):
        table.add_column(Text(title, style="bold"), justify="left" if title in ("bench", "measure") else "right")
    table.add_row(*(column.header for column in table.columns))
    for bench in benches:
        rooms = tuning.room(bench)
        if not rooms:
            table.add_row(bench.name, Text("not measured yet", style="bright_black"))
            continue
        room = rooms[0]
        table.add_row(
            bench.name,
            room.measure,
            number(room.values.get(bench.floor[0], float("nan"))),
            number(_best(bench, room)),
            number(room.values.get(bench.ceiling[0], float("nan"))),
            number(tuning.seconds(bench)),
        )
    console.print(table)


def _show(console: Console, bench: Any) -> None:
    from palimpsest.benches import tuning

    console.print(Text(bench.name, style="bold"))
    console.print(Text(bench.about))
    if digests := tuning.pools(bench):
        console.print(Text(f"rows made from what is installed, digest {digests[-1][:12]}", style="bright_black"))
    for room in tuning.room(bench):
        table = Table.grid(padding=(0, 2))
        for arm, value in room.values.items():
            role = {bench.floor[0]: "floor", bench.ceiling[0]: "ceiling"}.get(arm, "")
            table.add_row(Text(arm), Text(number(value)), Text(role, style="bright_black"))
        better = bench.read[room.measure].better
        console.print(Padding(Text(f"{room.measure} ({better} is better)", style="italic"), (1, 0, 0, 0)))
        console.print(Padding(table, (0, 0, 0, 2)))
        gains = ", ".join(f"{number(gain)} at {look} seeds" for look, gain in room.decides.items())
        said = "trained again, an arm is the same: how large a gain can be found is not known"
        if gains:
            said = f"with nothing to find, differences spread by {number(room.spread)}; found in 80% of runs: {gains}"
        console.print(Padding(Text(said, style="bright_black"), (0, 0, 0, 2)))
    for name in (name for name, recipe in bench.baselines.items() if recipe.grid):
        found = tuning.ledger(bench, name)
        console.print(Padding(Text(f"{name}: tuned by the validation rows of seeds", style="italic"), (1, 0, 0, 0)))
        if found is None:
            console.print(Padding(Text("not tuned yet", style="yellow"), (0, 0, 0, 2)))
            continue
        table = Table.grid(padding=(0, 2))
        for trial in found["trials"]:
            point = ", ".join(f"{field} {value}" for field, value in trial["point"].items())
            mark = "chosen" if trial["point"] == found["chosen"] else ""
            table.add_row(Text(point), Text(" ".join(map(number, trial["validation"]))), Text(mark, style="green"))
        console.print(Padding(table, (0, 0, 0, 2)))
        if ends := tuning.at_edge(found):
            said = f"the best lies at the edge of what was tried: {', '.join(sorted(ends))}"
            console.print(Padding(Text(said, style="yellow"), (0, 0, 0, 2)))
        for which, why in found.get("edges", {}).items():
            console.print(Padding(Text(f"{which}: {why}", style="bright_black"), (0, 0, 0, 2)))


def _best(bench: Any, room: Any) -> float:
    values = [room.values[name] for name in bench.baselines if name in room.values]
    return (max if bench.read[room.measure].better == "higher" else min)(values)
