"""Can a small network find, pair by pair, how much the new and the old should count? (Wang et al. 2021, 2112.15402)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.benches.streams import SPLIT_MNIST, rows_of
from palimpsest.evidence.sentences import at_least, beats, mechanism
from palimpsest.retain.relation_network import relations
from palimpsest.retain.rer import RER
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.train.method import Applied

MOVED = "distance of the mean weights from 1"


def moved(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """How far the network has gone from equal weights, over the pairs of tasks that were met."""
    state = applied.model.state if isinstance(applied.model, Learner) else {}
    if "relations" not in state:
        return {MOVED: 0.0}
    found = relations(state)
    return {MOVED: float((found[~found.isnan()] - 1).abs().mean())}


claim = SPLIT_MNIST.claim(
    paper="rer",
    question=(
        "Are more of ten digits that come two by two named rightly in the end where a network, learned along the way, "
        "weighs each pair of a new and a replayed image, than where all count alike?"
    ),
    method=Recipe(
        InSequence(RER(size=rows_of(40_000, 14))),
        grid={"lr": [3e-4, 1e-3, 3e-3], "meta_lr": [1e-3, 1e-2]},
    ),
    arms={"equal weights": {"interval": None}, "last layer only": {"thought": "last"}},
    then=moved,
    read={MOVED: Measure("higher", (0.0, 1.0))},
    alive=[at_least(0.05, on=MOVED)],
    central=beats("er", on=ACCURACY, share_of_room=0.10),
    also=[mechanism(beats("equal weights", on=ACCURACY, by=0.0))],
    differs=(
        "The paper has CIFAR and Tiny ImageNet with buffers of 200 to 5,120, adds to ER and DER++, and weighs in every "
        "step. Here five tasks of 500 images a digit and a buffer of 40 kB; the network learns in every fifth step; "
        "its outer rows are drawn from the buffer as it will be when the task has passed."
    ),
)
