"""Facts about fictitious authors are to be forgotten and the rest of the model kept: methods at equal forgetting.

Every arm trains until the forgotten answers are hardly likelier (by 0.05) than the model finds them that was retrained
without the facts. Then one sees what it has lost of all that no method was given to rehearse.
"""

from __future__ import annotations

from palimpsest.benches.arm import Level, Recipe
from palimpsest.benches.authors_kit import (
    FORGOTTEN,
    Forgetting,
    above_gold,
    forget_probability,
    measures,
    validate,
)
from palimpsest.benches.bench import Bench, Measure
from palimpsest.forget.baselines import IDK, RMU, GradAscent
from palimpsest.forget.npo import NPO

UNTIL_FORGOTTEN = Level("forget probability above gold", FORGOTTEN, every=2)
GRID = {"lr": [3e-4, 1e-3], "retain_weight": [20.0, 200.0, 2000.0]}  # with AdamW only the terms' ratio counts

AUTHORS = Bench(
    name="authors",
    about=(
        "A two-layer language model knows eight facts about each of 40 fictitious authors, and 102 about the world; it"
        " is to forget half of the authors and to keep the rest, of whom methods are given half (after TOFU)."
    ),
    world=Forgetting,
    measures=measures,
    read={
        "model utility": Measure(),
        "log10 forget quality": Measure(bounds=None),
        "forget probability above gold": Measure("lower", None),
        "forget ROUGE-L relearned": Measure("lower", (-1.0, 1.0)),
        "forget probability": Measure("lower"),
        "seconds": Measure("lower", None),
    },
    validate=validate,
    start="base",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=("gold", Recipe(start="gold")),
    baselines={
        "grad_diff": Recipe(GradAscent(), grid=GRID, level=UNTIL_FORGOTTEN),
        "grad_diff_summed": Recipe(GradAscent(per_token=False), grid=GRID, level=UNTIL_FORGOTTEN),
        "idk": Recipe(IDK(), grid=GRID, level=UNTIL_FORGOTTEN),
        "npo": Recipe(NPO(), grid=GRID, level=UNTIL_FORGOTTEN),
        "rmu": Recipe(
            RMU(coefficient=20.0), grid={"lr": [5e-3, 1e-2, 2e-2], "alpha": [1.0, 10.0]}, level=UNTIL_FORGOTTEN
        ),
    },
    training={"steps": 240, "optimizer": "adamw", "clip": 1.0, "batch_size": 16},
    seeds=tuple(range(240, 260)),  # the worlds of those before were looked at with other grids, or with less room
    watch={"forget probability above gold": above_gold, "forget probability": forget_probability},
)
