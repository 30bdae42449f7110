"""The world of spoken commands: 31 intents that arrive in six tasks, fresh for every seed, and a network for them."""

from __future__ import annotations

from functools import partial

from palimpsest.benches.stream_worlds import StreamWorld
from palimpsest.models.temporal import tcn
from palimpsest.tasks.spoken_commands import BANDS, INTENTS, spoken_commands
from palimpsest.tasks.streams import Stream, split_classes

SIZES = (6, 5, 5, 5, 5, 5)
NETWORK = {"bands": BANDS, "classes": INTENTS, "width": 32, "hidden": 32, "blocks": 3, "repeats": 1, "stride": 4}


def spoken(seed: int, smoke: bool) -> StreamWorld:
    """Commands of each intent: 40 to learn from, 6 for validation, 10 to be tested on."""
    sizes = {"per_intent": 3, "validation": 1, "test": 1} if smoke else {}
    tasks = split_classes(spoken_commands(seed, **sizes), SIZES, name="intents")
    return StreamWorld(seed, smoke, Stream(tuple(tasks)), {"network": partial(tcn, **NETWORK)})
