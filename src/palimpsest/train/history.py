"""What a run leaves behind: its history, its log of JSON lines, and the error of a loss that is no number."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from palimpsest.errors import UserError


@dataclass
class History:
    """What happened in a run.

    Steps are counted from 1: the record of step s holds the loss that update s was computed from, and an
    evaluation at step s was made after s updates (so 0 is the model as it came).

    Args:
        steps: one record a step: `step`, `loss`, each named term, `lr` (of the first parameter group), and
            `grad_norm` (before clipping) where gradients are clipped.
        evaluations: one record an evaluation: `step` and what `evaluate` returned.
        resumed_from: the step of the checkpoint this run went on from, or None.

    >>> history = History([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}])
    >>> history.curve("loss")
    [(1, 2.0), (2, 1.5)]
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    resumed_from: int | None = None

    def curve(self, name: str) -> list[tuple[int, float]]:
        """The points (step, value) of one quantity, from the evaluations if they have it, else from the steps."""
        for records in (self.evaluations, self.steps):
            points = [(record["step"], record[name]) for record in records if name in record]
            if points:
                return points
        known = sorted({key for records in (self.evaluations, self.steps) for r in records for key in r} - {"step"})
        raise ValueError(f"the history has no {name!r}: it has {', '.join(known) or 'no records'}")


class NonFiniteLoss(UserError, ArithmeticError):
    """A loss, a gradient norm or a weight is infinite or not a number; the run has stopped.

    Attributes:
        term: the name of the loss term, `"grad_norm"`, or the parameter's name.
        step: the step that was not taken (or, for a parameter, the step after which it was found).
        checkpoint: the folder of the last good checkpoint, or None.
        history: the history up to there.
    """

    def __init__(
        self, term: str, value: float, step: int, checkpoint: Path | None, history: History, taken: bool = False
    ) -> None:
        self.term, self.step, self.checkpoint, self.history = term, step, checkpoint, history
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint"
        weights = "was found after the step" if taken else "the step was not taken"
        super().__init__(f"step {step}: {term} is {value}: {weights}, {kept}; lower lr or set clip")


class Log:
    """A file of JSON lines, one a step, appended and flushed at once. With path None it swallows everything.

    A checkpoint stores `position()`; `rewind` goes back there, so that a resumed run repeats no line and loses none.
    """

    def __init__(self, path: str | os.PathLike | None) -> None:
        self.path = None if path is None else Path(path)
        self.file = None
        if self.path is not None:
            if self.path.is_dir():
                raise UserError(f"log={path} is a folder: name a file")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a", encoding="utf-8")

    def write(self, record: dict[str, float], evaluation: dict[str, float] | None = None) -> None:
        """Append the line of one step; what was evaluated after it goes under the key `evaluation`."""
        if self.file is not None:
            self.file.write(_line(record, evaluation))
            self.file.flush()

    def position(self, folder: Path) -> dict | None:
        """Where the log is, seen from the checkpoint folder, and how long it is in bytes."""
        if self.file is None:
            return None
        return {"path": os.path.relpath(self.path, folder), "bytes": os.fstat(self.file.fileno()).st_size}

    def rewind(self, position: dict | None, folder: Path, history: History) -> None:
        """Cut the file back to a checkpoint; where it is another file, or a shorter one, write its lines anew."""
        if self.file is None:
            return
        here = self.position(folder)
        if position is not None and here["path"] == position["path"] and here["bytes"] >= position["bytes"]:
            self.file.truncate(position["bytes"])
            return
        evaluations = {record["step"]: record for record in history.evaluations}
        for record in ([{"step": 0}] if 0 in evaluations else []) + history.steps:
            self.write(record, evaluations.get(record["step"]))

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.file is not None:
            self.file.close()


def _line(record: dict[str, float], evaluation: dict[str, float] | None) -> str:
    if evaluation is not None:
        record = {**record, "evaluation": {k: v for k, v in evaluation.items() if k != "step"}}
    try:
        return json.dumps(record, allow_nan=False) + "\n"
    except ValueError:  # JSON has no NaN and no infinity
        return json.dumps(_finite(record), allow_nan=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
