"""MNIST whose labels are sets of which not all is known: what methods for missing labels are compared on."""

from __future__ import annotations

from functools import partial

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.label_set_worlds import one_positive
from palimpsest.benches.labelled import label_scores, valid_precision
from palimpsest.benches.mnist import CROSS_ENTROPY
from palimpsest.losses.classification import weak_negative_cross_entropy
from palimpsest.train.classification import Supervised

MNIST_MULTILABEL = Bench(
    name="mnist_multilabel",
    about="Mosaics of one to four digits, 1,000 to learn from, of whose labels one positive each was observed.",
    world=one_positive,
    measures=label_scores,
    read={"mean average precision": Measure()},
    validate=valid_precision,
    start="network",
    floor=("untrained", Recipe()),
    ceiling=(
        "all labels",
        Recipe(Supervised(weak_negative_cross_entropy), settings={"lr": 3e-3}, world={"known": True}),
    ),
    baselines={
        "assumed negatives": Recipe(Supervised(weak_negative_cross_entropy), grid=CROSS_ENTROPY.grid),
        "weak negatives": Recipe(
            Supervised(partial(weak_negative_cross_entropy, weight=1 / 9)),
            grid={"lr": [1e-3, 3e-3], "weight": [1 / 27, 1 / 9, 1 / 3]},
        ),
    },
    training={"steps": 300, "batch_size": 64},
)
