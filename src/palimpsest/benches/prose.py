"""Documents that a language model was trained on are to be forgotten, and others of their kind kept."""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.prose_world import Prose
from palimpsest.benches.rows import UNTIL_FORGOTTEN, rows_bench, usual
from palimpsest.forget.baselines import GradAscent

GRID = {"lr": [1e-3, 3e-3], "retain_weight": [2.0, 10.0]}

PROSE = rows_bench(
    name="prose",
    about=(
        "A two-layer language model was trained on Python's language reference; it is to forget a third of the "
        "documents on objects and to keep the others, and methods are given documents on statements and expressions."
    ),
    world=Prose,
    read={"kept log-perplexity": Measure("lower", None), "proxy error": Measure("lower", None)},
    baselines={
        "grad_ascent": Recipe(GradAscent(retain="none"), grid={"lr": [3e-5, 1e-4, 3e-4, 1e-3]}, level=UNTIL_FORGOTTEN),
        "grad_diff": usual(GRID)["grad_diff"],
    },
    points=4,
    measured=(0, 1),
)
