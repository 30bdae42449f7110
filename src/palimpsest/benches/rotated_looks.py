"""Turned digits, looked at after every update: what is lost of the earlier angles while the next is learned, also
where it comes back."""

from __future__ import annotations

from functools import partial

from torch import nn

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.stream_worlds import (
    ACCURACY,
    FORGOTTEN,
    LEARNED,
    Numbers,
    StreamWorld,
    retained,
    rotated_mnist,
    valid_retained,
)
from palimpsest.retain.replay import ER, FineTune, Joint
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.retain.stability_gap import gap_report

GAP, DEPTH = "stability gap", "deepest fall"
MINIMUM, WORST = "minimum accuracy", "worst-case accuracy"
ROWS = 50  # of 14 x 14 pixels, a label and a task's number: 40 kB
looked_at = partial(InSequence, every=1)


def looks(world: StreamWorld, model: nn.Module) -> Numbers:
    """What is retained in the end, and what was in between; a network that diverged had a fall of all it knew."""
    found = retained(world, model)
    if not isinstance(model, Learner):
        return {**found, GAP: 1.0, DEPTH: 1.0, MINIMUM: 0.0, WORST: 0.0}
    report = gap_report(model.log.curve)
    earlier = ~report.depth.isnan()
    falls = {GAP: float(report.made_up[earlier].mean()), DEPTH: float(report.depth[earlier].mean())}
    return {**found, **falls, MINIMUM: report.minimum, WORST: report.worst_case}


ROTATED_LOOKS = Bench(
    name="rotated_looks",
    about=(
        "MNIST at 14 x 14 in three tasks of all ten digits, 500 images each, turned by 0, 80 and 160 degrees; all "
        "tasks are tested after every update. Buffers of 40 kB: 50 images."
    ),
    world=partial(rotated_mnist, angles=(0, 80, 160)),
    measures=looks,
    read={
        ACCURACY: Measure(),
        FORGOTTEN: Measure("lower", (-1.0, 1.0)),
        LEARNED: Measure(),
        GAP: Measure("lower"),
        DEPTH: Measure("lower"),
        MINIMUM: Measure(),
        WORST: Measure(),
    },
    validate=valid_retained,
    start="network",
    floor=("fine-tuning", Recipe(looked_at(FineTune()), settings={"lr": 1e-3})),
    ceiling=("joint", Recipe(looked_at(Joint()), settings={"lr": 3e-3})),
    baselines={"er": Recipe(looked_at(ER(size=ROWS)), grid={"lr": [3e-4, 1e-3, 3e-3], "replayed": [16, 32]})},
    training={"steps": 200, "batch_size": 32},
)
