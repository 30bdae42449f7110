"""The families of lifelong learning, as a review sorts them, and the protocols on which their ranking depends.

Source: Parisi, Kemker, Part, Kanan and Wermter (2018), Continual lifelong learning with neural networks: a review,
arXiv 1802.07569.

    regularisation         old weights or old answers are held      ewc, online_ewc, si, lwf
    dynamic architecture   room is added for what is new            progressive_columns, gwr
    complementary memory   a second memory brings back what was     er, icarl, gem, generative_replay

`taxonomy` is the review's table for the methods that stand here, `run_all` teaches them one stream, and the streams are
those of `palimpsest.tasks.streams`: classes in groups with or without the task being told, and permuted pixels. Three
methods that came with the review have files of their own: `palimpsest.retain.progressive_columns`,
`palimpsest.retain.growing_when_required` and `palimpsest.retain.generative_replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from palimpsest.metrics.continual import average_accuracy, backward_transfer, forgetting, forward_transfer
from palimpsest.retain.methods import METHODS
from palimpsest.retain.sequence import learn_stream
from palimpsest.tasks.streams import Stream

Family = Literal["regularisation", "dynamic architecture", "complementary memory"]


@dataclass(frozen=True)
class Entry:
    """A method in the review's table.

    Attributes:
        name: in `palimpsest.retain.methods.METHODS`.
        family: one of the three.
        source: who proposed it, and where.
        memory: what is kept beside the network, for t tasks, p parameters, n rows of d values.
        told: whether the task of a row has to be told when it is asked.
    """

    name: str
    family: Family
    source: str
    memory: str
    told: bool = False


_TABLE = (
    Entry("lwf", "regularisation", "Li and Hoiem (2016), 1606.09282", "p while a task is learned"),
    Entry("ewc", "regularisation", "Kirkpatrick et al. (2017), 1612.00796", "2 p"),
    Entry("online_ewc", "regularisation", "Schwarz et al. (2018), 1805.06370", "2 p"),
    Entry("si", "regularisation", "Zenke, Poole and Ganguli (2017), 1703.04200", "p; 5 p while a task is learned"),
    Entry("progressive_columns", "dynamic architecture", "Rusu et al. (2016), 1606.04671", "t^2 adapters", told=True),
    Entry("gwr", "dynamic architecture", "Marsland, Shapiro and Nehmzow (2002)", "nodes of d values"),
    Entry("er", "complementary memory", "Chaudhry et al. (2019), 1902.10486", "n d"),
    Entry("icarl", "complementary memory", "Rebuffi et al. (2017), 1611.07725", "n d"),
    Entry("gem", "complementary memory", "Lopez-Paz and Ranzato (2017), 1706.08840", "n d; t p while a step is made"),
    Entry("generative_replay", "complementary memory", "Shin et al. (2017), 1705.08690", "a generator's weights"),
)


def taxonomy(family: Family | None = None) -> list[Entry]:
    """The methods of the review's three families.

    Args:
        family: one alone; None for all.

    >>> [entry.name for entry in taxonomy("dynamic architecture")]
    ['progressive_columns', 'gwr']
    """
    return [entry for entry in _TABLE if family in (None, entry.family)]


def run_all(
    model: Callable[[], nn.Module], stream: Stream, methods: Mapping[str, Any] | None = None, **training: Any
) -> dict[str, dict[str, float]]:
    """Teaches the same stream to a fresh model by each method.

    Args:
        model: makes the model, with the same weights each time.
        methods: by name; None for all of the taxonomy, with their papers' settings.
        training: as for `palimpsest.retain.sequence.learn_stream`: `steps`, `lr`, `seed`, ...

    Returns:
        For each method its `accuracy`, `forgetting`, `backward transfer`, `forward transfer`, and the `bytes` that it
        keeps in the end.
    """
    found = {}
    for name, method in (methods or {entry.name: METHODS[entry.name] for entry in _TABLE}).items():
        log = learn_stream(model(), method, stream, **training).log
        R = log.accuracy["test"]
        found[name] = {
            "accuracy": average_accuracy(R),
            "forgetting": forgetting(R),
            "backward transfer": backward_transfer(R),
            "forward transfer": forward_transfer(R, log.untrained),
            "bytes": float(log.memory[-1]),
        }
    return found


def best_of(results: Mapping[str, Mapping[str, float]], on: str = "accuracy") -> dict[str, tuple[str, float]]:
    """The best method of each family, and its value, of what `run_all` gives.

    >>> best_of({"ewc": {"accuracy": 0.5}, "lwf": {"accuracy": 0.6}, "er": {"accuracy": 0.9}})
    {'regularisation': ('lwf', 0.6), 'complementary memory': ('er', 0.9)}
    """
    best: dict[str, tuple[str, float]] = {}
    for entry in _TABLE:
        if entry.name in results and results[entry.name][on] > best.get(entry.family, ("", float("-inf")))[1]:
            best[entry.family] = (entry.name, results[entry.name][on])
    return best
