"""Is less lost if an update goes some of the way back to the old weights? (Schumann et al. 2023, 2301.10546)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.update_worlds import ACCURACY, LOST
from palimpsest.benches.updates import SERIES_UPDATE
from palimpsest.evidence.sentences import beats, cost, mechanism, not_worse
from palimpsest.retain.bcwi import BCWI
from palimpsest.retain.sequence import InSequence

claim = SERIES_UPDATE.claim(
    paper="bcwi",
    question=(
        "When a network is trained on with more rows, are fewer lost that it had right if its weights are a mean of "
        "the old and the new ones, than if it is held to what it said before (LwF), at the same accuracy?"
    ),
    method=Recipe(InSequence(BCWI()), grid={"lr": [1e-3, 3e-3], "share": [0.1, 0.3, 0.5]}),
    arms={"fisher": {"fisher": True}, "soup of four": {"soup": 4}},
    alive=[beats("new model", on=LOST, by=0.005)],
    central=beats("lwf", on=LOST, share_of_room=0.10),
    also=[
        cost(not_worse("lwf", on=ACCURACY, by=0.01)),
        mechanism(beats("bcwi", on=LOST, by=0.0, arm="soup of four")),
        mechanism(beats("l2_to_old", on=LOST, by=0.0)),
    ],
    differs=(
        "The paper updates RoBERTa on intents and newsgroups, with more rows or more classes, and takes the largest "
        "share of the old weights that costs no accuracy. Here a network of two hidden layers that was not pretrained "
        "goes from 1,000 series of 40 values to 4,000 of the same ten classes, and all methods are tuned by accuracy "
        "less twice the negative flips. The arms have the tuned rate and share."
    ),
)
