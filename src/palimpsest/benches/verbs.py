"""The families' commands as functions: `palimpsest.compare` and `palimpsest.score`, on files of the user's.

from palimpsest import compare, score
from palimpsest.contrast.pair_losses import InfoNCE, SigLIP

score("contrast", pairs="pairs.jsonl", model="encoder")            # the encoder as it is
found = compare("contrast", {"info_nce": InfoNCE(), "siglip": SigLIP()}, pairs="pairs.jsonl", model="encoder")
found.best.name, found.best.mean("nDCG@10"), found.best.half("nDCG@10")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palimpsest.benches.arm import Arm, Recipe
from palimpsest.benches.comparison import Comparison
from palimpsest.benches.comparison import compare as compare_recipes
from palimpsest.benches.yours import Yours
from palimpsest.errors import UserError
from palimpsest.family import FAMILIES, Kind
from palimpsest.family import family as family_of

SEED = 200


def compare(
    family: str,
    methods: Mapping[str, Any],
    *,
    seeds: int = 5,
    steps: int = 200,
    batch_size: int = 64,
    lr: float | None = None,
    tune: int | None = None,
    workers: int | None = None,
    progress: bool = True,
    **files: Any,
) -> Comparison:
    """Train every method on the user's data, on the same seeds and rows, and measure it on test rows.

    Args:
        family: "contrast", "classify" or "retain". (`palimpsest.forget.compare.compare` is that of forgetting.)
        methods: name -> method; of contrast the losses of `palimpsest.contrast.pair_losses`, of classify those of
            `palimpsest.classify.label_losses`, of retain its `METHODS`.
        seeds: trainings of each method.
        lr: the learning rate, or the middle of those that are tried; None for the kind's own.
        tune: how many learning rates each method tries, half a decade apart, on the validation rows.
        files: what the data is: of contrast `pairs=` and `model=`, or `images=` and perhaps `size=` and `flip=`; of
            classify `table=` and `target=`, or `images=`; of retain `new=` and `model=`, with `tasks=` a `table=`, or
            `images=`.

    Raises:
        UserError: an unknown family, no methods, bad files; no method came to its end.
    """
    if not methods:
        raise UserError("give at least one method to compare")
    kind, yours = on(family, **files)
    recipes = recipes_of(kind, methods, steps, batch_size)
    return compare_recipes(yours, recipes, seeds=seeds, lr=lr or kind.lr, tune=tune, workers=workers, progress=progress)


def score(family: str, **files: Any) -> dict[str, float]:
    """What the model as it is gets on the test rows of the user's data.

    Args:
        family, files: as for `compare`; or "forget" with `model=` and `rows=`, the means of TOFU's row scores.

    Raises:
        UserError: an unknown family, or bad files.
    """
    if family == "forget":
        from palimpsest.forget.tofu_measures import tofu_score

        scores = tofu_score(files["model"], files["rows"])
        return {"probability": float(scores.probability.mean()), "ROUGE-L": float(scores.rouge.mean())}
    _, yours = on(family, **files)
    name, recipe = yours.bench.floor
    world, applied, _ = Arm(yours.bench, name, recipe).trained(SEED)
    return yours.bench.measures(world, applied.model)


def on(family: str, **files: Any) -> tuple[Kind, Yours]:
    """The kind of the user's files, and the family's comparison on them.

    Raises:
        UserError: an unknown family, one that compares otherwise, or no files that it knows.
    """
    kinds = family_of(family).kinds
    if not kinds:
        others = [name for name in FAMILIES if family_of(name).kinds]
        raise UserError(f"no comparison of the family {family!r} on your files: there is {' and '.join(others)}")
    kind = next((kind for name, kind in kinds.items() if files.get(name) is not None), None)
    if kind is None:
        raise UserError(f"{family} compares on {' or '.join(kinds)}: give one")
    return kind, kind.read(**files)


def recipes_of(kind: Kind, methods: Mapping[str, Any], steps: int, batch_size: int) -> dict[str, Recipe]:
    """The methods as recipes of the kind's bench."""
    training = {"steps": steps, "batch_size": batch_size, "schedule": "cosine"}
    return {name: kind.module.recipe(method, training) for name, method in methods.items()}
