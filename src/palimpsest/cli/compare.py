"""`palimpsest compare BEFORE AFTER [--rows rows.jsonl] [--fail-if "accuracy drops by 0.01"] ...`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from palimpsest.family import Writing


@dataclass
class Arguments(Writing):
    """What changed from one model to another on the same items, how surely, and which items got worse.

    Both are causal language models (with --rows, --text or both), classifiers that palimpsest classify has saved (with
    --table or --images), sentence encoders (with --pairs), or files of predictions: JSON lines, CSV or Parquet, or
    samples_TASK_DATE.jsonl of lm-evaluation-harness.

    Exit code 1 where a --fail-if is met.
    """

    before: tyro.conf.Positional[Path]
    """The model, or file of predictions, to compare with."""
    after: tyro.conf.Positional[Path]
    """The other one."""
    rows: Path | None = None
    """JSON lines to ask language models: question and answer, prompt and completion, or text."""
    text: Path | None = None
    """General text, a plain file: the loss of language models on it, and how far the second drifted from the first."""
    table: Path | None = None
    """CSV, Parquet or JSON lines with the columns that classifiers were trained on, and the classes."""
    images: Path | None = None
    """Folder with a folder of images for each class."""
    pairs: Path | None = None
    """JSON lines of query and document, for encoders."""
    target: str | None = None
    """The column, or field of predictions, that holds what is right."""
    id: str | None = None
    """The field that names an item; without one, items are matched by their place."""
    measure: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Keep this measure; several times for several. The first is the main one."""
    lower: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A measure of which less is better, where its name does not say so."""
    margin: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Differences that do not matter: 0.01 of every measure, or accuracy=0.01. Asks whether the two are equal."""
    fail_if: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """End with exit code 1 if so: "accuracy drops by 0.01", "surely drift above 0.1", "loss rises by 5%"."""
    show: int = 5
    """Items that got worse to print."""
    batch_size: int = 16
    """Answers scored at once."""
    seed: int = 0
    """Of the bootstrap."""
    report: Path | None = None
    """Write an HTML report there."""
    json: bool = False
    """Print JSON."""


def main(args: Arguments) -> int:
    from palimpsest.cli import comparing_models  # late: torch takes seconds, help must not

    return comparing_models.main(args)
