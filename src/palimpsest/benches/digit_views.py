"""Digits without labels: what it costs to push apart images of one class, and what can be had back without labels."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.digit_views_world import ONE_LABEL, SAME, Digits, measures, validate
from palimpsest.contrast.debiased_cl_measures import oracle_loss
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.pretrain import Views


def of_other_classes(query: Tensor, key: Tensor, *, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
    """NT-Xent whose negatives are of other digits, as their labels say."""
    return oracle_loss(query, key, batch["labels"], 0.2)


DIGIT_VIEWS = Bench(
    name="digit_views",
    about=(
        "2,500 images of MNIST, 14 x 14 pixels large, are seen in random views without their labels, so that one "
        "negative in ten is of the anchor's class; then 100 others are to be told by the features."
    ),
    world=Digits,
    measures=measures,
    read={SAME: Measure(), ONE_LABEL: Measure()},
    validate=validate,
    start="network",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=("true negatives", Recipe(Views(of_other_classes, with_batch=True), settings={"lr": 5e-3})),
    baselines={
        "nt_xent": Recipe(
            Views(partial(nt_xent, temperature=0.5)), grid={"temperature": [0.2, 0.5], "lr": [2e-3, 5e-3, 1e-2]}
        ),
        "pixels": Recipe(start="pixels"),
    },
    training={"steps": 200, "batch_size": 128, "lr": 3e-3, "weight_decay": 1e-4, "schedule": "cosine"},
)
