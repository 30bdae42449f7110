"""What benches share on which rows are to be forgotten: the level, the baselines and the grid that they are tuned over.

CONTRACTS = rows_bench(name="contracts", about="...", world=Contracts, read={"kept recall": Measure()})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palimpsest.benches.arm import Level, Recipe
from palimpsest.benches.authors_kit import FORGOTTEN
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.rows_kit import ABOVE_GOLD, above, measures, validate
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.npo import NPO

UNTIL_FORGOTTEN = Level(ABOVE_GOLD, FORGOTTEN, every=2)
GRID = {"lr": [3e-4, 1e-3, 3e-3], "retain_weight": [2.0, 10.0]}


def usual(grid: Mapping[str, Sequence[Any]] = GRID, **world: Any) -> dict[str, Recipe]:
    """Gradient difference and NPO with its retain term, both to be tuned over a grid until the rows are forgotten.

    Args:
        world: what the world is asked for.
    """
    methods = {"grad_diff": GradAscent(), "npo": NPO()}
    return {name: Recipe(m, grid=grid, level=UNTIL_FORGOTTEN, world=world) for name, m in methods.items()}


def rows_bench(read: Mapping[str, Measure], training: Mapping[str, Any] | None = None, **own: Any) -> Bench:
    """A bench on a world of rows, between a model that was never trained and one that never saw the rows to forget.

    Args:
        read: the world's own measures, that by which methods are judged first.
        training: where it differs from AdamW for at most 120 steps of 16 rows.
        own: further fields of `Bench`.
    """
    return Bench(
        **{
            "measures": measures,
            "validate": validate,
            "start": "base",
            "floor": ("untrained", Recipe(start="untrained")),
            "ceiling": ("gold", Recipe(start="gold")),
            "baselines": usual(),
            "watch": {ABOVE_GOLD: above},
            "read": {**read, ABOVE_GOLD: Measure("lower", None), "seconds": Measure("lower", None)},
            "training": {
                "steps": 120,
                "optimizer": "adamw",
                "clip": 1.0,
                "batch_size": 16,
                **(training or {}),
            },
            **own,
        }
    )
