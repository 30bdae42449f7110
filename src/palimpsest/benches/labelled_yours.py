"""The user's labelled rows as a world of the benches on labelled rows: a table, or folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from palimpsest.benches.bench import Bench
from palimpsest.benches.labelled import LabelledWorld, world_of
from palimpsest.benches.yours import Yours, unchanged
from palimpsest.errors import UserError
from palimpsest.models.vision import cnn, mlp
from palimpsest.tasks.image_folders import ImageFolder, read_images
from palimpsest.tasks.table_files import TableFile, read_table

SMOKE = 60  # rows of a smoke run


@dataclass(frozen=True)
class TableWorld:
    """(seed, smoke) -> a table's rows, and a network for them.

    Attributes:
        path, targets, group, time: what `read_table` takes.
        digest: of the content that was read at first: another content is another world.
    """

    path: str
    targets: tuple[str, ...]
    group: str | None = None
    time: str | None = None
    digest: str = ""

    @property
    def table(self) -> TableFile:
        """What the file holds.

        Raises:
            UserError: the file has changed since.
        """
        return unchanged(_table(self.path, self.targets, self.group, self.time), self.digest, self.path)

    def __call__(self, seed: int, smoke: bool) -> LabelledWorld:
        task, outputs = self.table.splits(seed), max(1, len(self.table.classes))
        if smoke:
            task = task.mapped(lambda part: part[:SMOKE])
        networks = {"network": partial(mlp, task.train.x.shape[1], outputs, (64, 64))}
        return world_of(task, networks, seed, smoke, classes=len(self.table.classes))


@dataclass(frozen=True)
class ImagesWorld:
    """(seed, smoke) -> images of class folders, and a network for them.

    Attributes:
        path, size: what `read_images` takes.
        digest: of the content that was read at first.
    """

    path: str
    size: int | None = None
    digest: str = ""

    @property
    def images(self) -> ImageFolder:
        """What the folder holds.

        Raises:
            UserError: the folder has changed since.
        """
        return unchanged(_images(self.path, self.size), self.digest, self.path)

    def __call__(self, seed: int, smoke: bool) -> LabelledWorld:
        task = self.images.splits(seed)
        if smoke:
            task = task.mapped(lambda part: part[:SMOKE])
        channels, side = task.train.x.shape[1], task.train.x.shape[-1]
        classes = len(self.images.classes)
        networks = {"network": partial(cnn, channels, classes, image_size=side, norm="batch")}
        return world_of(task, networks, seed, smoke, classes=classes)


def class_table(
    bench: Bench, *, table: Path, target: Sequence[str], group: str | None = None, time: str | None = None
) -> Yours:
    """A bench on a user's table whose target is a class."""
    return _on_table(bench, "classes", table, target, group, time)


def number_table(
    bench: Bench, *, table: Path, target: Sequence[str], group: str | None = None, time: str | None = None
) -> Yours:
    """A bench on a user's table whose target is a number."""
    return _on_table(bench, "number", table, target, group, time)


def class_images(bench: Bench, *, images: Path, size: int | None = None) -> Yours:
    """A bench on a user's folders of images, one a class."""
    world = ImagesWorld(str(Path(images).absolute()), size)
    read = world.images
    about = f"{Path(images).name}, {len(read)} images of {read.size} x {read.size} pixels, {len(read.classes)} classes"
    return _yours(bench, replace(world, digest=read.digest), about, read.notes)


def _on_table(
    bench: Bench, kind: str, table: Path, target: Sequence[str], group: str | None, time: str | None
) -> Yours:
    world = TableWorld(str(Path(table).absolute()), tuple(target), group, time)
    read = world.table
    if read.kind != kind:
        one = {"classes": "one class", "number": "a number", "labels": "several labels"}
        raise UserError(f"{table}: {', '.join(target)}: {one[read.kind]} of each row; what is predicted is {one[kind]}")
    about = f"{Path(table).name}, {len(read)} rows, {_predicted(read.targets, read.classes)}"
    return _yours(bench, replace(world, digest=read.digest), about, read.notes)


def _yours(bench: Bench, world: Any, about: str, notes: Sequence[str]) -> Yours:
    on = replace(bench, name=f"{bench.name} on your data", about=about, world=world, start="network")
    return Yours(on, frozenset({"network"}), about, tuple(notes))


def _predicted(targets: Sequence[str], classes: Sequence[str]) -> str:
    what = ", ".join(targets)
    return f"{what} ({len(classes)} classes)" if len(targets) == 1 and classes else what


@lru_cache(maxsize=2)
def _table(path: str, targets: tuple[str, ...], group: str | None, time: str | None) -> TableFile:
    return read_table(path, targets, group=group, time=time)


@lru_cache(maxsize=2)
def _images(path: str, size: int | None) -> ImageFolder:
    return read_images(path, size=size)
