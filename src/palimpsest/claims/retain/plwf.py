"""Do all earlier models together keep more than the last one? (Feng et al. 2022, 2211.15215)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.benches.streams import FASTER, ROTATED_MNIST
from palimpsest.evidence.sentences import at_least, beats, mechanism, not_worse, safety
from palimpsest.retain.plwf import PLwF, conflict_rate
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.train.method import Applied

FIRST, CONFLICTS = "accuracy on the first task in the end", "updates with a conflict"


def faded(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """What is left of the task that has gone through the most models, and how often both gradients conflicted."""
    if not isinstance(applied.model, Learner):
        return {FIRST: 0.0, CONFLICTS: 0.0}
    state = applied.model.state
    conflicts = conflict_rate(state) if state.get("asked") else 0.0
    return {FIRST: float(applied.model.log.accuracy["test"][-1, 0]), CONFLICTS: conflicts}


claim = ROTATED_MNIST.claim(
    paper="plwf",
    question=(
        "Of ten digits in five turns, one after another, are more named rightly in the end where all earlier models "
        "teach the new one than where the last of them does (LwF)?"
    ),
    method=Recipe(InSequence(PLwF()), grid={"lr": FASTER, "strength": [0.5, 1.0]}),
    arms={"last model alone": {"mode": "last"}, "no credit assignment": {"credit": "none"}},
    then=faded,
    read={FIRST: Measure(), CONFLICTS: Measure()},
    alive=[at_least(0.02, on=CONFLICTS)],
    central=beats("lwf", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("last model alone", on=FIRST, by=0.0)),
        mechanism(beats("no credit assignment", on=ACCURACY, by=0.0)),
        safety(not_worse("no credit assignment", on=FIRST, by=0.01)),
    ],
    differs=(
        "The paper trains residual networks on CIFAR-100, Tiny ImageNet and ImageNet-100, whose classes arrive in up "
        "to 20 tasks. Here a network of two hidden layers sees all ten digits at 14 x 14 pixels, turned further in "
        "each of five tasks, so that at most four models teach; where digits arrive in pairs and the task is not "
        "told, no method without rows keeps anything. All teachers weigh alike, and both gradients lose what "
        "conflicts. The last model alone has the same credit assignment, which LwF has not."
    ),
)
