"""The user's own language model, which learns new rows and is to keep what it can do: `palimpsest retain MODEL`.

`language_world` makes a stream of the user's files, `language_measures` says what was gained and lost. What was gained
is asked of the taught rows themselves, or of other rows that the user gives, of which every second one chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.language_measures import (
    GAINED,
    LOST,
    LOWEST,
    MERIT,
    NEW,
    OLD,
    asked,
    measures,
    text_columns,
    validate,
)
from palimpsest.benches.language_world import LONGEST, SCORED, LanguageWorld, digest_of, row_key, rows_of, written_by
from palimpsest.benches.yours import Yours
from palimpsest.errors import UserError
from palimpsest.retain.family import LANGUAGE
from palimpsest.retain.methods import METHODS
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import InSequence, Learner, StreamLog
from palimpsest.retain.tokens import probabilities
from palimpsest.tasks.held_out import duplicates_note
from palimpsest.tasks.streams import Stream
from palimpsest.train.method import Edit

LOOKS = 6  # while a task is learned
LEAST = 0.01  # probability below which nothing is known


@dataclass(frozen=True)
class Unchanged(Edit):
    """The model as it is, looked at once."""

    def edit(self, model: nn.Module, data: Stream, **training: Any) -> Learner:
        n = len(data)
        seen = {part: asked(model, data, part).expand(n, n) for part in ("test", "validation")}
        return Learner(model, FineTune(), {}, data.allowed(n), StreamLog(seen, seen["test"][0]))


def recipe(method: Any, training: Mapping[str, Any]) -> Recipe:
    """How an arm is made of a method.

    Raises:
        UserError: one that works on labelled rows only.
    """
    if type(method) not in {type(METHODS[name]) for name in LANGUAGE}:
        kind = type(method).__name__
        raise UserError(f"{kind} tells classes apart and cannot teach a language model: take {', '.join(LANGUAGE)}")
    every = max(1, training["steps"] // LOOKS)
    return Recipe(InSequence(method, every=every), settings={"clip": 1.0, **training, "already": 1})


def save_best(world: LanguageWorld, seed: int, model: nn.Module, folder: Path) -> None:
    """The model, or its adapters, and the tokenizer that it was taught with, as transformers loads them."""
    model.model.save_pretrained(folder)
    world(seed).tokenizer.save_pretrained(folder)


def on_rows(
    *,
    new: Sequence[Path],
    model: Path,
    keep: Path | None = None,
    test: Sequence[Path] = (),
    text: Sequence[Path] = (),
    lora: int | None = None,
    system: str | None = None,
    max_length: int | None = None,
    max_rows: int | None = None,
) -> Yours:
    """The comparison on a language model and files of rows.

    Args:
        new: files of rows to learn, one after the other.
        model: folder of a Hugging Face causal language model.
        keep: a file of rows that it can answer and should go on answering; None: it writes such rows itself.
        test: files of rows that tell what was learned, one for each of `new`; none for these themselves.
        text: files of general text; none for passages of Python's reference.
        lora: rank of adapters that train in the place of all weights.
        system: message of every conversation.
        max_length: tokens of a row, at most.
        max_rows: rows of each task that are looked at, at most.
    """
    if len(test) not in (0, len(new)):
        raise UserError(f"--test is given {len(test)} times and --new {len(new)} times: give one for each, or none")
    files = [tuple(str(Path(path).absolute()) for path in several) for several in (new, test, text)]
    place = str(Path(keep).absolute()) if keep else ""
    world = LanguageWorld(
        *(str(Path(model).absolute()), files[0], place, *files[1:], lora, system),
        longest=max_length or LONGEST,
        scored=max_rows or SCORED,
    )
    if keep is None:
        world = replace(world, keep=written_by(world))
    first = world(0)
    old = float(probabilities(base := first.model("base"), first.data.tasks[0].test.columns).mean())
    del base
    rows, kept, _ = rows_of(world)
    told = ", then ".join(f"{len(part)} rows of {Path(path).name}" for part, path in zip(rows, files[0], strict=True))
    of = f"{len(kept)} rows {f'of {Path(keep).name}' if keep else 'that it wrote itself'} to keep"
    about = f"{Path(model).name}: {told} to learn, {of}"
    notes = [*duplicates_note([row_key(row) for row in kept], "rows to keep")]
    if keep is None:
        notes.append("no rows to keep were given: what is lost is estimated on rows that the model wrote itself")
    if old < LEAST:
        notes.append(f"the model does not know the rows to keep (probability {old:.2g}): there is little to lose")
    if system:
        notes.append("the system message is not saved with a model: give it again where the model is used")
    if not test:
        notes.append("gained is what was learned of the rows that were taught: --test has others asked")
    bench = Bench(
        name="a language model that learns more",
        about=about,
        world=replace(world, digest=digest_of(world)),
        measures=measures,
        read={
            MERIT: Measure(bounds=None),
            GAINED: Measure(bounds=None),
            LOST: Measure("lower", None),
            NEW: Measure(),
            OLD: Measure(),
            LOWEST: Measure(),
            **{column: Measure("lower", None) for column in text_columns(files[2])},
        },
        validate=validate,
        start="base",
        floor=("before", Recipe(Unchanged())),
        ceiling=None,
        baselines={},
    )
    return Yours(bench, frozenset({"base"}), about, tuple(notes))
