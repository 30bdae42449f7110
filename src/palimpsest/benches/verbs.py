"""The families' commands as functions: `palimpsest.compare` and `palimpsest.score`, on files of the user's.

from palimpsest import compare, score
from palimpsest.contrast.pair_losses import InfoNCE, SigLIP

score("contrast", pairs="pairs.jsonl", model="encoder")            # the encoder as it is
found = compare("contrast", {"info_nce": InfoNCE(), "siglip": SigLIP()}, pairs="pairs.jsonl", model="encoder")
found.best.name, found.best.mean("nDCG@10"), found.best.half("nDCG@10")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from palimpsest.benches.arm import Arm, Recipe
from palimpsest.benches.comparison import Comparison
from palimpsest.benches.comparison import compare as compare_recipes
from palimpsest.benches.yours import Yours
from palimpsest.errors import UserError

LEARNING_RATE = {"pairs": 2e-5, "images": 3e-3}
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
        family: "contrast". (`palimpsest.forget.compare.compare` is that of forgetting.)
        methods: name -> method; of contrast the losses of `palimpsest.contrast.pair_losses`.
        seeds: trainings of each method.
        lr: the learning rate, or the middle of those that are tried; None for the kind's own.
        tune: how many learning rates each method tries, half a decade apart, on the validation rows.
        files: what the data is: `pairs=` and `model=`, or `images=` and perhaps `size=` and `flip=`.

    Raises:
        UserError: an unknown family, no methods, bad files; no method came to its end.
    """
    if not methods:
        raise UserError("give at least one method to compare")
    kind, yours = on(family, **files)
    recipes = recipes_of(kind, methods, steps, batch_size)
    return compare_recipes(
        yours, recipes, seeds=seeds, lr=lr or LEARNING_RATE[kind], tune=tune, workers=workers, progress=progress
    )


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


def on(family: str, **files: Any) -> tuple[str, Yours]:
    """The kind of the user's files, and the family's comparison on them.

    Raises:
        UserError: an unknown family, or no files that it knows.
    """
    if family != "contrast":
        raise UserError(f"no comparison of the family {family!r} on your files: there is contrast")
    kind = next((kind for kind in LEARNING_RATE if files.get(kind) is not None), None)
    if kind is None:
        raise UserError(f"contrast compares on {' or '.join(LEARNING_RATE)}: give one")
    return kind, getattr(import_module(f"palimpsest.benches.{kind}_yours"), f"on_{kind}")(**files)


def saver(kind: str) -> Callable[[Any, Path], None]:
    """(model, folder) -> saves it there."""
    return import_module(f"palimpsest.benches.{kind}_yours").save_best


def recipes_of(kind: str, methods: Mapping[str, Any], steps: int, batch_size: int) -> dict[str, Recipe]:
    """The losses as recipes; the network of images is given some weight decay, an encoder none."""
    from palimpsest.contrast.pair_losses import Paired

    training: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "schedule": "cosine"}
    training |= {"weight_decay": 1e-4} if kind == "images" else {}
    return {name: Recipe(Paired(loss), settings=training, world={"loss": loss}) for name, loss in methods.items()}
