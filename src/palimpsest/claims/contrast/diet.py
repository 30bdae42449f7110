"""Is the row's own number, as a class, enough to learn good features from? (Ibrahim et al. 2024, 2406.10743)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.diet import DIET, IndexTargets, diet_loss, loss_tracks_probe
from palimpsest.contrast.digits_trial import DigitsTrial
from palimpsest.contrast.heads import Projected, projection_head
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.pretrain import Views
from palimpsest.evidence import Claim, expect, given
from palimpsest.losses import barlow_twins_loss
from palimpsest.metrics.probes import knn_accuracy, linear_probe
from palimpsest.models.vision import cnn
from palimpsest.tasks.tabular import masked_batches, tabular
from palimpsest.train import fit

DIM, PROJECTION = 64, {"hidden": 64, "out": 32}
# Views that go through the network: updates are half as many where a row has two views.
VIEWS = {"default": 600, "grid": 200, "tabular": 600}
LR = 1e-3
LR_GRID = (LR / 3, LR, 3 * LR)
MOMENTS = 12  # at which loss and probe are compared
TABULAR = {"tables": ("wine", "breast_cancer"), "batch": 64, "rate": 0.4}
# The main hyperparameter of each: its default, between about half and twice of it (of 1 - smoothing for DIET).
MAIN = {
    "diet": (0.6, 0.8, 0.9),
    "simclr": (0.25, 0.5, 1.0),
    "simclr without projector": (0.25, 0.5, 1.0),
    "barlow twins": (0.0025, 0.005, 0.01),
    "supervised": (0.05, 0.1, 0.2),
}
NAMES = {"diet": "smoothing", "supervised": "smoothing", "barlow twins": "lambda"}
ONE_VIEW = ("diet", "supervised")
WEIGHT_DECAY = {name: 0.05 if name == "diet" else 1e-4 for name in MAIN}


def with_labels(model: nn.Module, batch: dict[str, Tensor], smoothing: float) -> Tensor:
    return F.cross_entropy(model(batch["views"][:, 0]), batch["labels"], label_smoothing=smoothing)


def objective(name: str, value: float) -> Any:
    if name == "diet":
        return IndexTargets(value)
    if name == "supervised":
        return partial(with_labels, smoothing=value)
    if name == "barlow twins":
        return Views(partial(barlow_twins_loss, off_diagonal=value))
    return Views(partial(nt_xent, temperature=value))


def with_its_head(name: str, encoder: nn.Module, rows: int, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "diet":
            return DIET(encoder, rows, DIM)
        if name == "supervised":
            return Projected(encoder, nn.Linear(DIM, classes))
        if name == "simclr without projector":
            return Projected(encoder, nn.Identity())
        return Projected(encoder, projection_head(DIM, PROJECTION["hidden"], PROJECTION["out"]))


def image_encoder(seed: int) -> nn.Sequential:
    """The trial's network with a batch norm before its last ReLU, as every block of a ResNet has one."""
    *body, last = cnn(norm="batch", seed=seed).body
    return nn.Sequential(*body, nn.BatchNorm1d(DIM), last)


def table_encoder(features: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = [(nn.Linear(wide, DIM), nn.BatchNorm1d(DIM), nn.ReLU()) for wide in (features, DIM)]
        return nn.Sequential(*(layer for block in blocks for layer in block))


def on_digits(name: str, trial: DigitsTrial, value: float, tracked: list | None = None) -> dict[str, float]:
    """Pretraining and probes; to `tracked`, if given, go the loss on the training rows and the probe, along the run."""
    train = trial.splits.train
    model = with_its_head(name, image_encoder(trial.seed), len(train), 10, trial.seed)

    def moment(model: nn.Module, step: int) -> dict[str, float]:
        loss = diet_loss(model.features(train.x), torch.arange(len(train)), model.head.weight, value)
        if step > 0:
            tracked.append((float(loss), trial.measures(model)["linear probe"]))
        return {"loss": float(loss)}

    watch = {} if tracked is None else {"evaluate": moment, "evaluate_every": max(1, trial.steps // MOMENTS)}
    trial.train(objective(name, value), model, weight_decay=WEIGHT_DECAY[name], **watch)
    return trial.measures(model)


def on_tables(name: str, seed: int, steps: int, tables: tuple[str, ...]) -> dict[str, float]:
    found = {"tabular linear probe": 0.0, "tabular kNN accuracy": 0.0}
    for table in tables:
        task = tabular(table, seed)
        train, test = task.train, task.test
        model = with_its_head(name, table_encoder(train.x.shape[1], seed), len(train), int(train.y.max()) + 1, seed)
        views = 1 if name in ONE_VIEW else 2
        fit(
            model,
            objective(name, MAIN[name][1]),
            masked_batches(train, TABULAR["batch"], seed=seed, n=views, rate=TABULAR["rate"]),
            steps=steps,
            lr=LR,
            weight_decay=WEIGHT_DECAY[name],
            schedule="cosine",
            seed=seed,
            progress=False,
        )
        with torch.no_grad():
            rows = (model.features(train.x), train.y, model.features(test.x), test.y)
        found["tabular linear probe"] += linear_probe(*rows) / len(tables)
        found["tabular kNN accuracy"] += knn_accuracy(*rows, k=20) / len(tables)
    return found


def arm(name: str) -> Callable[..., dict[str, float]]:
    def run(seed: int, budget: str = "full") -> dict[str, float]:
        smoke, views = budget == "smoke", 1 if name in ONE_VIEW else 2
        steps = {part: 3 if smoke else count // views for part, count in VIEWS.items()}
        trial = DigitsTrial(seed, smoke=smoke, steps=steps["default"], lr=LR, views=views)
        tracked: list[tuple[float, float]] | None = [] if name == "diet" else None
        metrics = on_digits(name, trial, MAIN[name][1], tracked)
        if tracked is not None:
            metrics["minus the correlation of loss and probe"] = -loss_tracks_probe(tracked)
        cells = [] if smoke else product(LR_GRID, MAIN[name])
        grid = [on_digits(name, replace(trial, steps=steps["grid"], lr=lr), value) for lr, value in cells] or [metrics]
        for metric in ("linear probe", "kNN accuracy"):
            over = [found[metric] for found in grid]
            metrics |= {f"grid: range of the {metric}": max(over) - min(over), f"grid: worst {metric}": min(over)}
        return {**metrics, **on_tables(name, seed, steps["tabular"], TABULAR["tables"][: 1 if smoke else None])}

    return run


claim = Claim(
    paper="diet",
    question=(
        "Is a network that only tells training rows apart, without pairs, negatives or a projector, as good for a "
        "linear probe as SimCLR, is it less sensitive to its settings, and does its loss show how good it is?"
    ),
    arms={name: arm(name) for name in MAIN},
    expects=[
        expect("diet").above("simclr", on="linear probe", by=-0.01),
        expect("diet").below("simclr", on="grid: range of the linear probe"),
        expect("diet").at_least(0.7, on="minus the correlation of loss and probe"),
        expect("diet").above("simclr", on="tabular linear probe", by=-0.01),
        given("supervised").at_least(0.8, on="linear probe"),
    ],
    settings={
        "views through the network": VIEWS,
        "lr": LR,
        "grid of lr": LR_GRID,
        "main hyperparameter, the default in the middle": MAIN,
        "which it is": {name: NAMES.get(name, "temperature") for name in MAIN},
        "weight decay": WEIGHT_DECAY,
        "projection head": PROJECTION,
        "width of the features": DIM,
        "moments": MOMENTS,
        "tabular": TABULAR,
        "tried": (
            "For DIET on digits, seed 0: without the batch norm at the end, lr 1e-3, 4e-3 and 1e-2 with smoothing 0.8, "
            "batches of 32, and smoothing 0; with it, before and after the last ReLU, lr 1e-3 and 4e-3. With smoothing "
            "0.8 and no such norm the features fell to a constant at all but the lowest lr, and were poor there; so "
            "the encoder of all arms got one. Learning rates and main hyperparameters were not searched for any arm."
        ),
    },
    notes=(
        "All arms have the same encoder, which ends in a batch norm and ReLU as a ResNet's blocks do: without that "
        "norm DIET with smoothing 0.8 can fall to the loss log n of constant features and stay there. Methods are "
        "compared at equal numbers of views through the network, so that DIET, which needs one view a row, takes twice "
        "as many updates. Default settings are the papers' (temperature 0.5, lambda 0.005, smoothing 0.8, lr 1e-3 "
        "for all), and the grid is run with a third of the updates. The loss compared with the probe is that of "
        "the training rows without augmentation, in eval mode, at twelve moments of the default run; minus "
        "Spearman's correlation is taken, because a loss that rises with the accuracy would be no use as a signal. The "
        "tables are wine and breast cancer (the mean of both), with 40% of a row's features hidden in each view, and "
        "a network of two layers. The paper's own figures are of ResNets and ViTs on images of up to ImageNet-100."
    ),
)
