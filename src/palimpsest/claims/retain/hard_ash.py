"""Is more kept, without a buffer, where few units speak of each row? (Keskinen 2024, 2404.17651)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.one_pass import ONE_PASS, RATES
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.evidence.sentences import beats, mechanism, safety
from palimpsest.retain.hard_ash import HardASH
from palimpsest.retain.sequence import Learner
from palimpsest.retain.sparse_networks import overlap, sparsity
from palimpsest.train.method import Applied

SHARED, SILENT = "overlap of the first two tasks", "share of features that are silent"


def speaking(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """Who speaks of the test rows in the end."""
    model = applied.model.model if isinstance(applied.model, Learner) else applied.model
    first, second = (task.test.x for task in world.data.tasks[:2])
    return {SHARED: overlap(model, first, second), SILENT: sparsity(model, first)}


claim = ONE_PASS.claim(
    paper="hard_ash",
    question=(
        "Of ten digits that come two by two and are seen once, does a network know more in the end where only units "
        "that stand out of their layer speak, than with rectified units, both with Adagrad?"
    ),
    method=Recipe(HardASH(), grid={"lr": RATES}),
    arms={"sgd": {"by": "sgd", "lr": 1e-2}, "ash": {"activation": "ash"}},
    then=speaking,
    read={SHARED: Measure("lower"), SILENT: Measure()},
    alive=[beats("relu with adagrad", on=SILENT, by=0.2)],
    central=beats("relu with adagrad", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("relu with adagrad", on=SHARED, by=0.1)),
        mechanism(beats("sgd", on=ACCURACY, by=0.05)),
        safety(beats("ewc", on=ACCURACY, by=0.0)),
    ],
    differs=(
        "The paper trains 1,000 units on 60,000 images of 28 x 28 pixels in batches of 64, seen once, and reports no "
        "baseline's own tuning of EWC. Here the same network sees 2,500 images of 14 x 14 in batches of 16; rectified "
        "units have its normalised weights and its optimizer, and as many rates to choose from. Gradient descent at a "
        "rate of 0.01 and ASH at the rate chosen for Hard ASH are not tuned."
    ),
)
