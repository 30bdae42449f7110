"""A plain PyTorch loop and what goes into a loss, for the tests of this folder."""

import torch
from torch import nn
from torch.nn import functional as F


def losses_while_training(compare, steps=60):
    """The loss of every step while a small network learns to give two noisy views of a row the same embedding."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    rows = torch.randn(32, 8)
    history = []
    for _ in range(steps):
        loss = compare(*(net(rows + 0.5 * torch.randn_like(rows)) for _ in range(2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def views(n=5, d=3, seed=0, noise=0.7):
    """Two noisy views of some rows, which ask for a gradient."""
    generator = torch.Generator().manual_seed(seed)
    z1 = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z2 = z1 + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return z1.requires_grad_(), z2.requires_grad_()


def pairs(n=6, d=3, seed=0):
    """Unit-norm rows that go together, which ask for a gradient."""
    generator = torch.Generator().manual_seed(seed)
    made = F.normalize(torch.randn(2, n, d, generator=generator, dtype=torch.float64), dim=2)
    return made[0].clone().requires_grad_(), made[1].clone().requires_grad_()
