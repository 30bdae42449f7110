"""Are old classes kept better where they are drawn towards their neighbours? (Malepathirana et al. 2023, 2308.09297)"""

from __future__ import annotations

import torch

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.exemplar_free import EXEMPLAR_FREE
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.evidence.sentences import beats, mechanism
from palimpsest.retain.buffers import Examples, joined
from palimpsest.retain.continual import features_of, of_all
from palimpsest.retain.napa_vq import NAPAVQ
from palimpsest.retain.napa_vq_measures import overlap
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.train.method import Applied

OVERLAP = "old digits nearest the mean of a new one"


def overlapping(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """The share of test images of the first four digits whose nearest class mean is that of a later digit."""
    model = applied.model.model if isinstance(applied.model, Learner) else applied.model
    rows = Examples(joined([Examples.of(task.test).columns for task in world.data.tasks]))
    new = torch.ones(world.data.classes, dtype=torch.bool)
    new[list(world.data.tasks[0].classes)] = False
    return {OVERLAP: overlap(of_all(features_of, model, rows), rows.labels, new)}


claim = EXEMPLAR_FREE.claim(
    paper="napa_vq",
    question=(
        "Without a stored image, is more known of ten digits that come in groups where class vectors know their "
        "neighbours and old classes are drawn towards these, than where they are drawn around their means?"
    ),
    method=Recipe(InSequence(NAPAVQ()), grid={"lr": [3e-3, 1e-2], "vector_lr": [0.5, 2.0, 5.0]}),
    arms={"towards any class": {"towards": "any"}},
    then=overlapping,
    read={OVERLAP: Measure("lower")},
    alive=[beats("fine-tuning", on=OVERLAP, by=0.05)],
    central=beats("prototype_replay", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("towards any class", on=ACCURACY, by=0.0)),
        mechanism(beats("prototype_replay", on=OVERLAP, by=0.0)),
    ],
    differs=(
        "The paper trains a ResNet-18 on CIFAR-100, Tiny ImageNet and ImageNet-Subset with half of the classes in the "
        "first task and 15 neighbours of each feature; there it is 5, 2 and 4 points above others without exemplars. "
        "Here a network of two hidden layers sees 14 x 14 digits, four and then two at a time, and neighbours are as "
        "large a part of the vectors as there. PASS is compared without its turned classes."
    ),
)
