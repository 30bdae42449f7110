"""A key encoder that follows the query encoder, and a queue of its keys (He et al. 2019, arXiv 1911.05722)."""

from __future__ import annotations

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.input_checks import check_embeddings


class MomentumPair(nn.Module):
    """A copy of a network that trails behind it: theta_key <- m theta_key + (1 - m) theta_query, without a gradient.

    Buffers (running statistics) are copied as they are. The network itself is not a part of this module, so that it is
    neither saved nor trained twice.

    Raises:
        ValueError: m outside of [0, 1]; weights in half precision, in which steps of 1 - m are rounded away (train them
            in float32, under autocast if need be).

    >>> net = nn.Linear(2, 2, bias=False)
    >>> pair = MomentumPair(net, m=0.9)
    >>> with torch.no_grad():
    ...     net.weight += 1
    >>> pair.update()
    >>> round((net.weight - pair.key.weight).mean().item(), 6)
    0.9
    """

    def __init__(self, net: nn.Module, m: float = 0.99) -> None:
        super().__init__()
        if not 0 <= m <= 1:
            raise ValueError(f"m must be in [0, 1], got {m}")
        half = {p.dtype for p in net.parameters()} & {torch.bfloat16, torch.float16}
        if half and m > 0:
            raise ValueError(f"a copy of weights in {half.pop()} would not move by 1 - m: keep them in float32")
        self.m = m
        self.key = deepcopy(net).requires_grad_(False)
        self._query = (net,)  # in a tuple, so that it is not registered

    @torch.no_grad()
    def update(self) -> None:
        """Follows the network's present weights."""
        (query,) = self._query
        for mine, new in zip(self.key.parameters(), query.parameters(), strict=True):
            mine.lerp_(new.to(mine), 1 - self.m)
        for mine, new in zip(self.key.buffers(), query.buffers(), strict=True):
            mine.copy_(new)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.key(x)


class KeyQueue(nn.Module):
    """The last `size` keys, unit-norm and detached; before any came, random directions stand in.

    >>> queue = KeyQueue(4, 2)
    >>> queue.push(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    >>> queue.keys[:2], queue.filled
    (tensor([[1., 0.],
            [0., 1.]]), 2)
    """

    keys: Float[Tensor, "size d"]

    def __init__(self, size: int, dim: int, seed: int = 0) -> None:
        super().__init__()
        for name, value in (("size", size), ("dim", dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        drawn = torch.randn(size, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("keys", F.normalize(drawn, dim=1))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    @property
    def filled(self) -> int:
        """How many of the keys have been pushed."""
        return min(int(self.pushed), len(self.keys))

    @torch.no_grad()
    def push(self, z: Float[Tensor, "batch d"]) -> None:
        """Puts keys in the place of the oldest; of more than `size` the last ones stay."""
        check_embeddings(keys=z)
        if z.shape[1] != self.keys.shape[1]:
            raise ValueError(f"keys must be [batch, {self.keys.shape[1]}], got {list(z.shape)}")
        size = len(self.keys)
        self.pushed += max(0, len(z) - size)
        z = F.normalize(z[-size:].detach().to(self.keys), dim=1)
        places = (int(self.pushed) + torch.arange(len(z), device=z.device)) % size
        self.keys[places] = z
        self.pushed += len(z)
