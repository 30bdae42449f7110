"""Several learning rates for a method, and the choice among them by rows that are held out of training.

The rate decides more than the method does, and a comparison in which one method was given a good rate and another was
not compares the rates. Every method is therefore tried at equally many.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from palimpsest.errors import UserError
from palimpsest.forget.uld import ULD
from palimpsest.forget.unstar import UnStar
from palimpsest.train.method import is_objective

T = TypeVar("T")
MOST_HELD_OUT = 64


def rates(lr: float, n: int) -> list[float]:
    """`n` learning rates around `lr`, each half a decade above the one before.

    >>> [f"{rate:.2g}" for rate in rates(1e-4, 3)]
    ['3.2e-05', '0.0001', '0.00032']
    """
    return [lr * 10 ** ((i - (n - 1) / 2) / 2) for i in range(n)]


def trains_at_rate(method: Any) -> bool:
    """Whether a method trains at the learning rate it is given: objectives, and the others that hand it on."""
    return is_objective(method) or isinstance(method, (ULD, UnStar))


def place(folder: Any, lr: float | None) -> Path | None:
    """Where in a method's folder, if it has one, the checkpoints of one rate lie; in it where no rate is chosen.

    >>> place("npo", 1e-4).as_posix()
    'npo/lr-0.0001'
    """
    if folder is None:
        return None
    return Path(folder) if lr is None else Path(folder) / f"lr-{lr:.6g}"


def hold_out(rows: Sequence[T], seed: int = 0) -> tuple[list[T], list[T]]:
    """The rows to train on, and a fifth of them, drawn by `seed`, that is held out: one at least, and at most 64.

    Raises:
        UserError: if there are less than two rows.

    >>> [len(part) for part in hold_out(range(10))]
    [8, 2]
    """
    if len(rows) < 2:
        raise UserError("rates are chosen by retain rows held out of training, and there is only one: give more")
    n = min(max(1, len(rows) // 5), MOST_HELD_OUT)
    held = set(random.Random(seed).sample(range(len(rows)), n))
    return [row for i, row in enumerate(rows) if i not in held], [rows[i] for i in sorted(held)]


def split_text(text: str) -> tuple[str, str]:
    """The first four fifths of a text, and the last, cut where a word ends.

    Raises:
        UserError: if one of them has no word.

    >>> split_text("one two three four five")
    ('one two three', ' four five')
    """
    at = text.rfind(" ", 0, len(text) * 4 // 5)
    parts = text[: max(0, at)], text[max(0, at) :]
    if not all(part.strip() for part in parts):
        raise UserError("rates are chosen by the last fifth of the general text, which is too short: give more")
    return parts


class Outcome(Protocol):
    """What a result must have to be ranked: see `palimpsest.forget.compare.Result`."""

    kept: float
    balance: float
    reached: bool | None


def merit(outcome: Outcome) -> tuple[float, ...]:
    """A key by which the best outcome is the largest: among those that reached a level of forgetting, the one that kept
    most; else the highest balance, and where that cannot be had the one that kept most."""
    values = (1.0, outcome.kept) if outcome.reached else (0.0, outcome.balance, outcome.kept)
    return tuple(-1.0 if np.isnan(x) else x for x in values)


@dataclass(frozen=True)
class Trial:
    """What became of a method at one rate.

    Attributes:
        forgotten: of the forget rows that a look asks.
        kept, balance: on the held-out retain rows and the held-out end of the text.
        steps: how many it trained; 0 of a method that is no objective.
        seconds, looking: of training, and of looks at how much is forgotten.
        reached: whether it reached the level of forgetting; None where none was asked for.
        error: why it broke down, if it did.
    """

    lr: float
    forgotten: float = float("nan")
    kept: float = float("nan")
    balance: float = float("nan")
    steps: int = 0
    seconds: float = 0.0
    looking: float = 0.0
    reached: bool | None = None
    error: str = ""


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest `merit` of those that did not break down, the first of equals; None without any."""
    return max((trial for trial in trials if not trial.error), key=merit, default=None)


def digest(*settings: Any) -> str:
    """A name for all that a trial depends on besides its rate and the model."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def recall(folder: Path, settings: str) -> Trial | None:
    """The trial that `record` wrote into a folder, if it was made with the settings of this digest."""
    try:
        found = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Trial(**found["trial"]) if found["settings"] == settings else None


def record(folder: Path, settings: str, trial: Trial) -> None:
    """Writes down what came of a trial, so that it need not be made again."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "trial.json.partial"
    new.write_text(json.dumps({"settings": settings, "trial": asdict(trial)}), encoding="utf-8")
    os.replace(new, folder / "trial.json")


def keep_best(folder: Any, trials: Sequence[Trial]) -> None:
    """Deletes from a method's folder, if it has one, the checkpoints of all trials but the best so far: they are as
    large as the model."""
    best = best_trial(trials)
    for trial in trials if folder is not None and best else ():
        if trial is not best:
            for point in place(folder, trial.lr).glob("step-*"):
                shutil.rmtree(point)
