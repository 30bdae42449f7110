"""The user's language model and rows, as a stream whose first task is what the model can do already.

Those rows are the user's, or rows that the model writes itself. Three fifths of them are given to methods, a fifth
chooses, and a fifth, the same for every seed, says what was lost. The new rows follow, file by file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any

from torch import nn

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import settle_end, subsample
from palimpsest.models.adapters import add_lora, sources
from palimpsest.models.encoding import Encoded, encode, pad_token_id
from palimpsest.models.files import load
from palimpsest.models.forward import context_length
from palimpsest.models.template import prompt_template, use_template
from palimpsest.paths import home
from palimpsest.retain.self_written import self_written_rows
from palimpsest.retain.tokens import token_stream
from palimpsest.tasks.columns import decoded
from palimpsest.tasks.held_out import content_digest, key, naming, parts
from palimpsest.tasks.rows import Row, read_bytes, read_rows
from palimpsest.tasks.streams import Stream
from palimpsest.tasks.text import documents
from palimpsest.train.progress import LINE_SECONDS, duration

SCORED, LONGEST = 64, 512  # rows of a task that are looked at, and tokens of a row, unless told otherwise
WRITTEN, PASSAGES = 80, 8  # rows that a model writes where none are kept; passages of general text


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
        if self.digest and self.digest != digest_of(replace(self, digest="")):
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
        return settled(self.world)[0]

    @cached_property
    def data(self) -> Stream:
        """The old rows as the first task, and a task for every file of new ones."""
        new, keep, test = rows_of(self.world)
        with naming(self.world.keep):
            divided = [[keep[i] for i in part] for part in parts([row_key(row) for row in keep], self.seed)]
        most = self.world.scored
        tasks = {"old": (divided[0], subsample(divided[2], most), subsample(divided[1], most))}
        for number, (name, rows) in enumerate(zip(names(self.world.new), new, strict=True)):
            asked = [test[number][::2], test[number][1::2]] if test else [rows, rows]
            tasks[name] = (rows, *(subsample(part, most) for part in asked))
        encoded = {name: tuple(self.encoded(part) for part in task) for name, task in tasks.items()}
        return token_stream(encoded, pad_token_id(self.tokenizer))

    def encoded(self, rows: Sequence[Row]) -> Encoded:
        tokenizer, longest = settled(self.world)
        template = prompt_template(tokenizer)
        pairs = [template.pair(row["question"], row["answer"]) for row in rows]
        return encode(tokenizer, *zip(*pairs, strict=True), max_length=longest)

    def model(self, kind: str) -> nn.Module:
        """ "base": as the folder has it, with fresh adapters where these are to train."""
        model, _ = load(self.world.model)
        return model if self.world.lora is None else add_lora(model, self.world.lora, self.world.model, self.seed)


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
        numbered = (f"{name} {i}" for i in count(number))
        found.append(next(each for each in chain([name], numbered) if each not in found))
    return found[1:]


def written_by(world: LanguageWorld) -> str:
    """The file of rows that a model wrote itself; made where it is not there."""
    place = home() / "self_written" / f"{key(*_model_files(world), str(world.system), str(WRITTEN))}.jsonl"
    if not place.exists():
        model, tokenizer = load(world.model)
        if world.system:
            use_template(tokenizer, system=world.system)
        print(f"palimpsest: the model writes {WRITTEN} rows to keep, once", file=sys.stderr, flush=True)
        texts = WRITTEN * (1 if prompt_template(tokenizer).tokenizer is None else 2)  # a question and its answer
        rows = self_written_rows(model, tokenizer, WRITTEN, told=_lines(texts))
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(f".{os.getpid()}")
        part.write_text("".join(json.dumps(_plain(row)) + "\n" for row in rows), encoding="utf-8")
        part.replace(place)
    return str(place)


def _lines(texts: int) -> Callable[[int], None]:
    """Says now and then how long the writing of so many texts will take, of those that are written."""
    began, said, done = time.monotonic(), time.monotonic(), 0

    def tell(more: int) -> None:
        nonlocal said, done
        now, done = time.monotonic(), done + more
        if done < texts and now - said >= LINE_SECONDS:
            left = duration((now - began) / done * (texts - done))
            print(f"palimpsest: {done} of {texts} texts are written, about {left} left", file=sys.stderr, flush=True)
            said = now

    return tell


def _plain(row: Row) -> dict[str, str]:
    return {name: row[name] for name in ("question", "answer")} if row["question"] else {"text": row["answer"]}


@lru_cache(maxsize=2)
def settled(world: LanguageWorld) -> tuple[Any, int]:
    """The tokenizer, which knows whether answers have an end, and the tokens of a row, at most."""
    model, tokenizer = load(world.model)
    if world.system:
        use_template(tokenizer, system=world.system)
    new, keep, test = rows_of(world)
    settle_end(model, tokenizer, [*keep, *(row for part in (*new, *test) for row in part)])
    return tokenizer, min(world.longest, context_length(model) or world.longest)


@lru_cache(maxsize=2)
def rows_of(world: LanguageWorld) -> tuple[list[list[Row]], list[Row], list[list[Row]]]:
    """The rows to learn, those to keep, and those that are tested."""
    test = [read_rows(path) for path in world.test]
    for path, rows in zip(world.test, test, strict=True):
        if len(rows) < 2:
            raise UserError(f"{path}: give at least 2 rows, one to choose by and one to test on")
    return [read_rows(path) for path in world.new], read_rows(world.keep), test


@lru_cache(maxsize=2)
def texts_of(paths: tuple[str, ...]) -> list[str]:
    """Files of general text; where there is none, passages of Python's reference."""
    if not paths:
        return ["\n\n".join(document.text for document in documents(0).test[:PASSAGES])]
    return [decoded(read_bytes(path), Path(path)) for path in paths]


def digest_of(world: LanguageWorld) -> str:
    """Tells the rows and texts, and the model's files, from any others."""
    new, keep, test = rows_of(world)
    rows = [key(str(row)) for part in (*new, keep, *test) for row in part]
    return content_digest([*rows, *map(key, texts_of(world.text))], *_model_files(world))


def _model_files(world: LanguageWorld) -> list[str]:
    """The model's files, its base model's included, with sizes and times: by these a model at one place is told."""
    files = [path for folder in sources(world.model) for path in sorted(folder.iterdir()) if path.is_file()]
    return [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]


def row_key(row: Row) -> str:
    """Tells a row from any other."""
    return key(str((row["question"], row["answer"])))
