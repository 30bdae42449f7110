"""How far old classes lie among new ones."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from palimpsest.retain.prototypes import nearest_mean


def overlap(features: Float[Tensor, "rows d"], labels: Int[Tensor, " rows"], new: Bool[Tensor, " classes"]) -> float:
    """The share of rows of old classes whose nearest class mean, of these same rows, is a new class's; nan where no
    row is of an old class.

    >>> overlap(torch.tensor([[0.0], [2.0], [2.0]]), torch.tensor([0, 0, 1]), torch.tensor([False, True]))
    0.5
    """
    means = torch.full((len(new), features.shape[1]), torch.nan, dtype=features.dtype)
    for label in labels.unique():
        means[label] = features[labels == label].mean(0)
    old = ~new[labels]
    return float(new[nearest_mean(features[old], means).argmax(1)].double().mean())
