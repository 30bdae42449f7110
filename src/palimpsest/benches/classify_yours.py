"""Losses side by side on a user's labelled rows or images: what `palimpsest classify` compares on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.estimators import Fitted, boosting, frequencies
from palimpsest.benches.labelled import (
    LabelledWorld,
    balanced_scores,
    class_scores,
    valid_accuracy,
    valid_balanced_accuracy,
)
from palimpsest.benches.labelled_yours import ImagesWorld, TableWorld, class_images, class_table
from palimpsest.benches.yours import Yours
from palimpsest.classify.label_losses import LabelLoss
from palimpsest.classify.saved import save_classifier
from palimpsest.tasks.image_folders import ImageFolder
from palimpsest.tasks.table_files import TableFile
from palimpsest.train.classification import Supervised

SHOWN = 10  # classes that are counted one by one
READ = {
    "accuracy": Measure(),
    "balanced accuracy": Measure(),
    "log loss": Measure("lower", None),
    "calibration error": Measure("lower"),
}


def measures(world: LabelledWorld, model: nn.Module) -> dict[str, float]:
    """On the test rows."""
    return {**class_scores(world, model), **balanced_scores(world, model)}


def on_table(*, balanced: bool = False, **files: Any) -> Yours:
    """The comparison on a table; what gradient boosting of trees makes of it, as it comes, is shown beside."""
    beside = {"gradient boosting": Recipe(Fitted(partial(boosting, rate=0.1, rounds=50)))}
    return _with_counts(class_table(_bench(balanced, beside), **files))


def on_images(*, balanced: bool = False, **files: Any) -> Yours:
    """The comparison on folders of images."""
    return _with_counts(class_images(_bench(balanced, {}), **files))


def recipe(loss: LabelLoss, training: Mapping[str, Any]) -> Recipe:
    """How an arm is made of a loss."""
    return Recipe(Supervised(loss, given=loss.given), settings={**training, "weight_decay": 1e-2})


def save_best(world: TableWorld | ImagesWorld, seed: int, model: nn.Module, folder: Path) -> None:
    """The network with what it must know of the rows, as `palimpsest predict` reads it."""
    save_classifier(model, _source(world), seed, folder)


def _source(world: TableWorld | ImagesWorld) -> TableFile | ImageFolder:
    return world.table if isinstance(world, TableWorld) else world.images


def _with_counts(yours: Yours) -> Yours:
    """With a note on how many rows each class has; the least and the most frequent where there are many classes."""
    source = _source(yours.bench.world)
    counts = sorted(zip(np.bincount(source.y).tolist(), source.classes, strict=True), reverse=True)
    if len(counts) > SHOWN:
        counts = [counts[0], counts[-1]]
    said = ", ".join(f"{name} {count:,}" for count, name in counts)
    return replace(yours, notes=(f"{yours.about}: {said}", *yours.notes))


def _bench(balanced: bool, beside: Mapping[str, Recipe]) -> Bench:
    """The comparison before it has a world; `balanced` chooses by the classes' mean."""
    first = "balanced accuracy" if balanced else "accuracy"
    return Bench(
        name=f"losses by {first}",
        about="",
        world=TableWorld("", ()),
        measures=measures,
        read={first: READ[first], **READ},
        validate=valid_balanced_accuracy if balanced else valid_accuracy,
        start="network",
        floor=("frequencies", Recipe(Fitted(frequencies))),
        ceiling=None,
        baselines=beside,
    )
