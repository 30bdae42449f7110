"""Classes that arrive in groups, and no row of them may be kept: what is remembered are weights and statistics."""

from __future__ import annotations

from functools import partial

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench
from palimpsest.benches.stream_worlds import retained, split_mnist, valid_retained
from palimpsest.benches.streams import LR, READ
from palimpsest.retain.distillation import LwF
from palimpsest.retain.prototypes import PrototypeReplay, StreamingLDA
from palimpsest.retain.replay import FineTune, Joint
from palimpsest.retain.sequence import InSequence

HIGHER = [1e-3, 3e-3, 1e-2]  # what is held back may learn faster

EXEMPLAR_FREE = Bench(
    name="exemplar_free",
    about=(
        "MNIST at 14 x 14: four digits first, then three tasks of two, 250 images a digit; ten outputs, and the task "
        "is not told. No image may be kept."
    ),
    world=partial(split_mnist, sizes=(4, 2, 2, 2)),
    measures=retained,
    read=READ,
    validate=valid_retained,
    start="network",
    floor=("fine-tuning", Recipe(InSequence(FineTune()), settings={"lr": 1e-3})),
    ceiling=("joint", Recipe(InSequence(Joint()), settings={"lr": 3e-3})),
    baselines={
        "prototype_replay": Recipe(InSequence(PrototypeReplay()), grid={"lr": HIGHER, "held": [0.3, 1.0]}),
        "lwf": Recipe(InSequence(LwF()), grid={"lr": LR, "strength": [1.0, 4.0]}),
        "slda": Recipe(InSequence(StreamingLDA()), grid={"lr": LR, "shrinkage": [1e-4, 1e-2]}),
    },
    training={"steps": 200, "batch_size": 32},
)
