"""Is the way to a replayed optimum safer where each step is projected? (Hess et al. 2023, 2311.04898)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.rotated_looks import GAP, ROTATED_LOOKS, ROWS, WORST, looked_at
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.evidence.sentences import at_least, beats, cost, mechanism, not_worse
from palimpsest.retain.sequence import Learner
from palimpsest.retain.two_perspectives import CombinedLearner, projection_rate
from palimpsest.train.method import Applied

TURNED = "share of steps that are turned"


def turned(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """How often the projection had anything to do."""
    state = applied.model.state if isinstance(applied.model, Learner) else {}
    return {TURNED: projection_rate(state)} if state.get("asked") else {TURNED: 0.0}


claim = ROTATED_LOOKS.claim(
    paper="two_perspectives",
    question=(
        "Is less lost on the way, while digits are learned that are turned by 80 degrees more, if the gradient of new "
        "and replayed rows together may not point against that of each earlier task's replayed rows?"
    ),
    method=Recipe(
        looked_at(CombinedLearner("er", "gem", size=ROWS)),
        grid={"lr": [3e-4, 1e-3, 3e-3], "replayed": [16, 32]},
    ),
    name="er with gem",
    arms={
        "er alone": {"projection": "plain"},
        "er with a-gem": {"projection": "agem"},
        "a-gem alone": {"objective": "new", "projection": "agem"},
    },
    then=turned,
    read={TURNED: Measure()},
    alive=[at_least(0.02, on=TURNED)],
    central=beats("er alone", on=WORST, share_of_room=0.10),
    also=[
        mechanism(beats("er alone", on=GAP, by=0.0)),
        mechanism(beats("a-gem alone", on=ACCURACY, by=0.05)),
        cost(not_worse("er alone", on=ACCURACY, by=0.02)),
    ],
    differs=(
        "The paper asks of ER, DER++ and joint training with A-GEM or GEM on rotated MNIST and three streams of CIFAR "
        "and Mini-ImageNet, with memories of 100 a class or all rows, and reports that the stability gap, not the "
        "final accuracy, is what changes, if anything. Here three tasks of 500 images of 14 x 14 pixels and 50 stored "
        "ones. All arms have the rate and the number of replayed rows that were chosen for ER with GEM."
    ),
)
