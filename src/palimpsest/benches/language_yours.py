"""The user's own language model, which learns new rows and is to keep what it can do: `palimpsest retain MODEL`.

The first task of the stream is what the model can do already: rows of the user's, or rows that it writes itself. Of
these three fifths are given to methods, a fifth chooses, and a fifth, the same for every seed, says what was lost. The
new rows follow, file by file; what was gained is asked of the taught rows themselves, or of other rows that the user
gives, of which every second one chooses.

    gained = mean over the new tasks of (P after - P before) / (1 - P before)
    lost   = 1 - P after / P before, of the old rows                    P: mean probability of the answers
    merit  = gained - lost
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.streams_yours import matrix_points
from palimpsest.benches.yours import Yours
from palimpsest.errors import NotFinite, UserError
from palimpsest.forget.evaluation import perplexity, settle_end, subsample
from palimpsest.models.adapters import add_lora, sources
from palimpsest.models.encoding import Encoded, encode, pad_token_id
from palimpsest.models.files import load
from palimpsest.models.forward import config_of, context_length
from palimpsest.models.template import prompt_template, use_template
from palimpsest.paths import home
from palimpsest.retain.family import LANGUAGE
from palimpsest.retain.methods import METHODS
from palimpsest.retain.replay import FineTune
from palimpsest.retain.self_written import self_written_rows
from palimpsest.retain.sequence import InSequence, Learner, StreamLog
from palimpsest.retain.tokens import probabilities, token_stream
from palimpsest.tasks.columns import decoded
from palimpsest.tasks.held_out import content_digest, duplicates_note, key, naming, parts
from palimpsest.tasks.rows import Row, read_bytes, read_rows
from palimpsest.tasks.streams import Stream
from palimpsest.tasks.text import documents
from palimpsest.train.method import Edit

MERIT, GAINED, LOST, NEW, OLD = "gained - lost", "gained", "lost", "new P", "old P"
LOWEST = "old P, lowest"
SCORED, LONGEST = 64, 512  # rows of a task that are looked at, and tokens of a row, unless told otherwise
WRITTEN, PASSAGES = 80, 8  # rows that a model writes where none are kept; passages of general text
LOOKS = 6  # while a task is learned
LEAST = 0.01  # probability below which nothing is known


@dataclass(frozen=True)
class LanguageWorld:
    """(seed, smoke) -> the user's model and rows.

    Attributes:
        model: folder of the model.
        new, test: files of the tasks' rows, and of those that they are tested on; none for the same.
        keep: file of rows that the model can answer.
        text: files of general text; none for passages of Python's reference.
        lora: rank of fresh adapters, which train in the place of all weights.
        system: message of every conversation.
        longest: tokens of a row, at most.
        scored: rows of a task that are looked at, at most.
        digest: of the rows and texts that were read at first, and of what files the model had.
    """

    model: str
    new: tuple[str, ...]
    keep: str
    test: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    lora: int | None = None
    system: str | None = None
    longest: int = LONGEST
    scored: int = SCORED
    digest: str = ""

    def __call__(self, seed: int, smoke: bool = False) -> RowsInSequence:
        if self.digest and self.digest != _digest(replace(self, digest="")):
            raise UserError("the model, rows or texts were changed while they were in use: run the command again")
        return RowsInSequence(replace(self, digest=""), seed, smoke)


@dataclass(frozen=True)
class RowsInSequence:
    """A seed's stream and model."""

    world: LanguageWorld
    seed: int
    smoke: bool = False

    @property
    def tokenizer(self) -> Any:
        return _settled(self.world)[0]

    @cached_property
    def data(self) -> Stream:
        """The old rows as the first task, and a task for every file of new ones."""
        new, keep, test = _rows(self.world)
        with naming(self.world.keep):
            divided = [[keep[i] for i in part] for part in parts([_key(row) for row in keep], self.seed)]
        most = self.world.scored
        tasks = {"old": (divided[0], subsample(divided[2], most), subsample(divided[1], most))}
        for number, (name, rows) in enumerate(zip(names(self.world.new), new, strict=True)):
            asked = [test[number][::2], test[number][1::2]] if test else [rows, rows]
            tasks[name] = (rows, *(subsample(part, most) for part in asked))
        encoded = {name: tuple(self.encoded(part) for part in task) for name, task in tasks.items()}
        return token_stream(encoded, pad_token_id(self.tokenizer))

    def encoded(self, rows: Sequence[Row]) -> Encoded:
        tokenizer, longest = _settled(self.world)
        template = prompt_template(tokenizer)
        pairs = [template.pair(row["question"], row["answer"]) for row in rows]
        return encode(tokenizer, *zip(*pairs, strict=True), max_length=longest)

    def model(self, kind: str) -> nn.Module:
        """ "base": as the folder has it, with fresh adapters where these are to train."""
        model, _ = load(self.world.model)
        return model if self.world.lora is None else add_lora(model, self.world.lora, self.world.model, self.seed)


@dataclass(frozen=True)
class Unchanged(Edit):
    """The model as it is, looked at once."""

    def edit(self, model: nn.Module, data: Stream, **training: Any) -> Learner:
        n = len(data)
        seen = {part: _asked(model, data, part).expand(n, n) for part in ("test", "validation")}
        return Learner(model, FineTune(), {}, data.allowed(n), StreamLog(seen, seen["test"][0]))


def measures(world: RowsInSequence, model: nn.Module) -> dict[str, Any]:
    """On the test rows: what was gained, lost and how low the old rows sank on the way; and the perplexity of general
    text. With the curve of every task and the matrix of all."""
    matrix = _matrix(world, model, "test")
    found = {MERIT: _gained(matrix) - _lost(matrix), GAINED: _gained(matrix), LOST: _lost(matrix)}
    found |= {NEW: fmean(matrix[-1, 1:].tolist()), OLD: matrix[-1, 0].item()}
    curve = model.log.curve if isinstance(model, Learner) else []
    found[LOWEST] = min([found[OLD], *(look["accuracy"][0] for look in curve)])
    net = model.model if isinstance(model, Learner) else model
    for column, text in zip(_columns(world.world.text), _texts(world.world.text), strict=True):
        try:
            found[column] = perplexity(net, world.tokenizer, text)
        except NotFinite:
            found[column] = float(config_of(net).vocab_size)  # that of chance
    return {**found, **_curves(world, matrix, curve), **matrix_points(matrix)}


def validate(world: RowsInSequence, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """What was gained less what was lost, on the validation rows."""
    matrix = _matrix(world, model, "validation")
    return _gained(matrix) - _lost(matrix)


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
    """The model, or its adapters, and the tokenizer, as transformers loads them."""
    model.model.save_pretrained(folder)
    load(world.model)[1].save_pretrained(folder)


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
        world = replace(world, keep=_written(world))
    first = world(0)
    old = float(probabilities(base := first.model("base"), first.data.tasks[0].test.columns).mean())
    del base
    rows, kept, _ = _rows(world)
    told = ", then ".join(f"{len(part)} rows of {Path(path).name}" for part, path in zip(rows, files[0], strict=True))
    of = f"{len(kept)} rows {f'of {Path(keep).name}' if keep else 'that it wrote itself'} to keep"
    about = f"{Path(model).name}: {told} to learn, {of}"
    notes = [*duplicates_note([_key(row) for row in kept], "rows to keep")]
    if keep is None:
        notes.append("no rows to keep were given: what is lost is estimated on rows that the model wrote itself")
    if old < LEAST:
        notes.append(f"the model does not know the rows to keep (probability {old:.2g}): there is little to lose")
    if not test:
        notes.append("gained is what was learned of the rows that were taught: --test has others asked")
    bench = Bench(
        name="a language model that learns more",
        about=about,
        world=replace(world, digest=_digest(world)),
        measures=measures,
        read={
            MERIT: Measure(bounds=None),
            GAINED: Measure(bounds=None),
            LOST: Measure("lower", None),
            NEW: Measure(),
            OLD: Measure(),
            LOWEST: Measure(),
            **{column: Measure("lower", None) for column in _columns(files[2])},
        },
        validate=validate,
        start="base",
        floor=("before", Recipe(Unchanged())),
        ceiling=None,
        baselines={},
    )
    return Yours(bench, frozenset({"base"}), about, tuple(notes))


def names(files: Sequence[str]) -> list[str]:
    """A task's name for each file: the file's, numbered where two are alike or it is called old.

    >>> names(["a/new.jsonl", "b/new.jsonl"])
    ['new', 'new 2']
    >>> names(["x.jsonl", "x 3.jsonl", "b/x.jsonl"])
    ['x', 'x 3', 'x 4']
    """
    found: list[str] = ["old"]
    for number, file in enumerate(files, 1):
        name = Path(file).name.partition(".")[0]
        found.append(next(each for each in (name, *(f"{name} {i}" for i in count(number))) if each not in found))
    return found[1:]


def _gained(matrix: Tensor) -> float:
    before, after = matrix[0, 1:], matrix[-1, 1:]
    return float(((after - before) / (1 - before).clamp(min=1e-6)).mean())


def _lost(matrix: Tensor) -> float:
    return float(1 - matrix[-1, 0] / matrix[0, 0].clamp(min=1e-12))


def _matrix(world: RowsInSequence, model: nn.Module, part: str) -> Tensor:
    """The probability of each task's answers, before and after each task was learned [tasks, tasks]."""
    if isinstance(model, Learner):
        return model.log.accuracy[part].nan_to_num(0.0)  # nothing is learned of the first task: its row is from before
    # Training diverged: the model as it was then, for every moment.
    before, now = (_asked(each, world.data, part) for each in (world.model("base"), model))
    return torch.stack([before, *[now] * (len(world.data) - 1)])


def _asked(model: nn.Module, stream: Stream, part: str) -> Tensor:
    """The probability of each task's answers; 0 of what training broke."""
    found = [probabilities(model, getattr(task, part).columns).mean() for task in stream.tasks]
    return torch.stack(found).nan_to_num(0.0)


def _curves(world: RowsInSequence, matrix: Tensor, looks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The probability of each task's answers while tasks were learned: (update, P)."""
    tasks = names(world.world.new)
    updates = max((look["step"] for look in looks), default=0)
    found: dict[str, dict[int, float]] = {name: {0: matrix[0, i].item()} for i, name in enumerate(["old", *tasks])}
    for i, points in enumerate(found.values()):
        for look in looks:
            points[(look["task"] - 1) * updates + look["step"]] = look["accuracy"][i]
        for task in range(1, len(matrix)) if updates else ():
            points[task * updates] = matrix[task, i].item()  # with what a method does when a task has ended
    return {f"P of {name}": sorted(points.items()) for name, points in found.items()}


def _written(world: LanguageWorld) -> str:
    """The file of rows that a model wrote itself; made where it is not there."""
    place = home() / "self_written" / f"{key(*_model_files(world), str(world.system), str(WRITTEN))}.jsonl"
    if not place.exists():
        model, tokenizer = load(world.model)
        if world.system:
            use_template(tokenizer, system=world.system)
        rows = self_written_rows(model, tokenizer, WRITTEN)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(f".{os.getpid()}")
        part.write_text("".join(json.dumps(_plain(row)) + "\n" for row in rows), encoding="utf-8")
        part.replace(place)
    return str(place)


def _plain(row: Row) -> dict[str, str]:
    return {name: row[name] for name in ("question", "answer")} if row["question"] else {"text": row["answer"]}


@lru_cache(maxsize=2)
def _settled(world: LanguageWorld) -> tuple[Any, int]:
    """The tokenizer, which knows whether answers have an end, and the tokens of a row, at most."""
    model, tokenizer = load(world.model)
    if world.system:
        use_template(tokenizer, system=world.system)
    new, keep, test = _rows(world)
    settle_end(model, tokenizer, [*keep, *(row for part in (*new, *test) for row in part)])
    return tokenizer, min(world.longest, context_length(model) or world.longest)


@lru_cache(maxsize=2)
def _rows(world: LanguageWorld) -> tuple[list[list[Row]], list[Row], list[list[Row]]]:
    """The rows to learn, those to keep, and those that are tested."""
    test = [read_rows(path) for path in world.test]
    for path, rows in zip(world.test, test, strict=True):
        if len(rows) < 2:
            raise UserError(f"{path}: give at least 2 rows, one to choose by and one to test on")
    return [read_rows(path) for path in world.new], read_rows(world.keep), test


@lru_cache(maxsize=2)
def _texts(paths: tuple[str, ...]) -> list[str]:
    """Files of general text; where there is none, passages of Python's reference."""
    if not paths:
        return ["\n\n".join(document.text for document in documents(0).test[:PASSAGES])]
    return [decoded(read_bytes(path), Path(path)) for path in paths]


def _columns(paths: Sequence[str]) -> list[str]:
    """What the perplexity of each text is called."""
    return [f"{name} perplexity" for name in (names(paths) if len(paths) > 1 else ["text"])]


def _digest(world: LanguageWorld) -> str:
    new, keep, test = _rows(world)
    rows = [key(str(row)) for part in (*new, keep, *test) for row in part]
    return content_digest([*rows, *map(key, _texts(world.text))], *_model_files(world))


def _model_files(world: LanguageWorld) -> list[str]:
    """The model's files, its base model's included, with sizes and times: by these a model at one place is told."""
    files = [path for folder in sources(world.model) for path in sorted(folder.iterdir()) if path.is_file()]
    return [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]


def _key(row: Row) -> str:
    return key(str((row["question"], row["answer"])))
