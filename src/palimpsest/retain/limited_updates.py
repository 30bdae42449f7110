"""An optimizer whose updates have a limit, entry by entry: what it does is cut, not what it is given.

Source: Keskinen (2024), Hard ASH, arXiv 2404.17651.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def limited(optimizer: Optimizer, limit: float) -> Optimizer:
    """The optimizer, none of whose updates of an entry is above a limit from now on.

    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = limited(torch.optim.SGD([w], lr=1.0), 0.01)
    >>> w.grad = torch.tensor([3.0, -0.005])
    >>> optimizer.step()
    >>> w.detach()
    tensor([-0.0100,  0.0050])
    """
    before: list[Tensor] = []

    def remember(optimizer: Optimizer, *_: Any) -> None:
        before[:] = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def shorten(optimizer: Optimizer, *_: Any) -> None:
        for p, old in zip((p for group in optimizer.param_groups for p in group["params"]), before, strict=True):
            p.copy_(old + (p - old).clamp(-limit, limit))

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(shorten)
    return optimizer
