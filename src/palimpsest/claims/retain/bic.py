"""Is a line fitted on held-out rows enough against the favour for new classes? (Wu et al. 2019, 1905.13260)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.stream_worlds import ACCURACY, StreamWorld
from palimpsest.benches.streams import LR, SPLIT_MNIST, rows_of
from palimpsest.evidence.sentences import at_least, beats, mechanism
from palimpsest.retain.bic import BiC
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.train.method import Applied

FAVOUR = "favour for the last task's digits"
ROWS = rows_of(40_000, 14)


def favour(world: StreamWorld, applied: Applied) -> dict[str, float]:
    """The share of all test images that are taken for the last task's digits, less the share that they are."""
    last, named, n = set(world.data.tasks[-1].classes), 0, 0
    for number, task in enumerate(world.data.tasks):
        learned = isinstance(applied.model, Learner)
        logits = applied.model(task.test.x, task=number) if learned else applied.model(task.test.x).logits
        named += sum(answer in last for answer in logits.argmax(1).tolist())
        n += len(task.test)
    return {FAVOUR: (named - len(world.data.tasks[-1].test)) / n}


claim = SPLIT_MNIST.claim(
    paper="bic",
    question=(
        "Of ten digits that come two by two, are more named rightly in the end where, after each task, a line that "
        "was fitted on images held out corrects the new digits' logits, than by replay?"
    ),
    method=Recipe(InSequence(BiC(size=ROWS)), grid={"lr": LR, "held_out": [0.1, 0.2]}),
    arms={"no line": {"line_steps": 1, "line_lr": 1e-9}, "every line": {"correct": "all"}},
    then=favour,
    read={FAVOUR: Measure("lower", (-1.0, 1.0))},
    alive=[at_least(0.05, on=FAVOUR, arm="no line")],
    central=beats("er", on=ACCURACY, share_of_room=0.10),
    also=[mechanism(beats("no line", on=ACCURACY, by=0.0)), mechanism(beats("no line", on=FAVOUR, by=0.0))],
    differs=(
        "The paper adds 100 classes of ImageNet at a time with 20,000 exemplars, and fits the line for as many "
        "epochs as the network. Here two digits are added at a time, all exemplars weigh 40 kB, and the line takes "
        "200 steps. The arms without a line, and with every task's line kept, have the tuned rate."
    ),
)
