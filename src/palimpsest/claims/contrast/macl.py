"""Is a temperature that follows the alignment better than the best fixed one? (Huang et al. 2022, 2207.07874)"""

from __future__ import annotations

from functools import partial

import torch

from palimpsest.benches.arm import Recipe
from palimpsest.benches.glyphs import GLYPHS
from palimpsest.benches.glyphs_world import UNSEEN, Letters
from palimpsest.contrast.macl import alignment, macl_loss
from palimpsest.contrast.pretrain import Views
from palimpsest.evidence.sentences import at_least, beats, mechanism
from palimpsest.train.method import Applied

MOVED = "share that the temperature rose by"
ALPHA = 0.5


@torch.no_grad()
def moved(world: Letters, applied: Applied) -> dict[str, float]:
    """alpha times the alignment of views of training images, at the end."""
    views = world.batches(512, world.seed)(0)["views"]
    return {MOVED: ALPHA * float(alignment(*(applied.model.eval()(view) for view in views.unbind(1))))}


claim = GLYPHS.claim(
    paper="macl",
    question=(
        "Are letters that training never saw found better with a temperature that rises as the views come together, "
        "and with the gradients of solved pairs scaled up, than by NT-Xent at the better of two fixed temperatures?"
    ),
    method=Recipe(
        Views(partial(macl_loss, tau0=0.1, alpha=ALPHA, reweight=True)),
        grid={"tau0": [0.07, 0.14], "lr": [5e-3, 1e-2, 2e-2]},
    ),
    arms={"fixed temperature": {"alpha": 0.0}, "no reweighting": {"reweight": False}},
    then=moved,
    alive=[at_least(0.2, on=MOVED)],
    central=beats("nt_xent", on=UNSEEN),
    also=[
        mechanism(beats("fixed temperature", on=UNSEEN, by=0.0)),
        mechanism(beats("no reweighting", on=UNSEEN, by=0.0)),
    ],
    differs=(
        "The paper trains a ResNet-50 on ImageNet, BERT on Wikipedia and graph networks; here a small convolutional "
        "network sees 1,560 images of 14 x 14 pixels in 200 batches of 128. The base of the temperature is tuned over "
        "two values, as NT-Xent's temperature is; alpha is the paper's, and A0 is 0. The arms without a part are not "
        "tuned again."
    ),
)
