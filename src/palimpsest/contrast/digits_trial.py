"""One pretraining run on views of digits, probed: what the claims of this family repeat.

A small convolutional network with a projection head sees random views of unlabelled digits; then a linear and a
nearest-neighbour probe read its features, fitted on the training rows, scored on the test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.contrast.heads import Projected, projection_head
from palimpsest.metrics.probes import few_label_accuracy, knn_accuracy, linear_probe
from palimpsest.models.vision import cnn
from palimpsest.tasks.digits import digits
from palimpsest.tasks.digits_labels import digits_longtail
from palimpsest.tasks.digits_views import KINDS, view_batches
from palimpsest.tasks.splits import Split, Splits
from palimpsest.train import fit


@dataclass(frozen=True)
class DigitsTrial:
    """A seed's data, model and training, with what every run on it shares.

    Attributes:
        seed: of the splits, the weights, the order and the views.
        smoke: three steps, to see that everything runs.
        batch_size, steps, lr: of pretraining with AdamW, weight decay 1e-4 and a cosine schedule.
        views, kinds, strength: of `palimpsest.tasks.digits_views`.
        out_dim, hidden: of the projection head.
        classes: only these digits, relabelled 0, 1, ...
        imbalance: of the training rows, largest class over smallest; the test rows stay balanced.
    """

    seed: int
    smoke: bool = False
    batch_size: int = 128
    steps: int = 400
    lr: float = 2e-3
    views: int = 2
    kinds: Sequence[str] = KINDS[:5]
    strength: float = 1.0
    out_dim: int = 32
    hidden: int = 64
    classes: tuple[int, ...] | None = None
    imbalance: float | None = None

    @cached_property
    def splits(self) -> Splits[Split]:
        whole = digits(self.seed) if self.imbalance is None else digits_longtail(self.seed, self.imbalance)
        if self.classes is None:
            return whole
        return whole.mapped(lambda split: split.of(self.classes).relabelled(self.classes))

    def model(self, extra: dict[str, nn.Module] | None = None) -> Projected:
        """A network with its head, neither trained; `extra` holds modules of the loss that are trained with it."""
        encoder = cnn(norm="batch", seed=self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = projection_head(encoder.config.feature_dim, self.hidden, self.out_dim)
        return Projected(encoder, head, extra)

    def train(self, objective: Any, model: Projected | None = None, **options: Any) -> Projected:
        """Trains a model (a new one by default) on views of the training rows; options go to `fit`."""
        model = self.model() if model is None else model
        model.train()
        settings = {"steps": self.steps, "lr": self.lr, "weight_decay": 1e-4, "schedule": "cosine", **options}
        if self.smoke:
            settings["steps"] = 3
        batches = view_batches(
            self.splits.train,
            min(self.batch_size, len(self.splits.train)),
            seed=self.seed,
            n=self.views,
            kinds=self.kinds,
            strength=self.strength,
        )
        fit(model, objective, batches, seed=self.seed, progress=False, **settings)
        return model

    @torch.no_grad()
    def features(self, model: Projected, split: Split) -> Tensor:
        """What the probes read: the encoder's features, without the head."""
        return model.eval().features(split.x.to(next(model.parameters()).device)).cpu()

    def measures(self, model: Projected, split: str = "test") -> dict[str, float]:
        """Accuracies of probes of the training rows, on the rows of a split ("validation" to choose settings by)."""
        rows = self._probed(model, split)
        return {"kNN accuracy": knn_accuracy(*rows, k=min(20, len(rows[0]))), "linear probe": linear_probe(*rows)}

    def few_labels(
        self, model: Projected, split: str = "test", *, shots: int = 1, draws: int = 20, neighbours: int = 1
    ) -> dict[str, float]:
        """The same of probes that see a few labelled rows of each class, which are far from their ceiling; see
        `few_label_accuracy`. A smoke trial draws them once."""
        options = {"shots": shots, "draws": 1 if self.smoke else draws, "neighbours": neighbours}
        return few_label_accuracy(*self._probed(model, split), **options, seed=self.seed)

    def one_label(self, model: Projected, split: str = "test") -> dict[str, float]:
        """`few_labels` of one, with names that say so."""
        names = {"linear probe": "linear probe, one label a class", "kNN accuracy": "nearest, one label a class"}
        return {names[probe]: accuracy for probe, accuracy in self.few_labels(model, split).items()}

    def _probed(self, model: Projected, split: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        train, other = self.splits.train, getattr(self.splits, split)
        return self.features(model, train), train.y, self.features(model, other), other.y


def over(
    trials: Mapping[str, dict[str, Any]], run: Callable[[str, DigitsTrial], dict[str, float]], **shared: Any
) -> Callable[..., dict[str, float]]:
    """An arm that runs on several trials: its metrics are named "label: metric".

    Args:
        trials: what each label's trial has of its own.
        run: called with the label and its trial.
        shared: what all trials have in common.

    A smoke run trains once, and takes that for all.
    """

    def arm(seed: int, budget: str = "full") -> dict[str, float]:
        metrics: dict[str, float] = {}
        found: dict[str, float] = {}
        for label, own in trials.items():
            trial = DigitsTrial(seed, budget == "smoke", **shared, **own)
            if not found or not trial.smoke:
                found = run(label, trial)
            metrics |= {f"{label}: {metric}": value for metric, value in found.items()}
        return metrics

    return arm
