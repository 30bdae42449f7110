"""Does a softmax on the sphere take in new classes better than triplets do, and for less? (Pereira et al. 2021,
2102.03243)"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.benches.arm import Recipe
from palimpsest.benches.new_letters import NEW_LETTERS
from palimpsest.benches.new_letters_world import AMONG_ALL, AMONG_NEW, Classes
from palimpsest.contrast.hypersphere_novel import NormSoftmax
from palimpsest.contrast.pretrain import Views
from palimpsest.evidence.sentences import at_least, beats, cost, mechanism
from palimpsest.train.method import Applied

COSINE = "cosine of training views to their letter's vector"


def normalised(z: Tensor, *, sigma: float, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
    """The last layer is on the sphere at sigma 1."""
    return F.cross_entropy(model.extra["last"](z) / sigma, batch["labels"])


@torch.no_grad()
def cosine(world: Classes, applied: Applied) -> dict[str, float]:
    batch, model = world.batches(512, world.seed)(0), applied.model.eval()
    cosines = model.extra["last"](model(batch["views"][:, 0]))
    return {COSINE: float(cosines.gather(1, batch["labels"][:, None]).mean())}


claim = NEW_LETTERS.claim(
    paper="hypersphere_novel",
    question=(
        "From five examples each, are 160 letters that training never saw told apart better by an embedding that a "
        "softmax of unit vectors was trained on than by one of triplets, and beside the letters of training better "
        "than by a plain softmax's?"
    ),
    method=Recipe(
        Views(partial(normalised, sigma=0.2), with_batch=True),
        grid={"sigma": [0.1, 0.2, 0.4], "lr": [5e-3, 1e-2]},
        world={"last": partial(NormSoftmax, sigma=1.0)},
    ),
    then=cosine,
    alive=[at_least(0.3, on=COSINE)],
    central=beats("triplet", on=AMONG_NEW),
    also=[
        mechanism(beats("softmax", on=AMONG_ALL)),
        cost(beats("triplet", on="seconds", by=0.0)),
    ],
    differs=(
        "A small convolutional network embeds 14 x 14 pixels in 64 numbers after 200 batches of 32 letters with four "
        "images each. All embeddings are scored alike, by class means of unit vectors, of seen letters too; triplets "
        "are all those of a batch. Each loss is tuned over six points of the learning rate and of sigma, the margin or "
        "the weight decay. Seconds are of the processor, views included. What the paper constrains in the latent "
        "space beyond unit norms is not known here."
    ),
)
