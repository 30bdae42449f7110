"""`palimpsest retain`: teach a model something new, by several methods that keep what it could do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from palimpsest.family import Family, Kind, Trained
from palimpsest.retain.methods import METHODS
from palimpsest.train.ranges import AtLeast

LANGUAGE = (
    *("fine_tune", "joint", "er", "power_law_rehearsal", "a_gem", "gem", "kl_replay", "lwf"),
    *("ewc", "online_ewc", "l2_init", "interpolation", "bcwi", "freeze"),
)
"""the methods that can teach a language model, too"""


@dataclass(kw_only=True)
class InSteps(Trained):
    """Flags of a comparison over seeds in which each task has so many updates."""

    seeds: int = 3
    steps: Annotated[int, AtLeast(1)] = 100
    """Optimizer steps of each task."""
    batch_size: Annotated[int, AtLeast(1)] = 16
    """New rows in a batch; what a method replays comes on top."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""


@dataclass(kw_only=True)
class Flags:
    """Teach a model something new without losing what it could do: methods side by side, with plain fine-tuning.

    A language model learns --new rows and keeps what --keep asks; a classifier learns the tasks of --table or --images.
    """

    model: tyro.conf.Positional[Path | None] = None
    """Folder of a Hugging Face causal language model, or of a peft adapter, which learns --new."""
    new: Annotated[list[Path], tyro.conf.UseAppendAction] = field(default_factory=list)
    """JSON lines to learn: question and answer, prompt and completion, or text; several times for one after another."""
    keep: Path | None = None
    """JSON lines that the model can answer and should go on answering; without, it writes such rows itself."""
    test: Annotated[list[Path], tyro.conf.UseAppendAction] = field(default_factory=list)
    """JSON lines that tell what was learned, one file for each --new; the taught rows unless told otherwise."""
    text: Annotated[list[Path], tyro.conf.UseAppendAction] = field(default_factory=list)
    """General text, plain files whose perplexity is shown; passages of Python's reference unless told otherwise."""
    lora: Annotated[int | None, AtLeast(1)] = None
    """Train and save LoRA adapters of this rank on all linear maps, not the weights."""
    system: str | None = None
    """System message of every conversation, for a model with a chat template."""
    max_length: Annotated[int | None, AtLeast(1)] = None
    """Longest question with its answer, in tokens; 512 unless told otherwise."""
    max_rows: Annotated[int | None, AtLeast(2)] = None
    """Look at so many rows of the old and of each new task, at most; 64 unless told otherwise."""
    table: Path | None = None
    """CSV, Parquet or JSON lines; with --target and --tasks."""
    target: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """The column of --table that is predicted: texts, or whole numbers of at most 20 values."""
    tasks: str | None = None
    """The column of --table whose values are tasks, in the order in which they first occur."""
    group: str | None = None
    """A column of --table whose rows of one value stay in one part, such as a patient."""
    images: Path | None = None
    """Folder with a folder of images for each class, or for each domain and in it for each class."""
    each: Annotated[int | None, AtLeast(1)] = None
    """Classes of a task of --images, in the order of their names; 2 unless told otherwise."""
    size: Annotated[int | None, AtLeast(8)] = None
    """Pixels that the sides of --images are brought to; about their own, and at most 64, unless told otherwise."""
    told: bool = False
    """The task of a row of --table or --images is known: only its classes may be answered."""


family = Family(
    name="retain",
    flags=Flags,
    shared=InSteps,
    job="retaining:Retaining",
    compares="learning without forgetting",
    kinds={
        "new": Kind(
            "language_yours:on_rows",
            lr=1e-5,
            needs={"model": "the language model that learns"},
            takes=("keep", "test", "text", "lora", "system", "max_length", "max_rows"),
        ),
        "table": Kind(
            "streams_yours:on_table",
            lr=3e-3,
            needs={"target": "the column that is predicted", "tasks": "the column whose values are tasks"},
            takes=("group", "told"),
        ),
        "images": Kind("streams_yours:on_images", lr=3e-3, takes=("size", "each", "told")),
    },
    methods=METHODS,
)
