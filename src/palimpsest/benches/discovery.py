"""Unnamed classes that arrive among old ones: what is found of them, and what is kept of those that had names."""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.discovery_world import ALL, NEW, OLD, discovered, discovery, valid_discovered
from palimpsest.retain.happy import Happy
from palimpsest.retain.replay import Joint
from palimpsest.retain.sequence import InSequence

RATES = [3e-4, 1e-3, 3e-3]

DISCOVERY = Bench(
    name="discovery",
    about=(
        "MNIST at 14 x 14: four digits with labels, then three tasks of two new digits among old ones, none with a "
        "label and no image kept. In the end groups are matched with all ten digits, one to one."
    ),
    world=discovery,
    measures=discovered,
    read={ALL: Measure(), OLD: Measure(), NEW: Measure()},
    validate=valid_discovered,
    start="network",
    floor=("centroids alone", Recipe(InSequence(Happy(discover=False)), settings={"lr": 1e-3})),
    ceiling=("all labels", Recipe(InSequence(Joint()), settings={"lr": 3e-3})),
    baselines={
        "simgcd": Recipe(
            InSequence(Happy(entropy="mean", start="drew", prototypes="none", held=0.0)),
            grid={"lr": RATES, "entropy_weight": [1.0, 2.0]},
        )
    },
    training={"steps": 150, "batch_size": 64},
)
