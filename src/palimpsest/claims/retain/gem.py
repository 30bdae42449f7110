"""Does it help to keep every step from hurting any earlier task's memory? (Lopez-Paz and Ranzato 2017, 1706.08840)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.benches.streams import PERMUTED_MNIST, rows_of
from palimpsest.evidence.sentences import at_least, beats, cost, mechanism
from palimpsest.retain.gem import GEM, violation_rate
from palimpsest.retain.replay import AGEM
from palimpsest.retain.sequence import InSequence
from palimpsest.train.method import Applied

ROWS = rows_of(40_000, 14)
TURNED = "share of steps that are turned"
BACKWARD = "backward transfer"


def turned(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """In the last task, where there are the most memories."""
    return {TURNED: violation_rate(applied.model.state) if "asked" in applied.model.state else 0.0}


claim = PERMUTED_MNIST.claim(
    paper="gem",
    question=(
        "Where the pixels of the same digits come in another order in each of five tasks, are all tasks known better "
        "in the end if no step may point against the gradient of any earlier task's ten images, than if weights that "
        "mattered are held?"
    ),
    method=Recipe(
        InSequence(GEM(size=ROWS)),
        grid={"lr": [0.03, 0.1, 0.3], "margin": [0.0, 0.5]},
        settings={"optimizer": "sgd"},
    ),
    arms={"a_gem": Recipe(InSequence(AGEM(size=ROWS)), settings={"lr": 0.3, "optimizer": "sgd"})},
    then=turned,
    read={TURNED: Measure()},
    alive=[at_least(0.05, on=TURNED)],
    central=beats("ewc", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("a_gem", on=ACCURACY, by=0.0)),
        cost(at_least(-0.05, on=BACKWARD)),
    ],
    differs=(
        "The paper has 20 tasks of 1,000 images of 28 x 28 pixels, each seen once in batches of 10, a memory of 256 "
        "a task, and compares with EWC, one network a task and iCaRL. Here five tasks of 500 images of 14 x 14 are "
        "seen in 200 batches of 32, and the memory of all tasks together weighs 40 kB. "
        "A-GEM has the best of GEM's three rates, by the pilot seeds."
    ),
)
