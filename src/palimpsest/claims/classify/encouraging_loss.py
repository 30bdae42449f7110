"""Do rows that are right already still teach a classifier of unbalanced classes? (Zhao et al. 2021, 2110.06537)"""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.labelled import LabelledWorld, logits_on
from palimpsest.benches.mnist import MNIST_LONGTAIL
from palimpsest.classify.encouraging_loss import encouraging_loss, margin_stats
from palimpsest.evidence.sentences import beats, mechanism, safety
from palimpsest.train.classification import Supervised
from palimpsest.train.method import Applied

MARGIN = "mean margin on training rows"


def margin(world: LabelledWorld, applied: Applied) -> dict[str, float]:
    """By how much labels win over the largest other logit where they were learned."""
    rows = world.data.rows
    return {MARGIN: margin_stats(logits_on(applied.model, rows), rows.y, F.cross_entropy)["margin"]}


claim = MNIST_LONGTAIL.claim(
    paper="encouraging_loss",
    question=(
        "Where classes have 250 training images down to 2, are more of the rare ones found with a bonus for images "
        "that are right already than by cross-entropy, and is it the wider margin?"
    ),
    method=Recipe(
        Supervised(partial(encouraging_loss, log_end=0.75)), grid={"lr": [1e-3, 3e-3, 1e-2], "log_end": [0.5, 0.75]}
    ),
    arms={"unbounded": {"log_end": 1.0}},
    then=margin,
    read={MARGIN: Measure("higher", None)},
    alive=[beats("cross-entropy", on=MARGIN, by=0.0)],
    central=beats("cross-entropy", on="balanced accuracy", share_of_room=0.10),
    also=[
        safety(beats("cross-entropy", on="worst class", by=0.0)),
        mechanism(beats("unbounded", on="balanced accuracy", by=0.0)),
    ],
    differs=(
        "The paper trains deep networks for images, graphs and translation, and of unbalanced ones CIFAR and "
        "iNaturalist; here a small convolutional network sees 620 images of MNIST at 14 x 14, whose classes fall from "
        "250 to 2. The unbounded bonus is trained at the tuned settings without clipping. What is far from the data "
        "(energy, attacks) is not tested."
    ),
)
