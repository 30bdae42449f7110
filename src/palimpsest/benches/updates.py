"""Updates of a classifier in use: the new model against what the old one had right."""

from __future__ import annotations

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.update_worlds import ACCURACY, LOST, NEW_ERRORS, WON, series_update, updated, valid_updated
from palimpsest.retain.bcwi_measures import OldAndNew
from palimpsest.retain.distillation import LwF
from palimpsest.retain.penalties import L2Init
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import InSequence

LR = [3e-4, 1e-3, 3e-3]

SERIES_UPDATE = Bench(
    name="series_update",
    about=(
        "A network that learned 1,000 noisy series of ten shapes is trained on from its weights with 4,000, the old "
        "among them. What counts is how few of 2,000 others it gets wrong that it had right. The ceiling asks both "
        "networks, at twice the cost."
    ),
    world=series_update,
    measures=updated,
    read={
        LOST: Measure("lower"),
        ACCURACY: Measure(),
        WON: Measure(),
        NEW_ERRORS: Measure("lower"),
    },
    validate=valid_updated,
    start="old",
    floor=("new model", Recipe(InSequence(FineTune()), settings={"lr": 3e-3})),
    ceiling=("old and new", Recipe(InSequence(OldAndNew()), settings={"lr": 3e-3})),
    baselines={
        "lwf": Recipe(InSequence(LwF()), grid={"lr": LR, "strength": [0.3, 1.0]}),
        "l2_to_old": Recipe(InSequence(L2Init(anchor="previous")), grid={"lr": LR, "strength": [1e-3, 1e-2]}),
    },
    training={"steps": 600, "batch_size": 64, "already": 1},
)
