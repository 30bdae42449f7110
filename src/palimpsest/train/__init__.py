"""The one training loop: `fit` trains a model in place on an objective, and says what happened.

>>> import torch
>>> from palimpsest.train import fit
>>> model = torch.nn.Linear(2, 1)
>>> x, y = torch.randn(64, 2), torch.randn(64, 1)
>>> history = fit(model, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), [(x, y)], steps=3)
>>> [record["step"] for record in history.steps]
[1, 2, 3]
"""

from palimpsest.train.history import History, NonFiniteLoss
from palimpsest.train.loop import fit
from palimpsest.train.method import Applied, Edit, Intervention, Objective, apply

__all__ = ["Applied", "Edit", "History", "Intervention", "NonFiniteLoss", "Objective", "apply", "fit"]
