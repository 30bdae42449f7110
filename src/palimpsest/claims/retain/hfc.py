"""Does it help to weigh rows by how fast they are forgotten? (Dong et al. 2023, 2308.03374)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, LEARNED, StreamWorld
from palimpsest.benches.streams import LR, SPLIT_MNIST, rows_of
from palimpsest.evidence.sentences import beats, cost, mechanism
from palimpsest.retain.hfc import HFC
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.train.method import Applied

SPREAD = "spread of forgetting over tasks"


def spread(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """The standard deviation over tasks of the accuracy that each lost since it was learned."""
    if not isinstance(applied.model, Learner):
        return {SPREAD: 0.0}
    R = applied.model.log.accuracy["test"]
    return {SPREAD: float((R.diagonal() - R[-1])[:-1].std(correction=0))}


claim = SPLIT_MNIST.claim(
    paper="hfc",
    question=(
        "Of ten digits that come two by two, are more named rightly in the end where rows that are forgotten faster "
        "than others of their task weigh more, than by replay?"
    ),
    method=Recipe(
        InSequence(HFC(size=rows_of(40_000, 14))),
        grid={"lr": LR, "batch_size": [32, 64]},
    ),
    arms={
        "labels not weighed": {"balance": False},
        "answers not weighed": {"relate": False},
        "nothing weighed": {"balance": False, "relate": False},
    },
    then=spread,
    read={SPREAD: Measure("lower", (0.0, 1.0))},
    alive=[beats("fine-tuning", on=ACCURACY, by=0.05)],
    central=beats("er", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("nothing weighed", on=ACCURACY, by=0.0)),
        mechanism(beats("nothing weighed", on=SPREAD, by=0.0)),
        cost(beats("nothing weighed", on=LEARNED, by=-0.02)),
    ],
    differs=(
        "The paper trains a vision transformer that was pretrained by itself, on CIFAR-100 and ImageNet, gathers its "
        "tokens by a learned one, and keeps 20 exemplars a class. Here a network of two hidden layers sees digits of "
        "14 x 14 pixels and has no tokens to gather; all exemplars weigh 40 kB. The arms have the tuned settings."
    ),
)
