"""One fact about each of some people is to be forgotten, and their other facts kept: methods at equal forgetting.

Every arm trains until a tenth of the facts is left, asked in a wording that no method was given. The ceiling is the
model before: what is to be kept, it knows.
"""

from __future__ import annotations

from torch import nn

from palimpsest.benches.arm import Level, Metrics, Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.one_fact_world import HELD_OUT, OTHERS, SAME, OneFact, held_out, kept, measures
from palimpsest.forget.baselines import GradAscent

LEFT = 0.1
GRID = {"lr": [1e-4, 3e-4, 1e-3], "retain_weight": [5.0, 20.0]}
UNTIL_LEFT = Level(HELD_OUT, LEFT, every=2)


def validate(world: OneFact, model: nn.Module, cost: Metrics) -> float:
    """What is kept of the others' birthplaces by a model that has forgotten; of one that has not, how much of what
    should be gone is left, below 0."""
    left = held_out(world, model)
    return kept(world, model, "validation")[OTHERS] if left <= LEFT else -left


ONE_FACT = Bench(
    name="one_fact",
    about=(
        "A two-layer language model knows eight facts about each of 32 fictitious authors; it is to forget the"
        " birthplaces of twelve, and to keep all else, such as those of twenty, of whom methods are given four."
    ),
    world=OneFact,
    measures=measures,
    read={OTHERS: Measure(), SAME: Measure(), HELD_OUT: Measure("lower"), "seconds": Measure("lower", None)},
    validate=validate,
    start="base",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=("before", Recipe(start="base")),
    baselines={"grad_diff": Recipe(GradAscent(), grid=GRID, level=UNTIL_LEFT)},
    training={"steps": 240, "optimizer": "adamw", "clip": 1.0, "batch_size": 16},
    watch={HELD_OUT: held_out},
)
