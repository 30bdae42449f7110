"""The user's table or images as tasks that arrive one after another: what `palimpsest retain` compares classifiers on,
and what claims about classes that arrive are put to.

A table's tasks are the values of a column, or the classes in groups; those of images are their domains, or the classes
in groups. Where tasks are not told, any class that has arrived may be answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.stream_worlds import (
    ACCURACY,
    FORGOTTEN,
    LEARNED,
    StreamWorld,
    retained,
    valid_retained,
)
from palimpsest.benches.yours import Yours, unchanged
from palimpsest.classify.saved import save_classifier
from palimpsest.errors import UserError
from palimpsest.models.vision import cnn, mlp
from palimpsest.retain.continual import Continual
from palimpsest.retain.sequence import InSequence, Learner
from palimpsest.tasks.image_folders import ImageFolder, read_images
from palimpsest.tasks.streams import Stream, Task, domain_tasks, split_classes
from palimpsest.tasks.table_files import TableFile, read_table

MATRIX = "each task after each"
SMOKE, HIDDEN = 40, (64, 64)  # rows of a task in a smoke run; units of the network on a table
EACH = 2  # classes of a task of images, unless told otherwise


@dataclass(frozen=True)
class TableStream:
    """(seed, smoke) -> a table's rows as tasks, and a network for them.

    Attributes:
        path, target, tasks, group: of the file, and columns of it; without tasks, the classes come in groups.
        each: classes of a task, where no column has the tasks.
        told: whether a row's task is known when it is asked about.
        digest: of the content that was read at first: another content is another world.
    """

    path: str
    target: tuple[str, ...]
    tasks: str | None
    group: str | None = None
    told: bool = False
    digest: str = ""
    each: int = EACH

    @property
    def read(self) -> TableFile:
        return unchanged(_table(self.path, self.target, self.tasks, self.group), self.digest, self.path)

    def __call__(self, seed: int, smoke: bool = False, *, told: bool | None = None) -> StreamWorld:
        rows = self.read
        tasks = domain_tasks(rows.by_task(seed)) if self.tasks else _in_groups(rows, seed, self.each)
        features = tasks[0].train.x.shape[1]
        told = self.told if told is None else told
        return _world(tasks, told, seed, smoke, partial(mlp, features, len(rows.classes), HIDDEN))


@dataclass(frozen=True)
class ImagesStream:
    """(seed, smoke) -> images as tasks, and a network for them.

    Attributes:
        path, size: what `read_images` takes.
        each: classes of a task, where the folder has no domains.
        told, digest: as for `TableStream`.
    """

    path: str
    size: int | None = None
    each: int = EACH
    told: bool = False
    digest: str = ""

    @property
    def read(self) -> ImageFolder:
        return unchanged(_images(self.path, self.size), self.digest, self.path)

    def __call__(self, seed: int, smoke: bool = False, *, told: bool | None = None) -> StreamWorld:
        images = self.read
        tasks = domain_tasks(images.by_domain(seed)) if images.domains else _in_groups(images, seed, self.each)
        network = partial(cnn, images.channels, len(images.classes), image_size=images.size)
        return _world(tasks, self.told if told is None else told, seed, smoke, network)


def on_table(*, table: Path, target: Sequence[str], tasks: str, group: str | None = None, told: bool = False) -> Yours:
    """The comparison on a table, a task for every value of a column."""
    world = TableStream(str(Path(table).absolute()), tuple(target), tasks, group, told)
    return _yours(world, Path(table), f"{len(world.read)} rows", EACH)


def on_images(*, images: Path, size: int | None = None, each: int | None = None, told: bool = False) -> Yours:
    """The comparison on folders of images, a task for every domain, or for each few classes."""
    world = ImagesStream(str(Path(images).absolute()), size, each or EACH, told)
    if world.read.domains and each:
        raise UserError(f"{images}: its domains are the tasks, and --each is about classes in groups: leave it out")
    return _yours(world, Path(images), f"{len(world.read)} images", each or EACH)


def classes_of_table(
    bench: Bench, *, table: Path, target: Sequence[str], group: str | None = None, each: int | None = None
) -> Yours:
    """A bench of ours on a table whose classes arrive in groups, in the order of their names."""
    world = TableStream(str(Path(table).absolute()), tuple(target), None, group, each=each or EACH)
    return _put(bench, world, Path(table), "rows")


def classes_of_images(bench: Bench, *, images: Path, size: int | None = None, each: int | None = None) -> Yours:
    """A bench of ours on folders of images whose classes arrive in groups, in the order of their names."""
    world = ImagesStream(str(Path(images).absolute()), size, each or EACH)
    if world.read.domains:
        raise UserError(f"{images}: its domains share classes, and the claim is about classes that arrive in groups")
    return _put(bench, world, Path(images), "images")


def measures(world: StreamWorld, model: nn.Module) -> dict[str, Any]:
    """On the test rows: what is known of all tasks in the end, what was forgotten, what each reached; and the accuracy
    on the tasks so far after each, and on every task after each."""
    found = retained(world, model)
    numbers = {name: found[name] for name in (ACCURACY, FORGOTTEN, LEARNED)} | {"kB kept": found["bytes kept"] / 1000}
    if not isinstance(model, Learner):
        return numbers
    matrix = model.log.accuracy["test"]
    so_far = [(task + 1, row[: task + 1].mean().item()) for task, row in enumerate(matrix)]
    return {**numbers, "accuracy on the tasks so far": so_far, **matrix_points(matrix)}


def matrix_points(matrix: Tensor) -> dict[str, list[tuple[float, float]]]:
    """A matrix as a curve, which is what a measure may be: its values numbered row by row.

    >>> matrix_points(torch.eye(2))
    {'each task after each': [(0, 1.0), (1, 0.0), (2, 0.0), (3, 1.0)]}
    """
    return {MATRIX: list(enumerate(matrix.flatten().tolist()))}


def recipe(method: Any, training: Mapping[str, Any]) -> Recipe:
    """How an arm is made of a method."""
    return Recipe(InSequence(method), settings=training)


def save_best(world: TableStream | ImagesStream, seed: int, model: Learner, folder: Path) -> None:
    """The network with what it must know of the rows, as `palimpsest predict` reads it."""
    save_classifier(model.model, world.read, seed, folder)


def check_saved(name: str, method: Any) -> None:
    """Raises a UserError for a method whose answers need more than the network."""
    if type(method).answer is not Continual.answer:
        raise UserError(f"{name} answers by what it remembers beside the network: compare it without --out")


def _yours(world: TableStream | ImagesStream, path: Path, rows: str, each: int) -> Yours:
    read = world.read
    stream = _stream(world, path)
    new = sum(len(task.classes) for task in stream.tasks) == stream.classes
    asks = "among the classes of its task" if world.told else "among all classes so far"
    kind = "tasks bring new classes" if new else "tasks share classes"
    about = f"{path.name}, {rows}, {len(read.classes)} classes, {len(stream)} tasks"
    bench = Bench(
        name="a stream of your data",
        about=about,
        world=replace(world, digest=read.digest),
        measures=measures,
        read={
            ACCURACY: Measure(),
            FORGOTTEN: Measure("lower", (-1.0, 1.0)),
            LEARNED: Measure(),
            "kB kept": Measure("lower", None),
        },
        validate=valid_retained,
        start="network",
        floor=("untrained", Recipe()),
        ceiling=None,
        baselines={},
    )
    notes = (f"{kind}, and a row is asked about {asks}: {_order(stream)}", *read.notes)
    return Yours(bench, frozenset({"network"}), about, notes)


def _put(bench: Bench, world: TableStream | ImagesStream, path: Path, rows: str) -> Yours:
    """Our bench with its arms and measures on the user's rows: these can have the floor and the ceiling, too."""
    read, stream = world.read, _stream(world, path)
    about = f"{path.name}, {len(read)} {rows}, {len(read.classes)} classes in {len(stream)} tasks"
    on = replace(bench, name=f"{bench.name} on your data", about=about, world=replace(world, digest=read.digest))
    notes = (
        f"tasks bring new classes: {_order(stream)}",
        "what methods keep of rows, logits or classes is counted as in our world, whatever yours weigh",
    )
    return Yours(on, frozenset({"network"}), about, (*notes, *read.notes), takes=frozenset({"told"}))


def _stream(world: TableStream | ImagesStream, path: Path) -> Stream:
    """The tasks; what is wrong with them is said before anything is trained."""
    stream = world(0).data
    if len(stream) < 2:
        raise UserError(f"{path}: all is one task, {stream.tasks[0].name!r}: a stream needs two")
    return stream


def _order(stream: Stream) -> str:
    return ", then ".join(task.name for task in stream.tasks[:6]) + ", ..." * (len(stream) > 6)


def _in_groups(rows: TableFile | ImageFolder, seed: int, each: int) -> list[Task]:
    """The classes of a file or a folder, so many at a time; the last task may have fewer."""
    sizes = [min(each, len(rows.classes) - begun) for begun in range(0, len(rows.classes), each)]
    tasks = split_classes(rows.splits(seed), sizes)
    return [replace(task, name=", ".join(rows.classes[one] for one in task.classes)) for task in tasks]


def _world(tasks: Sequence[Task], told: bool, seed: int, smoke: bool, network: Any) -> StreamWorld:
    if smoke:
        tasks = [replace(task, train=task.train[:SMOKE]) for task in tasks]
    return StreamWorld(seed, smoke, Stream(tuple(tasks), told), {"network": network})


@lru_cache(maxsize=2)
def _table(path: str, target: tuple[str, ...], tasks: str | None, group: str | None) -> TableFile:
    return read_table(path, target, task=tasks, group=group, kind="classes")


@lru_cache(maxsize=2)
def _images(path: str, size: int | None) -> ImageFolder:
    return read_images(path, size=size)
