"""A family and its verb: what the commands `palimpsest forget`, `palimpsest contrast` and their like are made of.

`palimpsest/<family>/family.py` holds one `Family`, and loads no torch: help is instant. The command line makes a
command of it (`palimpsest.cli.family_command`). Where methods are trained on several seeds of a user's files and
measured side by side, the family says which files (`Kind`), and `palimpsest.benches` does the rest; a family that
works otherwise names a job of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from palimpsest.errors import UserError
from palimpsest.train.ranges import Above, AtLeast, AtMost

FAMILIES = ("forget", "contrast", "classify", "retain")


@dataclass(frozen=True)
class Kind:
    """One kind of a user's files that methods are compared on.

    Attributes:
        on: "module:function" of `palimpsest.benches`, (the files, by name) -> `palimpsest.benches.yours.Yours`. The
            module has `recipe(method, training)`, the recipe of an arm, and `save_best(world, seed, model, folder)`,
            where `world` is the bench's, too.
        lr: the learning rate, unless the user says otherwise.
        needs: flag -> what it is, of those that it cannot do without.
        takes: its other flags; `no_flip` is handed on as `flip`, the other way round.
    """

    on: str = ""
    lr: float = 0.0
    needs: Mapping[str, str] = field(default_factory=dict)
    takes: tuple[str, ...] = ()

    @property
    def module(self) -> Any:
        return import_module(f"palimpsest.benches.{self.on.partition(':')[0]}")

    def read(self, **files: Any) -> Any:
        """The comparison on these files."""
        return getattr(self.module, self.on.partition(":")[2])(**files)


@dataclass(frozen=True)
class Family:
    """What a family's command and verb are made of.

    Attributes:
        name: of the family and of its command.
        flags: a dataclass whose documented fields are flags of its own, its docstring the help's beginning.
        methods: name -> method with its default fields, made when it is first asked for.
        shared: a dataclass of flags that it has like other families, besides those of `Compared`.
        kinds: the files that methods are compared on; the same as those flags of theirs.
        job: "module:class" of `palimpsest.cli`, which does the work.
        compares: what stands in the title of a report.
    """

    name: str
    flags: type
    methods: Mapping[str, Any]
    shared: type
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    job: str = "comparing:Comparing"
    compares: str = ""


def family(name: str) -> Family:
    """The family of a name.

    >>> family("contrast").kinds.keys()
    dict_keys(['pairs', 'images'])

    Raises:
        UserError: for an unknown one.
    """
    if name not in FAMILIES:
        raise UserError(f"no family {name!r}: there are {', '.join(FAMILIES)}")
    return import_module(f"palimpsest.{name}.family").family


def files_of(kinds: Mapping[str, Kind], given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Which kind of files is given, and what its bench is told of them.

    Args:
        given: flag -> its value; one that is not given is None, empty or False.

    Raises:
        UserError: no files, files of two kinds, a flag of another kind, or one that is missing.

    >>> files_of({"table": Kind("labelled_yours:class_table", takes=("time",))}, {"table": "mine.csv", "time": None})
    ('table', {'table': 'mine.csv', 'time': None})
    """
    found = [kind for kind in kinds if given[kind]]
    for option in dict.fromkeys(option for kind in kinds.values() for option in (*kind.needs, *kind.takes)):
        names = [name for name, kind in kinds.items() if option in (*kind.needs, *kind.takes)]
        if given[option] and not set(names) & set(found):
            flag, other = f"--{option.replace('_', '-')}", " or ".join(f"--{name}" for name in names)
            raise UserError(f"{flag} is about {other}: give that, and no other data")
    if len(found) != 1:
        told = "one kind of data at a time: give" if found else "on what data? Give"
        raise UserError(f"{told} {' or '.join(f'--{kind}' for kind in found or kinds)}")
    kind = kinds[found[0]]
    for option, what in kind.needs.items():
        if not given[option]:
            raise UserError(f"--{found[0]} needs --{option}: {what}")
    files = {found[0]: given[found[0]]}
    for option in (*kind.needs, *kind.takes):
        files |= {option[3:]: not given[option]} if option.startswith("no_") else {option: given[option]}
    return found[0], files


@dataclass(kw_only=True)
class Compared:
    """Flags of every command that compares methods."""

    method: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A method by name; several times to compare. They are listed below the flags; each has flags of its own."""
    force: bool = False
    """Replace the model in the output folder, if there is one."""
    report: Path | None = None
    """Where to write the report; by default beside the output folder, as OUT.html."""
    json: bool = False
    """Print JSON."""


@dataclass(kw_only=True)
class Trained:
    """Flags of a comparison over seeds."""

    seeds: Annotated[int, AtLeast(1), AtMost(100)] = 5
    """Trainings of each method, over which the intervals are."""
    steps: Annotated[int, AtLeast(1)] = 200
    """Optimizer steps."""
    lr: Annotated[float | None, Above(0)] = None
    """Learning rate; one that suits the kind of data, unless told otherwise."""
    tune: Annotated[int | None, AtLeast(2), AtMost(25)] = None
    """Try so many learning rates around --lr for each method, half a decade apart; validation rows choose."""
    batch_size: Annotated[int, AtLeast(2)] = 64
    """Rows in a batch."""
    out: Path | None = None
    """Folder to save the best model to."""
    workers: int | None = None
    """Processes at the same time; one for every processor unless told otherwise."""


@dataclass(kw_only=True)
class Writing:
    """Flags that settle how questions, answers and their ends are written."""

    system: str | None = None
    """System message of every conversation, for a model with a chat template."""
    template_kwargs: str | None = None
    """Arguments of the chat template, a JSON object: '{"enable_thinking": false}'."""
    end_token: Literal["auto", "yes", "no"] = "auto"
    """Whether the end token is part of an answer that no chat template ends: auto, where the model itself ends."""
