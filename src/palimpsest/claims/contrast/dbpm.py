"""Does mining bad pairs find the spoiled ones, and does weighing them down help? (Lan et al. 2023, 2302.03357)"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from palimpsest.contrast.dbpm import DBPM, BadPairs, PairMemory, pair_weights
from palimpsest.contrast.heads import Projected, projection_head
from palimpsest.evidence import Claim, expect, given
from palimpsest.metrics.probes import linear_probe
from palimpsest.tasks.digits import Splits
from palimpsest.tasks.fresh import generator
from palimpsest.tasks.waveforms import (
    DAMAGED,
    GOOD,
    NOISE,
    Windows,
    series_views,
    view_batches,
    waveforms,
    with_bad_pairs,
)
from palimpsest.train import fit

TASK = {
    "train": 1024,
    "validation": 500,
    "test": 1000,
    "length": 64,
    "cycles": (3.0, 3.2),
    "loudness": (0.8, 1.2),
    "noise": 0.1,
}
BAD = {"noise": 0.2, "damaged": 0.2, "exponent": 1.0, "loudness": 3.0}
VIEWS = {"noise": 0.6, "scaling": 0.4, "damaged": 0.9}
PROBE = {"labels": 50, "draws": 10}  # of the validation rows, one view of each, as of the test rows
TRAIN = {
    "epochs": 40,
    "batch_size": 128,
    "lr": 4e-3,
    "optimizer": "adamw",
    "weight decay": 1e-4,
    "schedule": "constant",
}
MODEL = {"width": 32, "hidden": 64, "out_dim": 32}
MINING = {"warmup": 5 / 8, "b_np": 1.0, "b_fp": 1.0, "cap": 1.0}
TRIED = {
    "scored on": "test rows of seeds 0-4; every seed generates its own rows, so the verdict's were never seen",
    "the world, by untrained, SimCLR and oracle removal on seeds 0 and 1, without mining": (
        "cycles 2 to 5, 3 to 4, 3 to 3.2; shares of bad pairs 0.1 and 0.2; views with noise 0.6 and 1; probes on clean "
        "and on jittered windows, linear and kNN, 50 and 300 labels. On clean windows an untrained network was as good "
        "as SimCLR everywhere. Taken: one in which SimCLR gains 0.1 over it and removal 0.03 over SimCLR"
    ),
    "simclr's learning rate, constant, seeds 0-1": {"1e-3": 0.572, "2e-3": 0.589, "4e-3": 0.599},
    "the same with a cosine schedule, by which mining comes when the rate is low; its thresholds made no difference": {
        "1e-3": 0.554,
        "2e-3": 0.577,
        "4e-3": 0.591,
        "8e-3": 0.593,
        "dbpm at 1e-3, three pairs of thresholds": (0.555, 0.555, 0.556),
    },
    "dbpm's thresholds (b_np, b_fp), constant rate 4e-3, seeds 0-1": {
        "1, 1": 0.609,
        "1, 1.5": 0.606,
        "1.5, 1.5": 0.608,
    },
}


@dataclass(frozen=True)
class AtRandom(DBPM):
    """As many flags as mining would raise, on pairs drawn at random at every epoch."""

    def find(self, memory: PairMemory, epoch: int) -> BadPairs:
        found = super().find(memory, epoch)
        order = torch.randperm(len(found.noisy), generator=torch.Generator().manual_seed(epoch))
        return BadPairs(found.noisy[order], found.faulty[order], found.mean, found.std)


@dataclass(frozen=True)
class Plain(DBPM):
    """Losses are written down, and all pairs count: what mining would have flagged can still be read off."""

    def find(self, memory: PairMemory, epoch: int) -> BadPairs:
        found = super().find(memory, epoch)
        none = torch.zeros_like(found.noisy)
        return BadPairs(none, none, found.mean, found.std)


def encoder(seed: int) -> Projected:
    width = MODEL["width"]

    def convolution(c_in: int, c_out: int, kernel: int) -> list[nn.Module]:
        layer = nn.Conv1d(c_in, c_out, kernel, stride=2, padding=kernel // 2, bias=False)
        return [layer, nn.BatchNorm1d(c_out), nn.ReLU()]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(
            *convolution(1, width, 7),
            *convolution(width, 2 * width, 5),
            *convolution(2 * width, 2 * width, 3),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )
        return Projected(body, projection_head(2 * width, MODEL["hidden"], MODEL["out_dim"]))


def precision(flags: Tensor, truth: Tensor) -> float:
    """Share of the flagged pairs that are what they are taken for; 0 where none is flagged."""
    return float((flags & truth).sum() / flags.sum().clamp(min=1))


def probed(model: Projected, task: Splits[Windows], seed: int) -> float:
    """Accuracy on one view of every test row, by a few labelled views; the mean over draws of these."""
    draws = generator(seed, "test", 1)

    def features(windows: Windows) -> Tensor:
        views = series_views(windows.x, draws, n=1, noise=VIEWS["noise"], scaling=VIEWS["scaling"])
        with torch.no_grad():
            return model.eval().features(views[:, 0])

    known, test = features(task.validation), features(task.test)
    y = task.validation.y
    parts = torch.arange(len(y)).split(PROBE["labels"])[: PROBE["draws"]]
    return fmean(linear_probe(known[part], y[part], test, task.test.y) for part in parts)


def run(name: str, seed: int, smoke: bool) -> dict[str, float]:
    task = waveforms(seed, **({**TASK, "train": 64, "validation": 50, "test": 50} if smoke else TASK))
    rows = with_bad_pairs(task.train, generator(seed, "train", 1), **BAD)
    trained = rows[rows.pair == GOOD] if name == "oracle removal" else rows
    size = min(TRAIN["batch_size"], len(trained) // 2)
    epochs = 4 if smoke else TRAIN["epochs"]
    steps = epochs * len(rows) // size  # as many for every arm, also with fewer rows
    batches = view_batches(trained, size, seed=seed, **VIEWS)
    model = encoder(seed).train()
    if name == "untrained":
        with torch.no_grad():  # the statistics of batch norm
            for step in range(len(rows) // size):
                model(batches(step)["views"].flatten(0, 1))
        return {"linear probe": probed(model, task, seed)}

    mining = {"dbpm": DBPM, "random flags": AtRandom}.get(name, Plain)(epochs, **MINING)
    memory = mining.init(model, rows)
    fit(
        model,
        lambda model, batch: mining.loss(memory, model, batch),  # not as an objective: the memory is read below
        batches,
        steps=steps,
        lr=TRAIN["lr"],
        optimizer=TRAIN["optimizer"],
        weight_decay=TRAIN["weight decay"],
        schedule=TRAIN["schedule"],
        seed=seed,
        progress=False,
    )
    metrics = {"linear probe": probed(model, task, seed)}
    return metrics if trained is not rows else metrics | found(mining, memory, rows)


def found(mining: DBPM, memory: PairMemory, rows: Windows) -> dict[str, float]:
    """What is flagged in the last epoch, or would be, and what that weighs."""
    last = mining.epochs - 1
    flags = DBPM.find(mining, memory, last) if isinstance(mining, Plain) else mining.find(memory, last)
    loss, noisy, damaged = memory.losses[:, last], rows.pair == NOISE, rows.pair == DAMAGED
    weights = pair_weights(loss, flags.flagged, flags.mean, flags.std, mining.cap)
    good = float(loss[rows.pair == GOOD].nanmean())

    def weight(of: Tensor) -> float:
        return float(weights[of].nanmean()) if of.any() else 1.0

    return {
        "precision of noisy flags": precision(flags.noisy, noisy),
        "precision of faulty flags": precision(flags.faulty, damaged),
        "recall of noisy pairs": precision(noisy, flags.noisy),
        "recall of faulty pairs": precision(damaged, flags.faulty),
        "noisy flags": float(flags.noisy.sum()),
        "faulty flags": float(flags.faulty.sum()),
        "weight of noisy flags": weight(flags.noisy),
        "weight of faulty flags": weight(flags.faulty),
        "noise pairs easier by": good - float(loss[noisy].nanmean()),
        "damaged pairs harder by": float(loss[damaged].nanmean()) - good,
    }


def arm(name: str):
    return lambda seed, budget="full": run(name, seed, budget == "smoke")


claim = Claim(
    paper="dbpm",
    question=(
        "A fifth of the windows are noise that both views share, of another fifth one view is damaged: does mining "
        "find them by their losses, and are features better for it?"
    ),
    arms={name: arm(name) for name in ("untrained", "simclr", "dbpm", "random flags", "oracle removal")},
    expects=[
        expect("dbpm").at_least(0.6, on="precision of noisy flags"),
        expect("dbpm").at_least(0.6, on="precision of faulty flags"),
        expect("dbpm").above("simclr", on="linear probe", by=0.01),
        expect("random flags").below("simclr", on="linear probe", by=-0.01),
        given("simclr").above("untrained", on="linear probe", by=0.03),
        given("oracle removal").above("simclr", on="linear probe"),
        given("simclr").at_least(0.2, on="noise pairs easier by"),
        given("simclr").at_least(0.2, on="damaged pairs harder by"),
    ],
    seeds=range(110, 115),
    settings={
        "task": TASK,
        "bad pairs": BAD,
        "views": VIEWS,
        "probe": PROBE,
        "training": TRAIN,
        "encoder": MODEL,
        "mining": MINING,
        "tried": TRIED,
    },
    notes=(
        "Generated waves of five kinds instead of ECG and other recordings, 1-D convolutions of three layers, and a "
        "constant learning rate, as in the authors' code. The probe is fitted on 50 good windows, ten times anew, and "
        "scored on 1000 others; all are seen through one view, with the noise that training teaches to ignore. A fifth "
        "of the pairs is bad in either way, not a tenth: with tenths the removal of all bad pairs gained 0.009 and "
        "0.026 over SimCLR on two seeds. The precision that is asked for is three times that share. Noise is three "
        "times as loud as the waves: only then is it the easier thing to align, which is what the paper starts from. "
        "That, a gain of SimCLR over an untrained network and a gain of removal over SimCLR are preconditions. With a "
        "fifth of the pairs far above the rest an outlier reaches two deviations at most, so the authors' b_fp = 3 "
        "would flag none. The weight is capped at 1, which the authors' code does not do. The noisy half acts weakly: "
        "mu lies below the losses, so flagged noisy pairs keep about half of their weight at the end of training, and "
        "flagged faulty ones nearly nothing (a metric). Flags and weights are those of the last epoch. "
        "A first run, on seeds 100 to 104, had tenths of bad pairs and a probe on clean windows: dbpm was 0.001 below "
        "SimCLR. An untrained network does as well there, so that it said nothing; hence the other world and the arm."
    ),
)
