"""MNIST-1D: what methods that train a small network are compared on, where the architecture makes a difference."""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.estimators import Fitted, logistic
from palimpsest.benches.labelled import class_scores, valid_accuracy
from palimpsest.benches.mnist1d_worlds import series
from palimpsest.train.classification import Supervised

MNIST1D = Bench(
    name="mnist1d",
    about="Ten noisy, shifted and stretched shapes of 40 values: 4,000 to train a fully connected network on.",
    world=series,
    measures=class_scores,
    read={"accuracy": Measure(), "log loss": Measure("lower", None), "calibration error": Measure("lower")},
    validate=valid_accuracy,
    start="mlp",
    floor=("logistic regression", Recipe(Fitted(logistic))),
    ceiling=("CNN", Recipe(Supervised(), start="cnn", settings={"lr": 1e-2})),
    baselines={
        "MLP": Recipe(Supervised(), grid={"lr": [1e-3, 3e-3, 1e-2], "weight_decay": [0.0, 0.3]}),
        "MLP, smoothed labels": Recipe(
            Supervised(partial(F.cross_entropy, label_smoothing=0.1)),
            grid={"lr": [1e-3, 3e-3], "label_smoothing": [0.1, 0.2, 0.4]},
        ),
    },
    training={"steps": 1000, "batch_size": 64},
)
