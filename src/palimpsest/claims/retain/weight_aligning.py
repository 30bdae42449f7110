"""Are new classes favoured by the length of their weights alone? (Zhao et al. 2019, 1911.07053)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.benches.streams import SPLIT_MNIST, rows_of
from palimpsest.evidence.sentences import at_least, beats, mechanism
from palimpsest.retain.continual import last_layer
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.retain.weight_aligning import WeightAligning, aligning_factor
from palimpsest.train.method import Applied

LONGER = "length of new digits' weights over old ones'"


def lengths(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """After the last task, and after aligning where there was any."""
    model = applied.model.model if isinstance(applied.model, Learner) else applied.model
    old = world.data.allowed(len(world.data) - 1)[: len(world.data) - 1].any(0)
    return {LONGER: 1 / max(1e-9, float(aligning_factor(last_layer(model).weight.detach(), old, ~old)))}


claim = SPLIT_MNIST.claim(
    paper="weight_aligning",
    question=(
        "Of ten digits that come two by two, are more named rightly in the end where, after each task, the new "
        "digits' weights in the last layer are brought to the old ones' mean length, than by replay?"
    ),
    method=Recipe(
        InSequence(WeightAligning(size=rows_of(40_000, 14))),
        grid={"lr": [1e-3, 3e-3, 1e-2], "temperature": [1.0, 2.0]},
    ),
    arms={"not aligned": {"align": False}, "not clipped": {"clip": False}},
    then=lengths,
    read={LONGER: Measure("lower", (0.0, float("inf")))},
    alive=[at_least(1.1, on=LONGER, arm="not aligned")],
    central=beats("er", on=ACCURACY, share_of_room=0.10),
    also=[mechanism(beats("not aligned", on=ACCURACY, by=0.0)), mechanism(beats("not clipped", on=ACCURACY, by=0.0))],
    differs=(
        "The paper adds up to 100 classes of ImageNet at a time with 20,000 exemplars, on a ResNet whose last layer "
        "has no bias. Here two digits are added at a time, all exemplars weigh 40 kB, and the last layer's biases "
        "stay as they are. The arms that are not aligned or not clipped have the tuned settings."
    ),
)
