"""Markov chains on two blocks of states are to be forgotten, those on a third kept: a world of NPO and SimNPO.

With a retain weight of 1 gradient difference strays four times as far on kept chains as with 5.
"""

from __future__ import annotations

from palimpsest.benches.arm import Level, Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.chains_world import (
    ADVANTAGE,
    BOTH,
    FORGOTTEN,
    GONE,
    KEPT,
    Chains,
    forgotten,
    measures,
    validate,
)
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.npo import NPO

GRID = {"lr": [5e-5, 1.5e-4, 5e-4], "retain_weight": [5.0, 20.0]}
UNTIL = Level(ADVANTAGE, FORGOTTEN, every=2)

CHAINS = Bench(
    name="chains",
    about=(
        "A two-layer model knows Markov chains on three blocks of three states each; it is to forget those on two of "
        "the blocks, which are long on one and short on the other. What it should say then is known exactly."
    ),
    world=Chains,
    measures=measures,
    read={name: Measure("lower", None) for name in (BOTH, KEPT, GONE, ADVANTAGE)},
    validate=validate,
    start="base",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=("gold", Recipe(start="gold")),
    baselines={
        "grad_diff": Recipe(GradAscent(), grid=GRID, level=UNTIL),
        "npo": Recipe(NPO(), grid=GRID, level=UNTIL),
    },
    watch={ADVANTAGE: forgotten},
    training={"steps": 400, "batch_size": 32, "optimizer": "adamw", "clip": 1.0},
)
