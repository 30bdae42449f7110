"""Do separate softmaxes over positives and negatives help where an image has many views? (Zheng et al. 2021,
2105.03746)"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from palimpsest.benches.arm import Recipe
from palimpsest.benches.glyphs import GLYPHS
from palimpsest.benches.glyphs_world import UNSEEN, Letters
from palimpsest.contrast.cacr import multi_view_cacr
from palimpsest.contrast.cacr_measures import weights_report
from palimpsest.contrast.many_views import views_nt_xent
from palimpsest.contrast.pretrain import Views
from palimpsest.evidence.sentences import at_most, beats, mechanism
from palimpsest.train.method import Applied

VIEWS, IMAGES, REPELLED = 4, 64, 5.0
ACTING = "share of the negatives that act"
HALF = {"batch_size": IMAGES}


def cacr(*views: Tensor, t_pos: float, t_neg: float) -> Tensor:
    return multi_view_cacr(torch.stack(views, 1), t_pos, t_neg)


def nt_xent(*views: Tensor, temperature: float) -> Tensor:
    return views_nt_xent(torch.stack(views), temperature)


@torch.no_grad()
def acting(world: Letters, applied: Applied) -> dict[str, float]:
    """The effective number of negatives where sharpness is 5, over how many there are; of 64 images' first views."""
    views = world.batches(IMAGES, world.seed)(0)["views"]
    z = applied.model.eval()(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    own = torch.arange(z[..., 0].numel()).reshape(z.shape[:2])
    found = weights_report(z[:, 0], z[:, 1:], z.flatten(0, 1), t_neg=REPELLED, left_out=own)["negatives"]
    return {ACTING: float(found.mean() / (own.numel() - z.shape[1]))}


claim = GLYPHS.claim(
    paper="cacr",
    question=(
        "Are letters that training never saw found better where four views attract by how far and repel by how near "
        "they are than by NT-Xent, with as many views through the network; and is it by the weights?"
    ),
    method=Recipe(
        Views(partial(cacr, t_pos=1.0, t_neg=REPELLED)),
        grid={"t_neg": [2.5, 5.0], "lr": [3e-3, 6e-3, 1.2e-2]},
        settings=HALF,
        world={"views": VIEWS},
    ),
    arms={
        "uniform weights": {"t_pos": 0.0, "t_neg": 0.0},
        "nt_xent, four views": Recipe(
            Views(partial(nt_xent, temperature=0.1)), settings={**HALF, "lr": 1e-2}, world={"views": VIEWS}
        ),
    },
    then=acting,
    alive=[at_most(0.5, on=ACTING)],
    central=beats("nt_xent", on=UNSEEN),
    also=[
        mechanism(beats("uniform weights", on=UNSEEN)),
        mechanism(beats("nt_xent, four views", on=UNSEEN, by=0.0)),
    ],
    differs=(
        "The paper pretrains on CIFAR, STL-10 and ImageNet, unbalanced versions among them; here a small convolutional "
        "network sees 312 balanced letters of 14 x 14 pixels in 200 batches: four views of 64 images, or two of 128. "
        "The sharpness of repulsion is tuned in the place of the temperature, whose double it is the inverse of; that "
        "of attraction is the authors'. A query has one softmax over all views of the other images, where the authors' "
        "small experiments take one for each pair of views. The other arms of four views are not tuned again."
    ),
)
