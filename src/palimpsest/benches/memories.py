"""Sentences that a small language model sees a few times: with less structure, is less of them remembered?"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.memories_world import BATCH, RECALL, RECOGNITION, Memories, measures, validate
from palimpsest.retain.recall_retention import Study

LR = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
FEW, MANY = 10, 30

MEMORIES = Bench(
    name="memories",
    about=(
        "A two-layer reader of Python's language reference studies 60 sentences that are new to it, ten times each;"
        " it is asked which of two it saw, and for the second half of each."
    ),
    world=Memories,
    measures=measures,
    read={RECALL: Measure(), RECOGNITION: Measure()},
    validate=validate,
    start="reader",
    floor=("unstudied", Recipe(start="reader")),
    ceiling=("studied often", Recipe(Study(MANY), settings={"lr": 2e-3})),
    baselines={"shuffled": Recipe(Study(FEW), grid={"lr": LR}, world={"stimulus": "shuffled"})},
    training={"batch_size": BATCH},
    measured=(0, 1),
)
