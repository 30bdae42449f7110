"""Adam for networks whose units are replaced while they learn: an entry of a weight that begins again has no past.

Source: Dohare et al. (2024), Loss of plasticity in deep continual learning, arXiv 2306.13812; Adam: Kingma and Ba
(2015), arXiv 1412.6980.

Whoever writes new values into a parameter notes it by `renew(p, index)`; before its next step the optimizer sets the
moments of these entries to 0, and their number of steps too: a moment that has seen one gradient is corrected as such.

    t <- t + 1,  m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2          for every entry, with its own t
    w <- w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def renew(p: nn.Parameter, index: Any) -> None:
    """Notes, on the parameter, that the entries at `index` begin again."""
    if not hasattr(p, "renewed"):
        p.renewed = torch.zeros_like(p, dtype=torch.bool)
    p.renewed[index] = True


def forget_moments(optimizer: Optimizer, *_: Any) -> None:
    """Sets to 0 what an optimizer remembers of the entries that begin again.

    Any optimizer of torch does so before each of its steps with `optimizer.register_step_pre_hook(forget_moments)`,
    except for the number of steps, which it has in common for all entries of a parameter.

    >>> w = nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    >>> w.grad = torch.ones(2)
    >>> optimizer.step()
    >>> renew(w, 0)
    >>> forget_moments(optimizer)
    >>> optimizer.state[w]["momentum_buffer"]
    tensor([0., 1.])
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            if hasattr(p, "renewed"):
                for value in optimizer.state.get(p, {}).values():
                    if isinstance(value, Tensor) and value.shape == p.shape:
                        value.masked_fill_(p.renewed, 0)
                del p.renewed


class RenewableAdam(Optimizer):
    """Adam with a number of steps for every entry of the parameters; where nothing begins again, it is Adam.

    Args:
        params: what it trains.
        lr: learning rate.
        betas: decay of the means of gradients and of their squares.
        eps: added to the denominator.

    >>> w = nn.Parameter(torch.zeros(2))
    >>> optimizer = RenewableAdam([w], lr=0.1)
    >>> for _ in range(2):
    ...     w.grad = torch.ones(2)
    ...     optimizer.step()
    >>> renew(w, 0)
    >>> optimizer.step()
    >>> optimizer.state[w]["step"]
    tensor([1., 3.])
    """

    def __init__(
        self, params: Iterable, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        if not lr >= 0 or not eps > 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lr must be at least 0, eps above 0, betas in [0, 1), got {lr}, {eps}, {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        self.register_step_pre_hook(forget_moments)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update({name: torch.zeros_like(p) for name in ("step", "exp_avg", "exp_avg_sq")})
                steps = state["step"].add_(1)
                mean = state["exp_avg"].lerp_(p.grad, 1 - first) / (1 - first**steps)
                square = state["exp_avg_sq"].lerp_(p.grad.square(), 1 - second) / (1 - second**steps)
                p.addcdiv_(mean, square.sqrt_().add_(group["eps"]), value=-group["lr"])
        return loss
