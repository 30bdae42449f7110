"""Is pulling views together enough, once a batch's embeddings are whitened? (Ermolov et al. 2020, 2007.06346)"""

from __future__ import annotations

from functools import partial

import torch

from palimpsest.benches.arm import Recipe
from palimpsest.benches.glyphs import GLYPHS
from palimpsest.benches.glyphs_world import UNSEEN, Letters
from palimpsest.contrast.heads import projection_head
from palimpsest.contrast.many_views import views_mse
from palimpsest.contrast.pretrain import Views
from palimpsest.contrast.w_mse import w_mse
from palimpsest.evidence.sentences import at_least, at_most, beats, mechanism
from palimpsest.metrics.probes import effective_rank
from palimpsest.train.method import Applied

RANK = "effective rank of the projections"
DIM = 32
FOUR_VIEWS = {"views": 4, "head": partial(projection_head, hidden=128, out_dim=DIM)}
HALF = {"batch_size": 64}


@torch.no_grad()
def rank(world: Letters, applied: Applied) -> dict[str, float]:
    """Of the images that are looked among, centred."""
    return {RANK: effective_rank(applied.model.eval()(world.search("test").gallery.x))}


claim = GLYPHS.claim(
    paper="w_mse",
    question=(
        "Are letters that training never saw found better where four views are pulled together after whitening than "
        "by NT-Xent, which pushes two apart, with as many views through the network?"
    ),
    method=Recipe(
        Views(partial(w_mse, norm=True)),
        grid={"norm": [True, False], "lr": [5e-3, 1e-2, 2e-2]},
        settings=HALF,
        world=FOUR_VIEWS,
    ),
    arms={"plain mse": Recipe(Views(views_mse), settings={**HALF, "lr": 5e-3}, world=FOUR_VIEWS)},
    then=rank,
    alive=[at_least(DIM / 2, on=RANK)],
    central=beats("nt_xent", on=UNSEEN),
    also=[
        mechanism(beats("plain mse", on=UNSEEN)),
        mechanism(at_most(DIM / 4, on=RANK, arm="plain mse")),
    ],
    differs=(
        "The paper trains a ResNet-18 for 1,000 epochs on CIFAR, STL-10 and Tiny ImageNet; here a small convolutional "
        "network sees 1,560 images of 14 x 14 pixels in 200 batches: four views of 64 images, or two of 128. "
        "Projections have 32 dimensions instead of 64, so that a batch is a slice that can be whitened; NT-Xent's have "
        "64. Whether distances are between unit vectors is tuned in the place of the temperature. Plain MSE is not."
    ),
)
