"""Are new classes learned better by a second network, and can both be made one again? (Wang et al. 2022, 2204.04662)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.stream_worlds import ACCURACY
from palimpsest.benches.streams import LR, SPLIT_MNIST, rows_of
from palimpsest.evidence.sentences import beats, cost, mechanism, not_worse
from palimpsest.retain.foster import FOSTER
from palimpsest.retain.sequence import InSequence
from palimpsest.retain.weight_aligning import WeightAligning

ROWS = rows_of(40_000, 14)

claim = SPLIT_MNIST.claim(
    paper="foster",
    question=(
        "Of ten digits that come two by two, are more named rightly in the end where a second network learns what the "
        "first got wrong, and one is then taught by both, than by replay of the same fifty images?"
    ),
    method=Recipe(InSequence(FOSTER(size=ROWS)), grid={"lr": LR, "share": [0.2, 0.4]}),
    arms={
        "never compressed": {"compress": False},
        "all classes alike": {"beta": 0.0, "beta_compressed": 0.0},
        "weight aligning": Recipe(InSequence(WeightAligning(size=ROWS)), settings={"lr": 1e-3}),
    },
    alive=[beats("fine-tuning", on=ACCURACY, by=0.05)],
    central=beats("er", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("weight aligning", on=ACCURACY, by=0.0)),
        mechanism(beats("all classes alike", on=ACCURACY, by=0.0)),
        cost(not_worse("never compressed", on=ACCURACY, by=0.02)),
    ],
    differs=(
        "The paper trains ResNets on CIFAR-100 and ImageNet with 2,000 exemplars or 20 a class, for 170 epochs of "
        "boosting and 130 of compression. Here a network of two hidden layers sees digits of 14 x 14 pixels, with 50 "
        "exemplars in all; boosting and compression share the updates that others have. The old columns of the last "
        "layer stand still, as in the paper; its code trains them. Weight aligning (cross-entropy, distillation, "
        "aligned weights) is not tuned."
    ),
)
