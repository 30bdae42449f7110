"""Is a change of names learned faster by a learner that its own mistakes unsettle? (Man et al. 2022, 2205.08645)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.concept_shift import CONCEPT_SHIFT
from palimpsest.benches.concept_shift_world import ONLINE, ShiftWorld
from palimpsest.evidence.sentences import at_least, beats, mechanism
from palimpsest.retain.homeostatic import Constant, Homeostat, around_shifts
from palimpsest.retain.online_learning import Online, OnlineLearner
from palimpsest.train.method import Applied

RISE, STATE = "rise of the state after a shift", "mean state"


def unsettled(world: ShiftWorld, applied: Applied) -> dict[str, float]:
    """How the state stands over the ten batches behind each shift, against the ten before it."""
    states = applied.model.states if isinstance(applied.model, OnlineLearner) else [0.0] * world.data.steps
    seen = [shift for shift in world.data.shifts if shift < len(states)]
    before, after = around_shifts(states, seen, window=10) if seen else (0.0, 0.0)
    return {RISE: after - before, STATE: sum(states) / len(states)}


claim = CONCEPT_SHIFT.claim(
    paper="homeostatic",
    question=(
        "Where two digits change their names after every 25 batches, does a learner answer more of them rightly "
        "whose rate rises by its own mistakes, than one whose rate is constant, both at their best?"
    ),
    method=Recipe(Online(Homeostat()), grid={"lr": [0.03, 0.1, 0.2], "s_max": [0.5, 1.0]}),
    arms={"its own first rate": Recipe(Online(Constant()), settings={"lr": 0.1})},
    then=unsettled,
    read={RISE: Measure("higher", (-1.0, 1.0)), STATE: Measure("higher", None)},
    alive=[at_least(0.01, on=RISE)],
    central=beats("constant rate", on=ONLINE, share_of_room=0.10),
    also=[
        mechanism(beats("random walk", on=ONLINE, by=0.0)),
        mechanism(beats("its own first rate", on=ONLINE, by=0.03)),
    ],
    differs=(
        "The paper compares with a constant rate and with random walks, not with the best constant rate; its constants "
        "and its rule of what is consumed are not published, and these keep its ingredients. Here a network of 100 "
        "hidden units sees 16,000 images of 14 x 14 pixels, and all regulators have six settings to choose from. The "
        "rate of 0.1 that the regulator's factor is meant for is the untuned arm."
    ),
)
