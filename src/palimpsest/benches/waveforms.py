"""Windows of series, of which a part is spoiled: what a representation learned without labels is worth."""

from __future__ import annotations

from functools import partial

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.waveforms_world import PROBE, Series, measures, validate
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.pretrain import Views

NT_XENT = Views(partial(nt_xent, temperature=0.2))
GRID = {"temperature": [0.1, 0.2, 0.5], "lr": [4e-3, 8e-3]}

WAVEFORMS = Bench(
    name="waveforms",
    about=(
        "1,024 windows with one of five waves each are seen in random views without their labels; of a fifth of the "
        "pairs both views share nothing but noise, of another fifth one view is damaged. Then 50 labelled windows must "
        "do to tell the waves apart by the features."
    ),
    world=Series,
    measures=measures,
    read={PROBE: Measure()},
    validate=validate,
    start="network",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=("bad pairs left out", Recipe(NT_XENT, world={"cleaned": True})),
    baselines={"nt_xent": Recipe(NT_XENT, grid=GRID)},
    training={"steps": 320, "batch_size": 128, "lr": 4e-3, "weight_decay": 1e-4, "schedule": "constant"},
)
