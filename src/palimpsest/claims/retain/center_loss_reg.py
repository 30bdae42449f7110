"""Is more kept where features stay at the first task's centres? (Olpadkar and Gavas 2021, 2110.11314)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.stream_worlds import ACCURACY, FORGOTTEN
from palimpsest.benches.streams import FASTER, ROTATED_MNIST, rows_of
from palimpsest.evidence.sentences import beats, mechanism
from palimpsest.retain.center_loss_reg import CenterLossReg
from palimpsest.retain.sequence import InSequence

CENTERS = 10 * 128 * 4  # bytes

claim = ROTATED_MNIST.claim(
    paper="center_loss_reg",
    question=(
        "Are digits at five angles, learned one angle after another, known better in the end where replay is joined by "
        "a pull towards the first angle's class centres, under a last layer that no longer moves?"
    ),
    method=Recipe(
        InSequence(CenterLossReg(size=rows_of(40_000 - CENTERS, 14), replayed=64)),
        grid={"lr": FASTER, "strength": [0.01, 0.1]},
    ),
    arms={"without replay": {"size": 0}, "last layer frozen alone": {"size": 0, "strength": 0.0}},
    alive=[beats("fine-tuning", on=FORGOTTEN, by=0.0, arm="without replay")],
    central=beats("er", on=ACCURACY, share_of_room=0.10),
    also=[
        mechanism(beats("fine-tuning", on=ACCURACY, by=0.0, arm="without replay")),
        mechanism(beats("last layer frozen alone", on=ACCURACY, by=0.0, arm="without replay")),
    ],
    differs=(
        "The paper has permuted, rotated and split MNIST and domains of digits and PACS, with networks for each and "
        "buffers of 50 to 400 images a domain. Here a network of two hidden layers sees 500 digits of 14 x 14 pixels "
        "at each of five angles, and the buffer weighs 40 kB with the centres. The learning rate after the first task "
        "is 0.3 of the first one's, and alpha is 0.5: the paper's values are not known to us."
    ),
)
