"""Letters with labels, and others that come after training: what a network that learned classes knows of new ones."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.new_letters_world import AMONG_ALL, AMONG_NEW, Classes, measures, validate
from palimpsest.contrast.pretrain import Views
from palimpsest.losses import triplet_loss


def softmax(z: Tensor, *, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
    return F.cross_entropy(model.extra["last"](z), batch["labels"])


def triplets(z: Tensor, *, margin: float, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
    """Of unit vectors, over all triplets of the batch that are not in order."""
    return triplet_loss(F.normalize(z, dim=1), batch["labels"], margin)


NEW_LETTERS = Bench(
    name="new_letters",
    about=(
        "312 letters in five faces each, drawn on 14 x 14 pixels, are learned by their labels in random views; then "
        "160 other letters come with five examples each, and all are told by the nearest class mean."
    ),
    world=Classes,
    measures=measures,
    read={AMONG_NEW: Measure(), AMONG_ALL: Measure(), "seconds": Measure("lower", None)},
    validate=validate,
    start="network",
    floor=("untrained", Recipe(start="untrained")),
    ceiling=(
        "trained on the new letters",
        Recipe(
            Views(softmax, with_batch=True),
            settings={"steps": 400, "lr": 5e-3},
            world={"last": nn.Linear, "known": True},
        ),
    ),
    baselines={
        "triplet": Recipe(
            Views(partial(triplets, margin=0.2), with_batch=True),
            grid={"margin": [0.2, 0.4], "lr": [2e-3, 5e-3, 1e-2]},
        ),
        "softmax": Recipe(
            Views(softmax, with_batch=True),
            grid={"weight_decay": [1e-4, 1e-1], "lr": [2e-3, 5e-3, 1e-2]},
            world={"last": nn.Linear},
        ),
        "pixels": Recipe(start="pixels"),
    },
    training={"steps": 200, "batch_size": 128, "lr": 3e-3, "weight_decay": 1e-4, "schedule": "cosine"},
)
