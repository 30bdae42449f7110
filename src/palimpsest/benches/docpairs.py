"""Summaries of docstrings and their bodies: what a contrastive loss of pairs of texts is worth in retrieval."""

from __future__ import annotations

from functools import partial

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.docpairs_world import FIRST, RETRIEVAL, Docstrings, measures, validate
from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.pretrain import SentencePairs

INFO_NCE = SentencePairs(partial(info_nce, temperature=0.05, symmetric=True, normalize=True))
GRID = {"temperature": [0.05, 0.1, 0.2], "lr": [3e-3, 1e-2]}
SMALL_BATCH = {"batch_size": 16, "steps": 400}
SMALL_GRID = {"temperature": [0.05, 0.1, 0.2], "lr": [1e-3, 3e-3]}

DOCPAIRS = Bench(
    name="docpairs",
    about=(
        "Summary lines of docstrings look for the bodies that they belong to, among 1,500, by the vectors of their "
        "words, which are learned from 1,000 pairs. Nearly the same bodies and repeated summaries are kept and count "
        "as answers."
    ),
    world=Docstrings,
    measures=measures,
    read={RETRIEVAL: Measure(), FIRST: Measure()},
    validate=validate,
    start="encoder",
    floor=("untrained", Recipe(start="encoder")),
    ceiling=("six times the pairs", Recipe(INFO_NCE, settings={"steps": 600}, world={"pairs": 6000})),
    baselines={
        "info_nce": Recipe(INFO_NCE, grid=GRID),
        "info_nce, batch 16": Recipe(INFO_NCE, grid=SMALL_GRID, settings=SMALL_BATCH),
        "tf-idf": Recipe(start="tf-idf"),
    },
    training={"steps": 200, "batch_size": 128, "lr": 1e-2, "schedule": "cosine"},
)
