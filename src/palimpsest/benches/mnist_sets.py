"""MNIST whose labels are sets: all that were observed, of mosaics with more, or all that may be, of which one is right.

Where each other class is a candidate 8 times of 10, whether a network learns at all is a draw, and at 7 of 10 trainings
on the same rows still differ by 0.09 in accuracy; so it is 6, with a learning rate that falls.
"""

from __future__ import annotations

from functools import partial

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.candidate_worlds import candidates
from palimpsest.benches.label_set_worlds import one_positive
from palimpsest.benches.labelled import class_scores, label_scores, valid_accuracy, valid_precision
from palimpsest.benches.mnist import CLASS_SCORES, CROSS_ENTROPY
from palimpsest.losses.classification import (
    average_candidate_cross_entropy,
    candidate_cross_entropy,
    weak_negative_cross_entropy,
)
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

MNIST_PARTIAL = Bench(
    name="mnist_partial",
    about="MNIST at 14 x 14: 1,000 images with a set of classes each, the true one and 6 of 10 of the others.",
    world=candidates,
    measures=class_scores,
    read=CLASS_SCORES,
    validate=valid_accuracy,
    start="network",
    floor=("untrained", Recipe()),
    ceiling=("true labels", Recipe(Supervised(), settings={"lr": 3e-3}, world={"known": True})),
    baselines={
        "candidates' sum": Recipe(Supervised(candidate_cross_entropy), grid=CROSS_ENTROPY.grid),
        "candidates' average": Recipe(
            Supervised(average_candidate_cross_entropy), grid={**CROSS_ENTROPY.grid, "lr": [1e-4, 3e-4, 1e-3]}
        ),
    },
    training={"steps": 300, "batch_size": 64, "schedule": "cosine"},
)
