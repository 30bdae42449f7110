"""The taxonomy of data erasure: every method that the survey's door knows, for which data, at which price (Qu et al.
2024, arXiv 2403.15779)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "labels"]


@dataclass(frozen=True)
class Entry:
    """A method's place in the survey.

    Attributes:
        method: its name for `unlearn`.
        data: the kinds of rows it is for.
        access: what must be accessible of the model.
        cost: what it takes.
        retain: whether it needs rows to keep.
        source: who proposed it.
    """

    method: str
    data: tuple[Kind, ...]
    access: Literal["weights", "prompt"]
    cost: str
    retain: Literal["no", "optional", "yes"]
    source: str


BOTH: tuple[Kind, Kind] = ("text", "labels")
_ENTRIES = (
    Entry("grad_ascent", BOTH, "weights", "some steps on the forget rows", "no", "2210.01504"),
    Entry("grad_diff", BOTH, "weights", "some steps on forget and retain rows", "yes", "2203.12817"),
    Entry("npo", BOTH, "weights", "some steps; the model scores the forget rows once", "optional", "2404.05868"),
    Entry("causal_whp", ("text",), "weights", "many teacher passes, then some steps", "optional", "2407.16997"),
    Entry("needle", ("text",), "weights", "no training, once the vector is found", "no", "2406.11614"),
    Entry("task_vector", BOTH, "weights", "fine-tuning on the forget rows", "no", "2212.04089"),
    Entry("kga", BOTH, "weights", "two helpers trained, some steps, four models held", "yes", "2305.06535"),
    Entry("eul", BOTH, "weights", "some steps in adapters; they stay in the model", "yes", "2310.20150"),
    Entry("random_labels", ("labels",), "weights", "some steps on the forget rows", "optional", "1911.04933"),
    Entry("ppu", BOTH, "weights", "some steps on a part of the forget rows", "no", "2403.15779"),
    Entry("icul", ("labels",), "prompt", "no training; a longer prompt for every query", "yes", "2310.07579"),
)


def registry() -> tuple[Entry, ...]:
    """The taxonomy: every method that `unlearn` knows, for which data, at which price.

    >>> [entry.method for entry in registry() if entry.access == "prompt"]
    ['icul']
    """
    return _ENTRIES
