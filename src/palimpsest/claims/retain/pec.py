"""Can classes be told apart by who errs least, without any row being kept? (Zajac et al. 2023, 2305.18806)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.stream_worlds import ACCURACY
from palimpsest.benches.streams import SPLIT_MNIST
from palimpsest.evidence.sentences import beats, cost, mechanism, not_worse
from palimpsest.retain.pec import PEC
from palimpsest.retain.prototypes import NearestClassMean, StreamingLDA
from palimpsest.retain.sequence import InSequence

FORGOTTEN = "forgetting"

claim = SPLIT_MNIST.claim(
    paper="pec",
    question=(
        "Of ten digits that come two by two, are more named rightly in the end by ten small networks, each taught "
        "one digit's images once to say what a large random network says, than by replay of fifty images?"
    ),
    method=Recipe(
        InSequence(PEC()),
        grid={"lr": [3e-3, 1e-2, 3e-2], "width": [5, 10]},
    ),
    arms={
        "narrow teacher": {"wider": 1},
        "class means": Recipe(InSequence(NearestClassMean()), settings={"lr": 1e-3}),
        "streaming lda": Recipe(InSequence(StreamingLDA()), settings={"lr": 1e-3}),
    },
    alive=[beats("fine-tuning", on=ACCURACY, by=0.05)],
    central=beats("er", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("narrow teacher", on=ACCURACY, by=0.0)),
        mechanism(beats("streaming lda", on=ACCURACY, by=0.0)),
        cost(not_worse("er", on=FORGOTTEN, by=0.02)),
    ],
    differs=(
        "The paper has one class a task, all 60,000 images of MNIST once, and students of about the size that other "
        "methods have in all. Here tasks have two digits of 500 images together; each is seen once, while the other "
        "methods see theirs several times. All students weigh 123 kB, the network and the buffer of replay 212 kB; the "
        "random teacher, 6 MB, is among the bytes kept, though its seed would do. Class means and streaming LDA, on "
        "features of a network that learned the first task, are not tuned."
    ),
)
