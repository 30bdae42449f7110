"""The worlds of digits that are learned in one domain and read in another (`palimpsest.tasks.real_domains`).

Twenty seeds in a row are tested on disjoint images of the target. Validation rows are of the domains whose labels are
known: no label of the target is used before the end.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal

import torch

from palimpsest.benches.labelled import LabelledWorld
from palimpsest.models.vision import cnn
from palimpsest.tasks.labelled import Labelled
from palimpsest.tasks.real_domains import CLASSES, DOMAINS, SIDE, real_domains
from palimpsest.tasks.splits import concatenated

NETWORKS = {"network": partial(cnn, image_size=SIDE, norm="batch")}


def carried(
    seed: int, smoke: bool, *, source: str, target: str, labels: Literal["source", "others", "target"] = "source"
) -> LabelledWorld:
    """500 images of a domain.

    Args:
        source, target: of `DOMAINS`.
        labels: those of the source, of all domains but the target, or of the target.
    """
    tasks = real_domains(seed, train=60 if smoke else 500)
    known = {"source": [source], "others": [name for name in DOMAINS if name != target], "target": [target]}[labels]
    train, validation = (
        concatenated([getattr(tasks[name], part) for name in known]) for part in ("train", "validation")
    )
    seen = tasks[target].train
    unlabelled = dataclasses.replace(seen, y=torch.full_like(seen.y, -1), clean_y=seen.y)
    data = Labelled(train, CLASSES, unlabelled)
    return LabelledWorld(seed, smoke, data, validation, tasks[target].test, NETWORKS)
