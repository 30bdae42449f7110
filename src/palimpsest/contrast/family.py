"""`palimpsest contrast`: contrastive losses side by side, on a user's encoder with pairs of texts, or on images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from palimpsest.family import Family, Kind, Trained
from palimpsest.lazy import Table
from palimpsest.train.ranges import AtLeast


@dataclass(kw_only=True)
class Flags:
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


family = Family(
    name="contrast",
    flags=Flags,
    shared=Trained,
    compares="contrastive losses",
    kinds={
        "pairs": Kind("pairs_yours:on_pairs", lr=2e-5, needs={"model": "the encoder that they train"}),
        "images": Kind("images_yours:on_images", lr=3e-3, takes=("size", "no_flip")),
    },
    methods=Table(
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
    ),
)
