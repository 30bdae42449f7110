"""Letters that training never saw: what a representation learned without labels is worth on new classes."""

from __future__ import annotations

from functools import partial

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.glyphs_world import (
    EPISODE,
    NEAREST,
    SEEN_LETTERS,
    UNSEEN,
    Letters,
    letters_crossentropy,
    measures,
    validate,
)
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.moco import queue_nce
from palimpsest.contrast.pretrain import Momentum, Views

GLYPHS = Bench(
    name="glyphs",
    about=(
        "312 letters in five faces each, drawn on 14 x 14 pixels, are seen in random views without their labels; then "
        "160 other letters are looked for by the features, as are the seen ones in five other faces."
    ),
    world=Letters,
    measures=measures,
    read={UNSEEN: Measure(), NEAREST: Measure(), EPISODE: Measure(), SEEN_LETTERS: Measure()},
    validate=validate,
    start="network",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=(
        "supervised",
        Recipe(Views(letters_crossentropy, with_batch=True), settings={"steps": 400}, start="classifier"),
    ),
    baselines={
        "nt_xent": Recipe(
            Views(partial(nt_xent, temperature=0.1)), grid={"temperature": [0.1, 0.2], "lr": [5e-3, 1e-2, 2e-2]}
        ),
        "nt_xent, batch 16": Recipe(
            Views(partial(nt_xent, temperature=0.2)),
            grid={"temperature": [0.1, 0.2], "lr": [1.5e-3, 3e-3, 6e-3]},
            settings={"batch_size": 16, "steps": 800},
        ),
        "moco": Recipe(
            Momentum(partial(queue_nce, temperature=0.2), m=0.95, size=512),
            grid={"temperature": [0.1, 0.2], "lr": [1e-3, 2e-3, 5e-3]},
        ),
        "pixels": Recipe(start="pixels"),
    },
    training={"steps": 200, "batch_size": 128, "lr": 3e-3, "weight_decay": 1e-4, "schedule": "cosine"},
)
