"""A learning rate of a method's own from the second task on, by shortening what the optimizer's updates did."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from palimpsest.retain.continual import Weights, weights_of


def slow_down(model: nn.Module, before: Weights, share: float, still: Collection[str] = ()) -> Weights:
    """Shorten an update to a share of itself: for all optimizers that scale theirs by the rate, this is a lower rate.

    Args:
        model: changed in place.
        before: its weights before the update, as `weights_of` gives them.
        share: of the way from there that is gone; 1 leaves the update as it is.
        still: names of parameters that do not move at all.

    Returns:
        The weights now: `before` of the next update.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> before = {"weight": layer.weight.detach() - 1}
    >>> now = slow_down(layer, before, 0.5)
    >>> (now["weight"] - before["weight"]).item()
    0.5
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in still:
                p.copy_(before[name])
            elif name in before and share != 1:
                p.copy_(torch.lerp(before[name].to(p), p, share))
    return weights_of(model)
