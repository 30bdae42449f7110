"""The one training loop: `fit` trains a model in place on an objective, and says what happened.

>>> import torch
>>> from palimpsest.train import fit
>>> model = torch.nn.Linear(2, 1)
>>> x, y = torch.randn(64, 2), torch.randn(64, 1)
>>> history = fit(model, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), [(x, y)], steps=3)
>>> [record["step"] for record in history.steps]
[1, 2, 3]
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "history": ("History", "NonFiniteLoss"),
    "loop": ("fit",),
    "method": ("Applied", "Edit", "Intervention", "Objective", "apply"),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
