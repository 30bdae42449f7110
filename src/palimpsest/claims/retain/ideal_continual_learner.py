"""Is less forgotten where no step changes what earlier inputs meet? (Peng, Giampouras and Vidal 2023, 2305.00316)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.stream_worlds import ACCURACY, FORGOTTEN, LEARNED
from palimpsest.benches.streams import FASTER, ROTATED_MNIST
from palimpsest.evidence.sentences import beats, cost, mechanism, not_worse
from palimpsest.retain.ideal_continual_learner import ICLFeatures
from palimpsest.retain.sequence import InSequence

claim = ROTATED_MNIST.claim(
    paper="ideal_continual_learner",
    question=(
        "Of ten digits in five turns, one after another, is more known in the end where steps are kept out of what "
        "earlier images span in every layer than where weights are held by their importance (EWC)?"
    ),
    method=Recipe(InSequence(ICLFeatures()), grid={"lr": FASTER, "energy": [0.9, 0.97]}),
    arms={"gradient alone": {"project": "gradient"}},
    alive=[beats("fine-tuning", on=FORGOTTEN, by=0.05)],
    central=beats("ewc", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("gradient alone", on=FORGOTTEN, by=0.0)),
        cost(not_worse("ewc", on=LEARNED, by=0.02)),
    ],
    differs=(
        "The paper is a theory: its method is exact for tasks that share a minimiser, and in deep networks it is the "
        "step of orthogonal gradient descent and of gradient projection memory. Here a network of two hidden layers "
        "learns turned digits of 14 x 14 pixels by Adam, from whose steps what earlier inputs would notice is taken; a "
        "share of those inputs' squared length is protected, for all of it would leave nothing to learn in."
    ),
)
