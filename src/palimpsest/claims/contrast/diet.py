"""Is the row's own number, as a class, enough to learn good features from? (Ibrahim et al. 2024, 2406.10743)"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from palimpsest.benches.arm import Recipe
from palimpsest.benches.glyphs import GLYPHS
from palimpsest.benches.glyphs_world import UNSEEN, Letters
from palimpsest.contrast.diet import diet_loss
from palimpsest.contrast.pretrain import Views
from palimpsest.evidence.sentences import at_least, beats, mechanism, not_worse, safety
from palimpsest.train.method import Applied

ROWS = 1560
TOLD = "views told by their image's number"


def without_head(features: int) -> nn.Module:
    return nn.Identity()


def numbers(features: int) -> nn.Module:
    return nn.Linear(features, ROWS, bias=False)


def told(features: Tensor, *, smoothing: float, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
    return diet_loss(features, batch["index"], model.extra["numbers"].weight, smoothing)


@torch.no_grad()
def right(world: Letters, applied: Applied) -> dict[str, float]:
    """Of 512 training images in one view each; chance is 0.0006."""
    batch, model = world.batches(512, world.seed)(0), applied.model.eval()
    named = model.extra["numbers"](model(batch["views"][:, 0])).argmax(1)
    return {TOLD: float((named == batch["index"]).float().mean())}


claim = GLYPHS.claim(
    paper="diet",
    question=(
        "Are letters that training never saw found as well by a network that learned to tell training images by their "
        "numbers, without pairs, negatives or a projector, as by NT-Xent; and at the published settings too?"
    ),
    method=Recipe(
        Views(partial(told, smoothing=0.8), with_batch=True),
        grid={"smoothing": [0.1, 0.4, 0.8], "lr": [2e-3, 5e-3]},
        settings={"steps": 400, "weight_decay": 0.05},
        world={"views": 1, "head": without_head, "extra": {"numbers": numbers}},
    ),
    arms={"published settings": {"smoothing": 0.8, "lr": 1e-3}, "no smoothing": {"smoothing": 0.0}},
    then=right,
    alive=[at_least(0.02, on=TOLD)],
    central=not_worse("nt_xent", on=UNSEEN),
    also=[
        safety(not_worse("nt_xent", on=UNSEEN, arm="published settings")),
        mechanism(beats("no smoothing", on=UNSEEN, by=0.0)),
    ],
    differs=(
        "The paper trains ResNets and ViTs on images of up to ImageNet-100 for hundreds of epochs after a warm-up; "
        "here a small convolutional network, which ends in a batch norm and ReLU as a ResNet's blocks do, sees 1,560 "
        "images of 14 x 14 pixels. As many views go through the network as by NT-Xent: 400 batches of 128, a view an "
        "image, 33 epochs without warm-up. That the loss follows the features' quality is a function of the room."
    ),
)
