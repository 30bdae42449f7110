"""Spoken commands whose intents arrive a few at a time: what rehearsal with distillation is compared on."""

from __future__ import annotations

from palimpsest.benches.bench import Bench, Recipe
from palimpsest.benches.spoken_world import spoken
from palimpsest.benches.stream_worlds import retained, valid_retained
from palimpsest.benches.streams import READ
from palimpsest.retain.rehearsal_kd import RehearsalKD
from palimpsest.retain.replay import ER, FineTune, Joint
from palimpsest.retain.sequence import InSequence
from palimpsest.tasks.spoken_commands import INTENTS

LR = [1e-3, 3e-3, 1e-2]

SPOKEN_STREAM = Bench(
    name="spoken_stream",
    about=(
        "Made-up spectrograms of 31 spoken commands in six tasks, 40 of each command; 31 outputs, and the task is not "
        "told. A memory holds one of each, in all 2.5% of the rows; rehearsal mixes it with a task's rows, ER draws a "
        "third or half of every batch from it."
    ),
    world=spoken,
    measures=retained,
    read=READ,
    validate=valid_retained,
    start="network",
    floor=("fine-tuning", Recipe(InSequence(FineTune()), settings={"lr": 1e-2})),
    ceiling=("joint", Recipe(InSequence(Joint()), settings={"lr": 1e-2})),
    baselines={
        "rehearsal": Recipe(
            InSequence(RehearsalKD(size=INTENTS, features="none", logits="none")),
            grid={"lr": LR, "kept": ["random", "herding"]},
        ),
        "er": Recipe(InSequence(ER(size=INTENTS, kept="class_balanced")), grid={"lr": LR, "replayed": [16, 32]}),
    },
    training={"steps": 60, "batch_size": 32},
)
