"""Does distillation add to rehearsal, and on which rows? (Cappellazzo, Falavigna and Brutti 2022, 2211.08161)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.spoken_streams import LR, SPOKEN_STREAM
from palimpsest.benches.stream_worlds import INCREMENTAL
from palimpsest.evidence.sentences import beats, mechanism, not_worse, safety
from palimpsest.retain.rehearsal_kd import RehearsalKD
from palimpsest.retain.sequence import InSequence
from palimpsest.tasks.spoken_commands import INTENTS

claim = SPOKEN_STREAM.claim(
    paper="rehearsal_kd",
    question=(
        "Of 31 spoken commands that come in six tasks, with one of each kept, are more understood where features and "
        "answers of the kept rows are held to the old model's than by rehearsal alone?"
    ),
    method=Recipe(
        InSequence(RehearsalKD(size=INTENTS, kept="herding", features="memory", logits="memory")),
        grid={"lr": LR, "reduction": ["mean", "batchmean"]},
    ),
    arms={
        "answers alone": {"features": "none"},
        "features alone": {"logits": "none"},
    },
    alive=[beats("fine-tuning", on=INCREMENTAL, by=0.02)],
    central=beats("rehearsal", on=INCREMENTAL, share_of_room=0.10),
    also=[
        mechanism(beats("answers alone", on=INCREMENTAL, by=0.0)),
        mechanism(beats("features alone", on=INCREMENTAL, by=0.0)),
        safety(not_worse("er", on=INCREMENTAL, by=0.02)),
    ],
    differs=(
        "The paper learns Fluent Speech Commands, 23,132 recordings of 31 intents, with a memory of 930, 1% to 10% of "
        "the data. Here spectrograms are made up: tracks of energy for six actions, six objects and four places, 40 "
        "commands of each intent, a memory of 31, and a temporal network of three blocks in the place of ten. As in "
        "the paper kept rows are mixed among the others, so that they are an eighth of a batch at most; replay that "
        "draws them for every batch (ER) is compared as well."
    ),
)
