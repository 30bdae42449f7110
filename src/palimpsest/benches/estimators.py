"""Baselines of scikit-learn, which are no networks, as edits: a recipe has them in the place of an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

from palimpsest.tasks.labelled import Labelled
from palimpsest.train.method import Edit

LEAST = 1e-6  # probability of a class without training rows


@dataclass(frozen=True)
class Fitted(Edit):
    """An estimator fitted to the labelled rows, in the place of the model.

    Attributes:
        make: () -> an estimator of scikit-learn.

    >>> from palimpsest.tasks.tabular import tabular
    >>> task = tabular("wine", 0)
    >>> model = Fitted(logistic).edit(nn.Linear(13, 3), Labelled(task.train, classes=3))
    >>> (model(task.test.x).argmax(1) == task.test.y).double().mean().item() > 0.9
    True
    """

    make: Callable[[], Any]

    def edit(self, model: nn.Module, data: Labelled, **training: Any) -> nn.Module:
        estimator = self.make()
        return Estimator(estimator.fit(data.rows.x.flatten(1).numpy(), data.rows.y.numpy()), data.classes)


class Estimator(nn.Module):
    """A fitted estimator that is called like a network: it gives log-probabilities, or numbers [batch, 1]."""

    def __init__(self, estimator: Any, classes: int) -> None:
        super().__init__()
        self.estimator, self.classes = estimator, classes

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1).numpy()
        if not self.classes:
            return torch.from_numpy(self.estimator.predict(rows))[:, None].float()
        p = np.zeros((len(rows), self.classes))
        p[:, self.estimator.classes_] = self.estimator.predict_proba(rows)
        return torch.from_numpy(p.clip(LEAST)).log().log_softmax(1).float()


def frequencies() -> DummyClassifier:
    """The training rows' frequencies of the classes, whatever the features."""
    return DummyClassifier(strategy="prior")


def mean() -> DummyRegressor:
    """The training rows' mean, whatever the features."""
    return DummyRegressor()


def logistic(strength: float = 1.0) -> LogisticRegression:
    """Logistic regression; `strength` is that of the L2 penalty."""
    return LogisticRegression(C=1 / strength, max_iter=500)


def ridge(strength: float = 1.0) -> Ridge:
    """Linear regression; `strength` is that of the L2 penalty."""
    return Ridge(strength)


def boosting(rate: float = 0.1, rounds: int = 50, leaf: int = 5) -> HistGradientBoostingClassifier:
    """Gradient boosting of trees for classes; `leaf` is the fewest rows of a leaf."""
    return HistGradientBoostingClassifier(learning_rate=rate, max_iter=rounds, min_samples_leaf=leaf, random_state=0)


def boosted_numbers(rate: float = 0.1, rounds: int = 50, leaf: int = 5) -> HistGradientBoostingRegressor:
    """Gradient boosting of trees for a number."""
    return HistGradientBoostingRegressor(learning_rate=rate, max_iter=rounds, min_samples_leaf=leaf, random_state=0)
