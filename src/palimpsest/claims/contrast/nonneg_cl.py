"""Do single dimensions mean something once contrastive features are not negative? (Wang et al. 2024, 2403.12459)"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.glyphs import GLYPHS
from palimpsest.benches.glyphs_world import UNSEEN, Letters
from palimpsest.contrast.dimensions import alive, class_consistency
from palimpsest.contrast.nonneg_cl import ncl_loss, nonneg
from palimpsest.contrast.pretrain import Views
from palimpsest.evidence.sentences import at_least, beats, mechanism
from palimpsest.train.method import Applied

CONSISTENCY, ALIVE = "class consistency of the positive part", "share of dimensions in use"


@torch.no_grad()
def dimensions(world: Letters, applied: Applied) -> dict[str, float]:
    """Of the positive part of the projections: consistency on the images that are looked among, use on those that were
    learned from."""
    model, gallery = applied.model.eval(), world.search("test").gallery
    return {
        CONSISTENCY: float(class_consistency(model(gallery.x).relu(), gallery.y)),
        ALIVE: float(alive(model(world.train.x).relu()).float().mean()),
    }


claim = GLYPHS.claim(
    paper="nonneg_cl",
    question=(
        "Are letters that training never saw found better where projections cannot be negative than by NT-Xent, and do "
        "the letters for which a dimension is active agree more than in the positive part of NT-Xent's projections?"
    ),
    method=Recipe(
        Views(partial(ncl_loss, temperature=0.2, activation=nonneg)),
        grid=GLYPHS.baselines["nt_xent"].grid,
    ),
    arms={"plain relu": {"activation": F.relu}},
    then=dimensions,
    read={CONSISTENCY: Measure(), ALIVE: Measure()},
    alive=[at_least(0.5, on=ALIVE)],
    central=beats("nt_xent", on=UNSEEN),
    also=[
        mechanism(beats("nt_xent", on=CONSISTENCY, by=0.05)),
        mechanism(beats("plain relu", on=ALIVE, by=0.0)),
    ],
    differs=(
        "The paper trains a ResNet-18 on CIFAR and ImageNet-100 with 256 projected dimensions; here a small "
        "convolutional network with 64 sees 1,560 images of 14 x 14 pixels in 200 batches of 128. A dimension is "
        "active where it is above 1e-5; NT-Xent's features, which are active everywhere, are compared by their "
        "positive part. Consistency is on letters that training never saw. The plain relu is not tuned again."
    ),
)
