"""A small language model of docstrings, byte by byte: what a way of training it is worth."""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.doc_lm_world import BITS, Docstrings, measures, next_token, validate

DOC_LM = Bench(
    name="doc_lm",
    about=(
        "A decoder of two layers of width 64 predicts the bytes of the docstrings of modules that it did not see, after"
        " 305,000 bytes of others'."
    ),
    world=Docstrings,
    measures=measures,
    read={BITS: Measure("lower", (0.0, 8.0))},
    validate=validate,
    start="decoder",
    floor=("unigram", Recipe(start="unigram")),
    ceiling=(
        "three times the bytes",
        Recipe(next_token, settings={"lr": 3e-3, "steps": 1800, "warmup": 180}, world={"blocks": 7_200}),
    ),
    baselines={
        "adamw": Recipe(next_token, grid={"lr": [7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2]}),
        "bigram": Recipe(start="bigram"),
    },
    training={
        "steps": 600,
        "batch_size": 4,
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup": 60,
        "clip": 1.0,
    },
)
