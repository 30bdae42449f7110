"""Digits that come two by two and are seen once: what is kept without a buffer, by how a network is made and trained.

The floor learns each task as if it were alone; the ceiling draws from the rows of all tasks so far, at the same number
of updates. Nothing is stored.
"""

from __future__ import annotations

from palimpsest.benches.bench import Bench, Recipe
from palimpsest.benches.stream_worlds import retained, split_mnist, valid_retained
from palimpsest.benches.streams import LR, READ
from palimpsest.retain.hard_ash import HardASH
from palimpsest.retain.penalties import EWC
from palimpsest.retain.replay import FineTune, Joint
from palimpsest.retain.sequence import InSequence

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]

ONE_PASS = Bench(
    name="one_pass",
    about=(
        "MNIST at 14 x 14 in five tasks of two digits, 500 images each, seen once in batches of 16; ten outputs, and "
        "the task is not told. No rows are kept."
    ),
    world=split_mnist,
    measures=retained,
    read=READ,
    validate=valid_retained,
    start="network",
    floor=("fine-tuning", Recipe(InSequence(FineTune()), settings={"lr": 1e-3})),
    ceiling=("joint", Recipe(InSequence(Joint()), settings={"lr": 3e-3})),
    baselines={
        "relu with adagrad": Recipe(HardASH(activation="relu"), grid={"lr": RATES}),
        "ewc": Recipe(InSequence(EWC(labels="sampled")), grid={"lr": LR, "strength": [1e2, 1e4]}),
    },
    training={"steps": 31, "batch_size": 16},
)
