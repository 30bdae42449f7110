"""Is more kept where old features need only be a linear map away? (Gu et al. 2023, 2303.14595)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, LEARNED, StreamWorld
from palimpsest.benches.streams import SPLIT_MNIST, rows_of
from palimpsest.evidence.sentences import beats, mechanism
from palimpsest.metrics.probes import linear_probe
from palimpsest.retain.bfp import BFP
from palimpsest.retain.buffers import Examples, joined
from palimpsest.retain.continual import features_of, of_all
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.train.method import Applied

PROBED = "linear probe of all digits"


def probed(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """How well lines on the features, as they are in the end, tell the digits of all tasks apart."""
    model = applied.model.model if isinstance(applied.model, Learner) else applied.model
    found = []
    for part in ("train", "test"):
        rows = Examples(joined([Examples.of(getattr(task, part)).columns for task in world.data.tasks]))
        found += [of_all(features_of, model, rows), rows.labels]
    return {PROBED: linear_probe(*found)}


claim = SPLIT_MNIST.claim(
    paper="bfp",
    question=(
        "Does DER++ keep more of ten digits that come two by two if a linear map, learned along the way, has to "
        "bring the new features back to the old ones?"
    ),
    method=Recipe(
        InSequence(BFP(size=rows_of(40_000, 14, 10))),
        grid={"lr": [1e-3, 3e-3, 1e-2], "weight": [0.3, 1.0]},
    ),
    arms={"features held": {"projection": "identity"}},
    then=probed,
    read={PROBED: Measure()},
    alive=[beats("fine-tuning", on=PROBED, by=0.0)],
    central=beats("der_pp", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("der_pp", on=PROBED, by=0.0)),
        mechanism(beats("features held", on=LEARNED, by=0.0)),
    ],
    differs=(
        "The paper trains a ResNet-18 on CIFAR-10, CIFAR-100 and Tiny ImageNet with buffers of 200 and 500 images, "
        "adds projections at the features before the last layer, and holds replayed rows to the logits of the model "
        "before. Here a network of two hidden layers sees digits of 14 x 14 pixels, the buffer weighs 40 kB with its "
        "stored logits, and alpha and beta are those of the family's DER++."
    ),
)
