"""Tasks that arrive one after another: what continual methods are compared on.

The floor learns each task as if it were alone; the ceiling learns from the rows of all tasks so far, with the same
number of updates. All buffers weigh the same: where logits are stored beside the rows, there are fewer of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.stream_worlds import (
    ACCURACY,
    FALL,
    FORGOTTEN,
    INCREMENTAL,
    LATE,
    LEARNED,
    StreamWorld,
    domain_stream,
    long_permuted,
    permuted_mnist,
    plastic,
    retained,
    rotated_mnist,
    split_glyphs,
    split_mnist,
    valid_plastic,
    valid_retained,
)
from palimpsest.retain.distillation import LwF
from palimpsest.retain.penalties import EWC, L2Init
from palimpsest.retain.renewal import Restart, ShrinkPerturb
from palimpsest.retain.replay import ER, DERpp, FineTune, Joint
from palimpsest.retain.sequence import InSequence

READ = {
    ACCURACY: Measure(),
    FORGOTTEN: Measure("lower", (-1.0, 1.0)),
    LEARNED: Measure(),
    INCREMENTAL: Measure(),
    "backward transfer": Measure("higher", (-1.0, 1.0)),
    "bytes kept": Measure("lower", None, exact=True),
}
LR = [3e-4, 1e-3, 3e-3]

Grid = Mapping[str, Sequence[float]]

CLASSES_ARRIVE: dict[str, Grid] = {
    "er": {"lr": [1e-4, 3e-4, 1e-3], "replayed": [32, 64]},
    "der_pp": {"lr": LR, "alpha": [0.1, 0.5]},
    "ewc": {"lr": LR, "strength": [1e2, 1e4]},
    "lwf": {"lr": LR, "strength": [1.0, 4.0]},
}
"""grids where tasks bring classes"""

FASTER = [1e-3, 3e-3, 1e-2]
LOOKS_CHANGE: dict[str, Grid] = {
    "er": {"lr": FASTER, "replayed": [32, 64]},
    "der_pp": {"lr": FASTER, "alpha": [0.5, 1.0]},
    "ewc": {"lr": FASTER, "strength": [1e1, 1e2]},
    "lwf": {"lr": FASTER, "strength": [0.5, 1.0]},
}
"""grids where all tasks have the same classes: with lower rates and more weight on the old, all methods were worse"""


def rows_of(nbytes: int, side: int, logits: int = 0) -> int:
    """How many images of so many pixels a side fit, with their label, their task's number and so many logits.

    >>> rows_of(40_000, 14), rows_of(40_000, 14, logits=10)
    (50, 47)
    """
    return nbytes // (4 * (side * side + logits) + 16)


def baselines(nbytes: int, side: int, classes: int, grids: Mapping[str, Grid]) -> dict[str, Recipe]:
    """Replay, stored logits, importances and old answers, each over the six points of its grid."""
    rows, with_logits = rows_of(nbytes, side), rows_of(nbytes, side, classes)
    methods = {"er": ER(size=rows), "der_pp": DERpp(size=with_logits), "ewc": EWC(labels="sampled"), "lwf": LwF()}
    return {name: Recipe(InSequence(method), grid=grids[name]) for name, method in methods.items()}


def stream_bench(
    name: str,
    about: str,
    world: Callable[..., StreamWorld],
    *,
    nbytes: int,
    side: int = 14,
    classes: int = 10,
    steps: int = 200,
    floor_lr: float = 1e-3,
    ceiling_lr: float = 3e-3,
    grids: Mapping[str, Grid],
) -> Bench:
    """A bench on a stream, with the floor, ceiling and baselines that all have.

    The rates of floor and ceiling are the best of 3e-4, 1e-3, 3e-3 and 1e-2 on validation rows of pilot seeds.
    """
    return Bench(
        name=name,
        about=about,
        world=world,
        measures=retained,
        read=READ,
        validate=valid_retained,
        start="network",
        floor=("fine-tuning", Recipe(InSequence(FineTune()), settings={"lr": floor_lr})),
        ceiling=("joint", Recipe(InSequence(Joint()), settings={"lr": ceiling_lr})),
        baselines=baselines(nbytes, side, classes, grids),
        training={"steps": steps, "batch_size": 32},
    )


SPLIT_MNIST = stream_bench(
    "split_mnist",
    "MNIST at 14 x 14 in five tasks of two digits, 500 images each; ten outputs, and the task is not told. Buffers of "
    "40 kB: 50 images. What holds weights or answers instead of rows is of no use here, as elsewhere where classes "
    "arrive and the task is not told.",
    split_mnist,
    nbytes=40_000,
    grids=CLASSES_ARRIVE,
)

SPLIT_GLYPHS = stream_bench(
    "split_glyphs",
    "100 letters at 14 x 14 in ten tasks of ten, 200 views each; a hundred outputs, and the task is not told. Buffers "
    "of 160 kB: 200 images.",
    split_glyphs,
    nbytes=160_000,
    classes=100,
    grids=CLASSES_ARRIVE,
    ceiling_lr=1e-2,
)

ROTATED_MNIST = stream_bench(
    "rotated_mnist",
    "MNIST at 14 x 14 in five tasks of all ten digits, 500 images each, turned by 0 to 72 degrees. Buffers of 40 kB: "
    "50 images.",
    rotated_mnist,
    nbytes=40_000,
    floor_lr=3e-4,
    grids=LOOKS_CHANGE,
)

DOMAIN_STREAM = stream_bench(
    "domain_stream",
    "Digits at 8 x 8 in three tasks, 500 images each: printed, written on a tablet, scanned from forms. Buffers of 8 "
    "kB: 29 images.",
    domain_stream,
    nbytes=8_000,
    side=8,
    ceiling_lr=1e-2,
    grids=LOOKS_CHANGE,
)

PERMUTED_MNIST = stream_bench(
    "permuted_mnist",
    "MNIST at 14 x 14 in five tasks of all ten digits, 500 images each, the pixels in another order in each. Buffers "
    "of 40 kB: 50 images.",
    permuted_mnist,
    nbytes=40_000,
    floor_lr=3e-4,
    grids=LOOKS_CHANGE,
)


def _unending(method) -> InSequence:
    return InSequence(method, online=True, keep_optimizer=True)


LONG_PERMUTED = Bench(
    name="long_permuted",
    about=(
        "A hundred tasks of 640 of scikit-learn's digits at 8 x 8, each image of a task seen once in batches of 16, "
        "the pixels in another order in each task; one optimizer for all. What counts is how well a task is learned "
        "after all the others. Other permutations for every seed, of the same images."
    ),
    world=long_permuted,
    measures=plastic,
    read={LATE: Measure(), FALL: Measure("lower", (-1.0, 1.0))},
    validate=valid_plastic,
    start="network",
    floor=("no renewal", Recipe(_unending(FineTune()), settings={"lr": 3e-3})),
    ceiling=("fresh network", Recipe(InSequence(Restart(), online=True), settings={"lr": 1e-2})),
    baselines={
        "l2_init": Recipe(_unending(L2Init()), grid={"lr": [3e-3, 1e-2], "strength": [1e-4, 1e-3, 1e-2]}),
        "shrink_perturb": Recipe(_unending(ShrinkPerturb()), grid={"lr": [3e-3, 1e-2], "keep": [0.5, 0.8, 0.95]}),
    },
    training={"steps": 40, "batch_size": 16, "optimizer": "adam"},
)
