"""Does the ranking of the families depend on the protocol? (Parisi et al. 2018, 1802.07569)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.stream_worlds import ACCURACY
from palimpsest.benches.streams import SPLIT_MNIST, rows_of
from palimpsest.evidence.sentences import beats, mechanism, not_worse, safety
from palimpsest.retain.distillation import LwF
from palimpsest.retain.growing_when_required import GWR
from palimpsest.retain.replay import ER
from palimpsest.retain.sequence import InSequence

ROWS = rows_of(40_000, 14)
TOLD = {"told": True}

claim = SPLIT_MNIST.claim(
    paper="lifelong_review",
    question=(
        "Of ten digits that come two by two, does a network that grows when required keep what regularisation does "
        "not, as replay does, and is regularisation as good as replay as soon as the pair of an image is told?"
    ),
    name="gwr",
    method=Recipe(InSequence(GWR()), grid={"rate": [0.05, 0.1, 0.2], "passes": [1, 3]}),
    arms={
        "er, told": Recipe(InSequence(ER(size=ROWS)), settings={"lr": 1e-3}, world=TOLD),
        "lwf, told": Recipe(InSequence(LwF()), settings={"lr": 1e-3}, world=TOLD),
    },
    alive=[beats("fine-tuning", on=ACCURACY, by=0.05)],
    central=beats("fine-tuning", on=ACCURACY, share_of_room=0.25),
    also=[
        mechanism(beats("lwf", on=ACCURACY, by=0.25, arm="er")),
        mechanism(beats("lwf", on=ACCURACY, by=0.25)),
        safety(not_worse("er, told", on=ACCURACY, by=0.05, arm="lwf, told")),
    ],
    differs=(
        "A review has no experiment of its own; this is its caution that families rank by the protocol. Growing when "
        "required is on pixels of 14 x 14, with at most 500 nodes; LwF stands for regularisation, as EWC does no "
        "better here, and ER for the second memory. The arms whose task is told are not tuned; permuted pixels, the "
        "third protocol, are not asked of here."
    ),
)
