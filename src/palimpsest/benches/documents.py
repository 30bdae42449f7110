"""Authors are to be forgotten of whom documents tell, and the companions kept of whom the same documents tell."""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.documents_world import OTHERS, TARGET, Documents
from palimpsest.benches.rows import GRID, UNTIL_FORGOTTEN, rows_bench, usual
from palimpsest.forget.whp import WHP

RATES = [5e-4, 1e-3, 2e-3]

DOCUMENTS = rows_bench(
    name="documents",
    about=(
        "A two-layer language model has read 24 documents, each on an author and on a companion of whom no other tells;"
        " it is to forget eight of the authors and to keep their companions (after the causal view of Who's Harry "
        "Potter?)."
    ),
    world=Documents,
    read={
        "targeted score": Measure(),
        "hard retain": Measure(),
        "fabrication": Measure("lower"),
        "no gibberish": Measure(),
    },
    baselines={
        "whp": Recipe(
            WHP(target=TARGET, names=OTHERS), grid={"lr": RATES, "penalty": [0.0, 5.0]}, level=UNTIL_FORGOTTEN
        ),
        "grad_diff": usual({"lr": RATES, "retain_weight": GRID["retain_weight"]})["grad_diff"],
    },
    training={"batch_size": 8},
    seeds=tuple(range(220, 240)),  # on five of the usual ones the retrained model knew less than is known by chance
)
