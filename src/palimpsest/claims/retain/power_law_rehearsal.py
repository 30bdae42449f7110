"""Is it enough that earlier tasks come back ever more rarely? (Gandhi et al. 2024, 2401.10393)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.benches.streams import FASTER, PERMUTED_MNIST
from palimpsest.evidence.sentences import beats, mechanism, not_worse
from palimpsest.retain.power_law_rehearsal import PowerLawRehearsal
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.train.method import Applied

RECENT, LATEST = "share of rehearsals of the task just before", "accuracy on the last three tasks"


def met(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """What came back in the last task, and what is known of the last three in the end."""
    if not isinstance(applied.model, Learner):
        return {RECENT: 0.0, LATEST: 0.0}
    state, R = applied.model.state, applied.model.log.accuracy["test"]
    last = state["met"][-1].double() if "met" in state else R.new_zeros(len(R))
    return {RECENT: float(last[-2] / last.sum().clamp(min=1)), LATEST: float(R[-1, -3:].mean())}


claim = PERMUTED_MNIST.claim(
    paper="power_law_rehearsal",
    question=(
        "Where the pixels of the same digits come in another order in each of five tasks, are all tasks known better "
        "in the end where images of earlier ones come back by a power of the time since, than where weights that "
        "mattered are held?"
    ),
    method=Recipe(InSequence(PowerLawRehearsal()), grid={"lr": FASTER, "d": [0.5, 1.0]}),
    arms={"uniform": {"kind": "uniform"}, "exponential": {"kind": "exponential", "d": 1.0}},
    then=met,
    read={RECENT: Measure(), LATEST: Measure()},
    alive=[beats("uniform", on=RECENT, by=0.05)],
    central=beats("ewc", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(not_worse("uniform", on=ACCURACY, by=0.02)),
        mechanism(beats("exponential", on=ACCURACY, by=0.0)),
        mechanism(beats("uniform", on=LATEST, by=0.0)),
    ],
    differs=(
        "The paper has up to 20 tasks, and draws every sample of a phase by the law. Here there are five; half of all "
        "samples after the first task are of earlier ones, in every environment alike, and come from all 500 images of "
        "a task, where EWC sees none of them again. The other environments have the tuned rate; the exponential's is 1."
    ),
)
