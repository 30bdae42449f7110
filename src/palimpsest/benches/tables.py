"""Tables with few rows: what methods for numbers and categories are compared on.

Of diabetes 40 rows already bring a network to an R squared of 0.41, and all rows a linear model to 0.43: so it is 16.
Of randhie the visits are told as a number: 100 rows bring a linear model to 0.05 and all 16,000 to 0.10, while of its
three classes 1,000 bring it to a log loss of 1.046, against 1.078 by their frequencies and 1.03 by boosting of all.
Not here is iris, of which a linear model gets 0.95 and more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.estimators import Fitted, boosted_numbers, boosting, frequencies, logistic, mean, ridge
from palimpsest.benches.labelled import class_scores, number_scores, valid_log_likelihood, valid_r_squared
from palimpsest.benches.table_worlds import squared_error, table
from palimpsest.train.classification import Supervised

ALL: dict[str, Any] = {"rows": None}
STRENGTHS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
NETWORK = {"lr": [3e-4, 1e-3, 3e-3], "weight_decay": [1.0, 10.0]}
TREES = {"rate": [0.03, 0.1, 0.3], "rounds": [30, 100]}
CLASSES: dict[str, Any] = {
    "measures": class_scores,
    "read": {"log loss": Measure("lower", None), "accuracy": Measure(), "calibration error": Measure("lower")},
    "validate": valid_log_likelihood,
    "floor": ("frequencies", Recipe(Fitted(frequencies))),
    "baselines": {
        "network": Recipe(Supervised(), grid=NETWORK),
        "logistic regression": Recipe(Fitted(partial(logistic, strength=1.0)), grid={"strength": STRENGTHS}),
        "gradient boosting": Recipe(Fitted(partial(boosting, rate=0.1, rounds=50)), grid=TREES),
    },
}


def number_baselines(strengths: list[float], **network: list[float]) -> dict[str, Recipe]:
    """Of a number: a network and a linear model, with penalties that the table asks for, and trees."""
    return {
        "network": Recipe(Supervised(squared_error), grid=network),
        "linear regression": Recipe(Fitted(partial(ridge, strength=1.0)), grid={"strength": strengths}),
        "gradient boosting": Recipe(Fitted(partial(boosted_numbers, rate=0.1, rounds=50)), grid=TREES),
    }


NUMBERS: dict[str, Any] = {
    "measures": number_scores,
    "read": {"R squared": Measure("higher", None)},
    "validate": valid_r_squared,
    "floor": ("mean", Recipe(Fitted(mean))),
    "ceiling": ("linear regression of all rows", Recipe(Fitted(ridge), world=ALL)),
    "baselines": number_baselines([0.3, 1.0, 3.0, 10.0, 30.0, 100.0], **NETWORK),
}
SHARED: dict[str, Any] = {"start": "network", "training": {"steps": 200, "batch_size": 32}, "pilots": tuple(range(6))}

MODECHOICE = Bench(
    name="modechoice",
    about="Which of 4 ways a traveller takes, by 17 columns of times and costs: 40 travellers to learn from.",
    world=partial(table, name="modechoice", rows=40),
    ceiling=("boosting of all rows", Recipe(Fitted(boosting), world=ALL)),
    **CLASSES,
    **SHARED,
)

BREAST_CANCER = Bench(
    name="breast_cancer",
    about="Malignant or benign, by 30 measures of cells: 20 rows to learn from.",
    world=partial(table, name="breast_cancer", rows=20),
    ceiling=("logistic regression of all rows", Recipe(Fitted(logistic), world=ALL)),
    **CLASSES,
    **SHARED,
)

WINE = Bench(
    name="wine",
    about="Which of 3 cultivars a wine is of, by 13 measures: 12 wines to learn from.",
    world=partial(table, name="wine", rows=12),
    ceiling=("logistic regression of all rows", Recipe(Fitted(logistic), world=ALL)),
    **CLASSES,
    **{**SHARED, "training": {"steps": 200, "batch_size": 8}},
)

DIABETES = Bench(
    name="diabetes",
    about="How far the disease has gone in a year, a number, by 10 measures: 16 rows to learn from.",
    world=partial(table, name="diabetes", rows=16),
    **NUMBERS,
    **SHARED,
)

RANDHIE = Bench(
    name="randhie",
    about=(
        "How often somebody sees a physician in a year, as log(1 + visits), by 7 columns of insurance and health: 100 "
        "people to learn from."
    ),
    world=partial(table, name="randhie_visits", rows=100),
    **{
        **NUMBERS,
        "baselines": number_baselines(
            [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0], lr=[1e-4, 3e-4, 1e-3], weight_decay=[10.0, 30.0]
        ),
    },
    **SHARED,
)
