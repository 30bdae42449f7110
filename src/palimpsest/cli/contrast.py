"""`palimpsest contrast --pairs pairs.jsonl --model ENCODER --method info_nce --method siglip --out DIR`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry

from palimpsest.cli.flag_ranges import with_ranges
from palimpsest.cli.method_flags import listed, with_methods
from palimpsest.lazy import Table
from palimpsest.train.ranges import Above, AtLeast, AtMost

# Here and not in the family, whose package loads torch.
METHODS = Table(
    "palimpsest.contrast",
    {
        "info_nce": ("pair_losses", "InfoNCE", {}),
        "siglip": ("pair_losses", "SigLIP", {}),
        "decoupled_cl": ("pair_losses", "Decoupled", {}),
        "debiased_cl": ("pair_losses", "Debiased", {}),
        "hard_debiased": ("pair_losses", "HardDebiased", {}),
        "llave": ("pair_losses", "Hardness", {}),
        "macl": ("pair_losses", "ModelAware", {}),
        "nonneg_cl": ("pair_losses", "NonNegative", {}),
    },
)


@dataclass
class Common:
    """Train your own encoder on pairs of texts, or a small network on images, by several contrastive losses.

    All are trained on the same rows and seeds, and measured on test rows that choose nothing; the best is saved.
    """

    pairs: Path | None = None
    """JSON lines of a query and its document (or question and answer, anchor and positive); with --model."""
    model: Path | None = None
    """Folder of a sentence-transformers encoder, which --pairs train."""
    images: Path | None = None
    """Folder with a folder of images for each class; the classes are only used to measure."""
    size: Annotated[int | None, AtLeast(8)] = None
    """Pixels that the sides of --images are brought to; about their own, and at most 64, unless told otherwise."""
    no_flip: bool = False
    """Left and right of --images stay where they are, as letters need."""
    method: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A loss by name; several times to compare. They are listed below the flags; each has flags of its own."""
    seeds: Annotated[int, AtLeast(1), AtMost(100)] = 5
    """Trainings of each method, over which the intervals are."""
    steps: Annotated[int, AtLeast(1)] = 200
    """Optimizer steps."""
    lr: Annotated[float | None, Above(0)] = None
    """Learning rate: 2e-5 for an encoder, 3e-3 for the network of images, unless told otherwise."""
    tune: Annotated[int | None, AtLeast(2), AtMost(25)] = None
    """Try so many learning rates around --lr for each method, half a decade apart; validation rows choose."""
    batch_size: Annotated[int, AtLeast(2)] = 64
    """Pairs, or images of which two views are taken, in a batch."""
    out: Path | None = None
    """Folder to save the best to: as sentence-transformers, or for images transformers, loads it."""
    force: bool = False
    """Replace the model in the output folder, if there is one."""
    report: Path | None = None
    """Where to write the report; by default beside the output folder, as OUT.html."""
    workers: int | None = None
    """Processes at the same time; one for every processor unless told otherwise."""
    json: bool = False
    """Print JSON."""


REGISTRY = ConstructorRegistry()
REGISTRY.struct_rule(with_ranges)


def arguments(argv: Sequence[str]) -> type:
    """The flags: those of all methods, and of the ones that are named in `argv` their own."""
    return with_methods(Common, METHODS, argv)


def after_help(argv: Sequence[str]) -> str:
    return listed("contrast", METHODS, argv)


def main(args: Any) -> None:
    from palimpsest.cli import contrasting  # late: torch takes seconds, help must not

    contrasting.main(args)
