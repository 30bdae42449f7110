"""Digits learned in one domain and read in another, in all six directions: what methods of adaptation and of
generalisation are compared on."""

from __future__ import annotations

from functools import partial

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.domain_worlds import carried
from palimpsest.benches.labelled import class_scores, valid_accuracy
from palimpsest.tasks.real_domains import DIRECTIONS
from palimpsest.train.classification import Supervised

GRID = {"lr": [3e-4, 1e-3, 3e-3, 1e-2]}
WRITTEN = {"uci": "written on a tablet", "mnist": "scanned from forms", "printed": "printed in 21 faces"}


def direction(source: str, target: str) -> Bench:
    """The bench on the way from one domain to another."""
    return Bench(
        name=f"{source}_to_{target}",
        about=f"Digits {WRITTEN[source]}, 500 with labels; tested on such as are {WRITTEN[target]}, 500 without.",
        world=partial(carried, source=source, target=target),
        measures=class_scores,
        read={"accuracy": Measure(), "log loss": Measure("lower", None), "calibration error": Measure("lower")},
        validate=valid_accuracy,
        start="network",
        floor=("untrained", Recipe()),
        ceiling=("labels of the target", Recipe(Supervised(), settings={"lr": 1e-3}, world={"labels": "target"})),
        baselines={
            "source only": Recipe(Supervised(), grid=GRID),
            "both other domains": Recipe(Supervised(), grid=GRID, world={"labels": "others"}),
        },
        points=4,
        training={"steps": 200, "batch_size": 64},
    )


UCI_TO_MNIST, UCI_TO_PRINTED, MNIST_TO_UCI, MNIST_TO_PRINTED, PRINTED_TO_UCI, PRINTED_TO_MNIST = (
    direction(*way) for way in DIRECTIONS
)
