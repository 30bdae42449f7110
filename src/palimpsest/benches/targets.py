"""People are to be forgotten by their names alone, and those linked to them kept."""

from __future__ import annotations

from palimpsest.benches.bench import Measure
from palimpsest.benches.rows import GRID, rows_bench, usual
from palimpsest.benches.targets_world import Targets

TARGETS = rows_bench(
    name="targets",
    about=(
        "A two-layer language model knows six facts of each of 14 invented people, asked for in many ways; it is to "
        "forget four of them, from passages that it writes about them itself, and to keep their teachers (after RWKU)."
    ),
    world=Targets,
    baselines={
        "grad_diff": usual()["grad_diff"],
        "npo": usual({**GRID, "lr": [2e-3, 4e-3, 8e-3]})["npo"],  # at lower rates it does not get to the level
    },
    training={"steps": 200},
    read={
        "neighbour recall": Measure(),
        "plain recall": Measure("lower"),
        "adversarial recall": Measure("lower"),
        "adversarial excess": Measure("lower", (-2.0, 2.0)),
    },
)
