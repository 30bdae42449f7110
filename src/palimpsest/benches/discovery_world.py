"""The world of classes that nobody named: four digits with labels, then three times two more, among old ones.

Each later task has 190 images of each of its two new digits and 20 of every digit that came before, without labels; no
image occurs in two tasks. Tests ask for all ten digits in the end; groups are matched with digits one to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from palimpsest.benches.stream_worlds import Numbers, StreamWorld
from palimpsest.benches.unlabelled_world import WIDTHS
from palimpsest.metrics.clustering import cluster_acc
from palimpsest.models.vision import mlp
from palimpsest.retain.sequence import Learner
from palimpsest.retain.unlabelled import Projecting
from palimpsest.tasks.mnist import mnist
from palimpsest.tasks.splits import Split
from palimpsest.tasks.streams import Stream, Task
from palimpsest.train.classification import logits_of

NAMED, STAGES, EACH, AGAIN = 4, 3, 2, 20  # digits with labels, later tasks, new digits in each, old images a digit
FRESH = 190  # images of a digit in the task that it comes with
SMOKE = 12
ALL, OLD, NEW = "accuracy on all digits", "accuracy on named digits", "accuracy on found digits"


def discovery(seed: int, smoke: bool) -> StreamWorld:
    """Digits in the order 0 to 9."""
    data = mnist(seed, size=14)
    parts = {}
    for name in ("train", "test", "validation"):
        rows = getattr(data, name)
        parts[name] = [rows[(rows.y == digit).nonzero()[:, 0]] for digit in range(10)]
    fresh, again = (SMOKE, 2) if smoke else (FRESH, AGAIN)
    tasks = []
    for stage in range(STAGES + 1):
        arrived = NAMED + EACH * stage
        counts = [again if digit < arrived - EACH and stage else fresh for digit in range(arrived)]
        begins = [0 if count == fresh else fresh + again * (stage - 1) for count in counts]
        pairs = zip(parts["train"], begins, counts, strict=False)
        train = _together([rows[begin : begin + count] for rows, begin, count in pairs])
        asked = [_together(parts[name][:arrived]) for name in ("test", "validation")]
        tasks.append(Task(f"stage {stage}", train, asked[0], tuple(range(arrived)), validation=asked[1]))
    return StreamWorld(seed, smoke, Stream(tuple(tasks)), {"network": _network})


def discovered(world: StreamWorld, model: nn.Module) -> Numbers:
    """The accuracy on test images in the end, under the best matching of groups with digits."""
    return _matched(world, model, "test")


def valid_discovered(world: StreamWorld, model: nn.Module, cost: Numbers) -> float:
    """The same on the validation images of all digits."""
    return _matched(world, model, "validation")[ALL]


@torch.no_grad()
def _matched(world: StreamWorld, model: nn.Module, part: str) -> Numbers:
    rows = getattr(world.data.tasks[-1], part)
    named = torch.arange(10) < NAMED
    task = torch.full((len(rows),), len(world.data) - 1)
    batch: dict[str, Tensor] = {"pixel_values": rows.x, "task": task}
    scores = model(batch) if isinstance(model, Learner) else logits_of(model, {"pixel_values": rows.x})
    found = cluster_acc(scores.argmax(1), rows.y, {OLD: named, NEW: ~named})
    return {ALL: found["all"], OLD: found[OLD], NEW: found[NEW]}


def _together(parts: Sequence[Split]) -> Split:
    return Split(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "index")))


def _network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Projecting(mlp(14 * 14, 10, WIDTHS, seed=seed), features=WIDTHS[-1])
