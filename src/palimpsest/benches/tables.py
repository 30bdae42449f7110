"""A table with few rows: what methods for numbers and categories are compared on.

Not here are iris and wine, of which a linear model gets 0.95 and more, and randhie, where 1,000 of 16,000 rows already
bring a linear model to a log loss of 1.046, against 1.078 by the classes' frequencies and 1.03 by boosting of all.
"""

from __future__ import annotations

from functools import partial

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.estimators import Fitted, boosting, frequencies, logistic
from palimpsest.benches.labelled import class_scores, valid_log_likelihood
from palimpsest.benches.table_worlds import table
from palimpsest.train.classification import Supervised

MODECHOICE = Bench(
    name="modechoice",
    about="Which of 4 ways a traveller takes, by 17 columns of times and costs: 40 travellers to learn from.",
    world=partial(table, name="modechoice", rows=40),
    measures=class_scores,
    read={"log loss": Measure("lower", None), "accuracy": Measure(), "calibration error": Measure("lower")},
    validate=valid_log_likelihood,
    start="network",
    floor=("frequencies", Recipe(Fitted(frequencies))),
    ceiling=("boosting of all rows", Recipe(Fitted(boosting), world={"rows": None})),
    baselines={
        "network": Recipe(Supervised(), grid={"lr": [3e-4, 1e-3, 3e-3], "weight_decay": [1.0, 10.0]}),
        "logistic regression": Recipe(
            Fitted(partial(logistic, strength=1.0)), grid={"strength": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]}
        ),
        "gradient boosting": Recipe(
            Fitted(partial(boosting, rate=0.1, rounds=50)), grid={"rate": [0.03, 0.1, 0.3], "rounds": [30, 100]}
        ),
    },
    training={"steps": 200, "batch_size": 32},
    pilots=tuple(range(6)),
)
