"""LegendreTron: the loss is learned with the classifier, among proper ones (Lam et al. 2023, arXiv 2301.11695).

A loss is proper when true probabilities minimise it. Every link from probabilities to scores that is the gradient of a
convex function gives one; so the inverse link is learned as a composition of such gradients, and what is minimised is
minus the log of the probability that it gives:

    F(x) = softplus(w1) icnn(x) + softplus(w0) ||x||^2 / 2,   f = dF/dx                        (a block)
    log p = log softmax([f_B(... f_1(z)), 0]),   L = -log p_y

with z [batch, C - 1] the scores of any model, and the last class the one that the others are measured against.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Normalised(nn.Module):
    """A shift and a positive scale for each feature, so that convexity stays, such that the first training batch has
    mean 0 and variance 1."""

    LEAST = 1e-3

    def __init__(self, features: int, shifts: bool = True) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(features), requires_grad=shifts)
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        if self.training and not self.started:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.log_scale.copy_(-(x.std(0, correction=0) + 1e-6).log())
                self.started.fill_(True)
        return (x + self.shift) * (self.log_scale.exp() + self.LEAST)


class Convex(nn.Module):
    """A network [batch, K] -> [batch] that is convex in its input (Amos et al. 2017): what goes on from layer to layer
    is weighed positively and passes increasing convex functions; half of each layer's units read the input afresh.

    Args:
        width: of the layers, even.
        depth: their number.
    """

    def __init__(self, k: int, width: int = 4, depth: int = 4) -> None:
        super().__init__()
        half = width // 2
        self.first = nn.Linear(k, width)
        self.onward = nn.ModuleList([nn.Linear(width, half) for _ in range(depth - 1)])
        self.afresh = nn.ModuleList([nn.Linear(k, half) for _ in range(depth - 1)])
        self.beside = nn.ModuleList([nn.Linear(k, half) for _ in range(depth - 1)])
        self.norms = nn.ModuleList([Normalised(half) for _ in range(depth - 1)])
        self.last, self.linear = nn.Linear(width, 1, bias=False), nn.Linear(k, 1, bias=False)
        self.end = Normalised(1, shifts=False)

    def forward(self, x: Float[Tensor, "batch k"]) -> Float[Tensor, " batch"]:
        z = F.softplus(self.first(x))
        for onward, afresh, beside, norm in zip(self.onward, self.afresh, self.beside, self.norms, strict=True):
            carried = F.linear(z, F.softplus(onward.weight), onward.bias) / z.shape[1]
            z = torch.cat([F.softplus(norm(carried + afresh(x))), F.softplus(beside(x))], 1)
        last = F.linear(z, F.softplus(self.last.weight)) / z.shape[1]
        return self.end(last + self.linear(x))[:, 0]


class Block(nn.Module):
    """The gradient of a strictly convex function: an invertible map whose Jacobian is symmetric and positive."""

    def __init__(self, k: int, width: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.convex = Convex(k, width, depth)
        self.w0, self.w1 = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(()))

    def potential(self, x: Float[Tensor, "batch k"]) -> Float[Tensor, " batch"]:
        return F.softplus(self.w1) * self.convex(x) + F.softplus(self.w0) * x.square().sum(1) / 2

    def forward(self, x: Float[Tensor, "batch k"]) -> Float[Tensor, "batch k"]:
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.potential(x).sum(), x, create_graph=learning)
        return gradient


class LegendreLink(nn.Module):
    """Scores [batch, classes - 1] -> log-probabilities [batch, classes]. The first training batch sets its scales.

    Args:
        classes: two or more; the last is the reference, whose score is 0.
        blocks: gradients of convex functions, one after another.
        width, depth: of the convex networks.

    Raises:
        ValueError: fewer than two classes, an odd width, or no block or layer.

    >>> link = LegendreLink(3)
    >>> log_p = link(torch.randn(5, 2))
    >>> log_p.shape, bool(torch.allclose(log_p.exp().sum(1), torch.ones(5)))
    (torch.Size([5, 3]), True)
    """

    def __init__(self, classes: int, blocks: int = 2, width: int = 4, depth: int = 4) -> None:
        super().__init__()
        if classes < 2 or blocks < 1 or depth < 1 or width < 2 or width % 2:
            raise ValueError(
                f"need two classes, a block, a layer and an even width, got {classes}, {blocks}, {depth}, {width}"
            )
        self.blocks = nn.Sequential(*(Block(classes - 1, width, depth) for _ in range(blocks)))

    def forward(self, scores: Float[Tensor, "batch k"]) -> Float[Tensor, "batch classes"]:
        moved = self.blocks(scores)
        return torch.cat([moved, moved.new_zeros(len(moved), 1)], 1).log_softmax(1)


class LegendreTron(nn.Module):
    """A model with a link. It gives log-probabilities, which cross-entropy takes as the logits they are: the authors
    train both by Adam at 0.01, weight decay 0.01, rate times 0.95 every four of 240 epochs, in double precision.

    Args:
        inner: x -> scores [batch, classes - 1]; linear in the paper.

    >>> model = LegendreTron(nn.Linear(4, 2), LegendreLink(3))
    >>> F.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).isfinite()
    tensor(True)
    """

    def __init__(self, inner: nn.Module, link: nn.Module) -> None:
        super().__init__()
        self.inner, self.link = inner, link

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        return self.link(self.inner(x))
