"""`palimpsest classify`: losses side by side on a user's own labelled rows or images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from palimpsest.family import Family, Kind, Trained
from palimpsest.lazy import Table
from palimpsest.train.ranges import AtLeast


@dataclass(kw_only=True)
class Flags:
    """Train a classifier on your own table, or on images in class folders, by several losses.

    All are trained on the same rows and seeds, and measured on test rows that choose nothing; the best is saved.
    """

    table: Path | None = None
    """CSV, Parquet or JSON lines; with --target."""
    target: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """The column of --table that is predicted: texts, or whole numbers of at most 20 values."""
    group: str | None = None
    """A column of --table whose rows of one value stay in one part, such as a patient."""
    time: str | None = None
    """A column of --table that tells when: the latest rows are tested on."""
    images: Path | None = None
    """Folder with a folder of images for each class."""
    size: Annotated[int | None, AtLeast(8)] = None
    """Pixels that the sides of --images are brought to; about their own, and at most 64, unless told otherwise."""
    balanced: bool = False
    """Every class counts alike in what chooses the best, however many rows it has."""


family = Family(
    name="classify",
    flags=Flags,
    shared=Trained,
    compares="losses",
    kinds={
        "table": Kind(
            "classify_yours:on_table",
            lr=3e-3,
            needs={"target": "the column that is predicted"},
            takes=("group", "time", "balanced"),
        ),
        "images": Kind("classify_yours:on_images", lr=3e-3, takes=("size", "balanced")),
    },
    methods=Table(
        "palimpsest.classify",
        {
            "cross_entropy": ("label_losses", "CrossEntropy", {}),
            "label_smoothing": ("label_losses", "LabelSmoothing", {}),
            "class_weights": ("label_losses", "ClassWeights", {}),
            "logit_adjustment": ("label_losses", "LogitAdjustment", {}),
            "generalized_ce": ("label_losses", "GeneralizedCE", {}),
            "squentropy": ("label_losses", "Squentropy", {}),
            "encouraging_loss": ("label_losses", "EncouragingLoss", {}),
            "z_loss": ("label_losses", "ZLoss", {}),
        },
    ),
)

label_sets = Table(
    "palimpsest.classify",
    {
        "bce": ("label_set_losses", "BinaryCE", {}),
        "weighted_bce": ("label_set_losses", "WeightedBCE", {}),
        "weak_negatives": ("label_set_losses", "WeakNegatives", {}),
        "focal": ("label_set_losses", "BinaryFocal", {}),
        "dice": ("label_set_losses", "Dice", {}),
        "asl": ("label_set_losses", "Asymmetric", {}),
        "em_apl": ("label_set_losses", "EntropyMaximization", {}),
    },
)
"""Losses of rows with several labels each, by name."""
