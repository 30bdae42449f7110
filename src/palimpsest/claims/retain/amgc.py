"""Is more kept where old classes are learned as distributions with a margin? (Yao and Chang 2024, 2409.13275)"""

from __future__ import annotations

import torch

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.exemplar_free import EXEMPLAR_FREE, HIGHER
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.evidence.sentences import beats, mechanism, not_worse
from palimpsest.retain.amgc import AMGC
from palimpsest.retain.amgc_measures import old_new_bias
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.train.classification import logits_of
from palimpsest.train.method import Applied

BIAS = "bias between old and new digits"


@torch.no_grad()
def biased(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """How far the share of answers with one of the last two digits is from their true share."""
    new = torch.zeros(world.data.classes, dtype=torch.bool)
    new[list(world.data.tasks[-1].classes)] = True
    x, y = (torch.cat([getattr(task.test, name) for task in world.data.tasks]) for name in ("x", "y"))
    model = applied.model
    scores = model(x) if isinstance(model, Learner) else logits_of(model, {"pixel_values": x})
    return {BIAS: abs(old_new_bias(scores.argmax(1), y, new))}


claim = EXEMPLAR_FREE.claim(
    paper="amgc",
    question=(
        "Without a stored image, is more known of ten digits that come in groups where the last layer learns old ones "
        "from their distributions, in closed form and with enlarged variances, than from features drawn around their "
        "means?"
    ),
    method=Recipe(InSequence(AMGC(kept="diagonal")), grid={"lr": HIGHER, "held": [0.3, 1.0]}),
    arms={"no margin": {"enlarge": 0.0}, "ten draws a class": {"enlarge": 0.0, "draws": 10}},
    then=biased,
    read={BIAS: Measure("lower")},
    alive=[beats("fine-tuning", on=BIAS, by=0.2)],
    central=beats("prototype_replay", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("no margin", on=ACCURACY, by=0.0)),
        mechanism(not_worse("ten draws a class", arm="no margin", on=ACCURACY, by=0.01)),
    ],
    differs=(
        "The paper trains a ResNet-18 on CIFAR-100, Tiny ImageNet and ImageNet-100 in equal tasks, without "
        "distillation of features and with covariances. Here a network of two hidden layers sees 14 x 14 digits, four "
        "and then two at a time; features of new rows are held near the old ones, as the baseline's are, since nothing "
        "is kept without; of covariances only the diagonals are stored. How rows of new classes enter is our reading."
    ),
)
