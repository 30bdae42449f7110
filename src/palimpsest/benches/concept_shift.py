"""Labels that change their meaning: how fast is it learned anew?

The floor answers without learning; the ceiling learns a stream of the same images whose labels never change.
"""

from __future__ import annotations

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.concept_shift_world import BATCH, LATE, ONLINE, STEPS, concept_shift, online, valid_online
from palimpsest.retain.homeostatic import Constant, RandomWalk
from palimpsest.retain.online_learning import Online

CONCEPT_SHIFT = Bench(
    name="concept_shift",
    about=(
        f"MNIST at 14 x 14 in {STEPS} batches of {BATCH}, each answered before it is learned from by a step of "
        "gradient descent; after every 25 batches two digits change their names with each other. The training rows of "
        "twenty seeds in a row overlap."
    ),
    world=concept_shift,
    measures=online,
    read={ONLINE: Measure(), LATE: Measure()},
    validate=valid_online,
    start="network",
    floor=("not learning", Recipe()),
    ceiling=("nothing shifts", Recipe(Online(Constant()), settings={"lr": 0.1}, world={"every": None})),
    baselines={
        "constant rate": Recipe(Online(Constant()), grid={"lr": [0.03, 0.06, 0.1, 0.2, 0.3, 0.5]}),
        "random walk": Recipe(Online(RandomWalk()), grid={"lr": [0.03, 0.1, 0.2], "s_max": [0.5, 1.0]}),
    },
    training={"steps": STEPS, "batch_size": BATCH},
)
