"""Facts about authors are to be forgotten by a model that also calculates and speaks: methods at equal forgetting.

The level is that of the bench `authors`. Here stand the methods that are given nothing but the rows to forget, and the
question is what is left of a model that nothing held in place: whether it still answers in language, and calculates.
"""

from __future__ import annotations

from palimpsest.benches.arm import Level, Recipe
from palimpsest.benches.authors_kit import FORGOTTEN, above_gold
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.mixture_kit import Mixture, measures, validate
from palimpsest.forget.baselines import IDK, GradAscent

UNTIL_FORGOTTEN = Level("forget probability above gold", FORGOTTEN, every=4)

RATES = {"lr": [1e-4, 2e-4, 5e-4, 1e-3]}

MIXTURE = Bench(
    name="mixture",
    about=(
        "A two-layer language model knows eight facts about each of 20 fictitious authors, 36 sums of one digit, some"
        " sentences of Python's documentation, and how to refuse; it is to forget half of the authors and to stay able"
        " to do all else."
    ),
    world=Mixture,
    measures=measures,
    read={
        "model utility": Measure(),
        "arithmetic accuracy": Measure(),
        "well-formed share": Measure(),
        "retain well-formed share": Measure(),
        "prose loss": Measure("lower", None),
        "log10 forget quality": Measure(bounds=None),
        "forget probability above gold": Measure("lower", None),
        "seconds": Measure("lower", None),
    },
    validate=validate,
    start="base",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=("gold", Recipe(start="gold")),
    baselines={
        "grad_ascent": Recipe(GradAscent(retain="none"), grid=RATES, level=UNTIL_FORGOTTEN),
        "refusal": Recipe(IDK(retain="none"), grid=RATES, level=UNTIL_FORGOTTEN),
        "grad_diff": Recipe(
            GradAscent(), grid={"lr": [3e-4, 1e-3], "retain_weight": [5.0, 20.0]}, level=UNTIL_FORGOTTEN
        ),
    },
    points=4,
    training={"steps": 160, "optimizer": "adamw", "clip": 1.0, "batch_size": 16},
    watch={"forget probability above gold": above_gold},
)
