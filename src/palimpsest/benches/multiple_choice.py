"""One of two subjects is to be forgotten, as a benchmark asks for it: methods at equal accuracy on it.

Every arm trains until the model answers hardly more of the subject than a guess would. Then one sees what is left of
the other subject, and what the questions bring back in another form.
"""

from __future__ import annotations

from palimpsest.benches.arm import Level, Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.multiple_choice_world import FORGOTTEN, TwoSubjects, forget_accuracy, measures, validate
from palimpsest.forget.baselines import LLMU, RMU

UNTIL_FORGOTTEN = Level("forget accuracy", FORGOTTEN, every=2)

MULTIPLE_CHOICE = Bench(
    name="multiple_choice",
    about=(
        "A three-layer language model knows two subjects, 36 and 48 questions with four options, in six forms each; it"
        " is to forget the first, of which methods see the plain form, and to keep the other, of which they see half."
    ),
    world=TwoSubjects,
    measures=measures,
    read={
        "kept accuracy": Measure(),
        "forget accuracy": Measure("lower"),
        "forget accuracy in all forms": Measure("lower"),
        "text loss": Measure("lower", None),
        "seconds": Measure("lower", None),
    },
    validate=validate,
    start="base",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=("gold", Recipe(start="gold")),
    baselines={
        "llmu": Recipe(LLMU(), grid={"lr": [3e-4, 1e-3], "retain_weight": [10.0, 100.0]}, level=UNTIL_FORGOTTEN),
        "rmu": Recipe(
            RMU(layer=2, coefficient=60.0),
            grid={"lr": [3e-2, 1e-1], "alpha": [1.0, 2.0]},
            level=UNTIL_FORGOTTEN,
        ),
    },
    points=4,
    training={"steps": 240, "optimizer": "adamw", "clip": 1.0, "batch_size": 16},
    watch={"forget accuracy": forget_accuracy},
)
