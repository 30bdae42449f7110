"""What else does a module import? What a way of training a recommender is worth on real interactions."""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.imports_world import AMONG_ALL, FOUND, SAMPLED, Imports, measures, validate
from palimpsest.losses.ranking import bpr, sampled_softmax
from palimpsest.train.recommendation import EASE, Ranking

IMPORTS = Bench(
    name="imports",
    about=(
        "2,018 modules of installed packages and the 1,059 names that they import: a held-out name is ranked among all"
        " that its module does not import, by the vectors of a matrix factorisation."
    ),
    world=Imports,
    measures=measures,
    read={AMONG_ALL: Measure(), FOUND: Measure(), SAMPLED: Measure()},
    validate=validate,
    start="factorisation",
    floor=("popularity", Recipe(start="popularity")),
    ceiling=("full information", Recipe(Ranking(bpr), settings={"lr": 2e-2}, world={"everything": True})),
    baselines={
        "bpr": Recipe(Ranking(bpr), grid={"lr": [2e-2, 4e-2, 8e-2], "penalty": [2e-3, 8e-3]}),
        "softmax": Recipe(Ranking(sampled_softmax), grid={"lr": [1e-2, 2e-2, 4e-2], "penalty": [1e-2, 3e-2]}),
        "ease": Recipe(EASE(), grid={"penalty": [1.0, 3.0, 10.0, 30.0, 100.0, 300.0]}),
    },
    training={"steps": 600, "batch_size": 512, "schedule": "cosine"},
)
