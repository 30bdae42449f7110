"""The world of series that comparisons of representations are made on: a part of what is to be aligned is spoiled.

A network sees two random views of each of 1,024 windows with one wave of five kinds. Two fifths of the pairs are bad:
in half of these both views share loud noise and nothing else, in the other half a sensor hung in one view
(`palimpsest.tasks.waveforms`). Its features, without the head that a loss reads, must then tell which wave is in a
window, from 50 labelled ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.contrast.heads import Projected, projection_head
from palimpsest.metrics.probes import linear_probe
from palimpsest.tasks.fresh import generator
from palimpsest.tasks.splits import Splits
from palimpsest.tasks.waveforms import GOOD, Windows, series_views, view_batches, waveforms, with_bad_pairs

SIZES, SMALL = {"train": 1024, "validation": 500, "test": 1000}, {"train": 64, "validation": 100, "test": 50}
WAVES = {"length": 64, "cycles": (3.0, 3.2), "loudness": (0.8, 1.2), "noise": 0.1}
BAD = {"noise": 0.2, "damaged": 0.2, "exponent": 1.0, "loudness": 3.0}
VIEW = {"noise": 0.6, "scaling": 0.4}
DAMAGED = 0.9  # share of a window that is lost
WIDTH, PROJECTED = 32, 32
LABELLED = 50
PROBE = "linear probe"


@dataclass(frozen=True)
class Series:
    """A seed's windows and networks.

    Attributes:
        seed: of the windows, of what is spoiled, and of the weights.
        smoke: a few windows.
        cleaned: leave the bad pairs out, as nobody could who is not told.
    """

    seed: int
    smoke: bool = False
    cleaned: bool = False

    @cached_property
    def splits(self) -> Splits[Windows]:
        return waveforms(self.seed, **(SMALL if self.smoke else SIZES), **WAVES)

    @cached_property
    def train(self) -> Windows:
        """What is trained on, with what becomes of each row's pair of views as `pair`."""
        rows = with_bad_pairs(self.splits.train, generator(self.seed, "train", 1), **BAD)
        return rows[rows.pair == GOOD] if self.cleaned else rows

    @property
    def data(self) -> Series:
        return self

    def __len__(self) -> int:
        return len(self.train)

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        """step -> {"views" [batch, 2, 1, 64], "index", "labels", "pair"}."""
        size = min(batch_size, len(self.train) // 2)
        return view_batches(self.train, size, seed=seed, damaged=DAMAGED, **VIEW)

    def model(self, kind: str) -> nn.Module:
        """ "network": an encoder with a projection head; "untrained": the same, with the statistics of training windows
        in its batch norm."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Projected(encoder(), projection_head(2 * WIDTH, 2 * WIDTH, PROJECTED))
        if kind == "untrained":
            with torch.no_grad():
                model.train()(self.batches(len(self), self.seed)(0)["views"].flatten(0, 1))
        return model


def encoder() -> nn.Sequential:
    """Three convolutions that halve the window, and the mean over what is left."""
    layers: list[nn.Module] = []
    for c_in, c_out, kernel in ((1, WIDTH, 7), (WIDTH, 2 * WIDTH, 5), (2 * WIDTH, 2 * WIDTH, 3)):
        layers += [nn.Conv1d(c_in, c_out, kernel, 2, kernel // 2, bias=False), nn.BatchNorm1d(c_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten())


def measures(world: Series, model: nn.Module) -> dict[str, float]:
    """How often a probe of the features is right on the test windows: the mean over probes of 50 labelled ones each."""
    return {PROBE: _probed(world, model, world.splits.validation, world.splits.test)}


def validate(world: Series, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """The same on half of the labelled windows, by probes of the other half."""
    half = len(world.splits.validation) // 2
    return _probed(world, model, world.splits.validation[:half], world.splits.validation[half:])


def _probed(world: Series, model: nn.Module, known: Windows, asked: Windows) -> float:
    """All windows are seen through one view, with the noise that training teaches to ignore."""
    draws = generator(world.seed, "test", 1)
    seen, test = (_features(model, rows, draws) for rows in (known, asked))
    parts = torch.arange(len(known)).split(LABELLED)
    return fmean(linear_probe(seen[part], known.y[part], test, asked.y) for part in parts)


@torch.no_grad()
def _features(model: nn.Module, windows: Windows, draws: torch.Generator) -> Tensor:
    return model.eval().features(series_views(windows.x, draws, n=1, **VIEW)[:, 0])
