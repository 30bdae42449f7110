"""An output layer of very many classes whose update costs the same for any number of them (Vincent, de Brébisson and
Bouthillier, 2015, arXiv 1412.7091, as the Z-loss uses it).

W = V U + 1 omega' with V [classes, d]: a step of gradient descent on a loss of o_y, s = sum o and q = sum o^2 changes
U [d, d], omega [d] and the labels' rows of V, and Q = W' W and wbar = W' 1, from which s = wbar' h and q = h' Q h, are
kept with it. That is O(d^2) a row, against O(classes d) for the dense layer.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.classify.z_loss import squashed, standard_score


class SphericalOutput(nn.Module):
    """The output layer with the Z-loss on it. It trains itself by plain gradient descent, `step`.

    Args:
        features: d.
        classes: D.
        a, b: of the Z-loss.
        std: of the first weights.
        limit: U is multiplied into V, and started anew, once its condition number, in the Frobenius norm over d, is
            above it. That alone costs O(D d^2).
        generator: for the first weights.

    >>> layer = SphericalOutput(2, 5, generator=torch.Generator().manual_seed(0))
    >>> h, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([3])
    >>> first, gradient = layer.step(h, labels, lr=1.0)
    >>> second, _ = layer.step(h, labels, lr=1.0)
    >>> second < first, gradient.shape
    (tensor(True), torch.Size([1, 2]))
    """

    def __init__(
        self,
        features: int,
        classes: int,
        a: float = 1.0,
        b: float | None = None,
        std: float = 0.01,
        limit: float = 1e3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(features, classes - 1) < 1 or not std > 0 or not limit > 1:
            raise ValueError(
                f"need a feature, two classes, std above 0 and limit above 1, got {features}, {classes}, {std}, {limit}"
            )
        self.a, self.b, self.limit = a, b, limit
        self.register_buffer("V", std * torch.randn(classes, features, generator=generator))
        for name, value in {
            "U": torch.eye(features),
            "inverse": torch.eye(features),
            "omega": torch.zeros(features),
        }.items():
            self.register_buffer(name, value)
        self.register_buffer("Q", self.V.T @ self.V)
        self.register_buffer("wbar", self.V.sum(0))

    def weight(self) -> Float[Tensor, "classes d"]:
        """The dense matrix W, for predictions; O(classes d^2)."""
        return self.V @ self.U + self.omega

    def forward(self, h: Float[Tensor, "batch d"]) -> Float[Tensor, "batch classes"]:
        """All outputs, without the dense matrix: what predicts, at O(classes d)."""
        return h @ self.U.T @ self.V.T + (h @ self.omega)[:, None]

    def loss(self, own: Float[Tensor, " b"], s: Float[Tensor, " b"], q: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """The Z-loss of the three numbers of each row; override it for another loss of the spherical family."""
        classes = len(self.V)
        mean = s / classes
        return squashed(standard_score(own, mean, q / classes - mean.square()), classes, self.a, self.b).mean()

    @torch.no_grad()
    def step(
        self, h: Float[Tensor, "batch d"], labels: Int[Tensor, " batch"], lr: float
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d"]]:
        """One step of gradient descent on the batch's mean loss, that of the dense layer exactly.

        Returns:
            The loss before the step, and its gradient in h, for what lies below.

        Raises:
            ValueError: shapes or labels that do not fit.
        """
        if h.ndim != 2 or h.shape[1] != len(self.U) or labels.shape != h.shape[:1] or not len(labels):
            raise ValueError(f"need h [batch, {len(self.U)}] and labels, got {list(h.shape)} and {list(labels.shape)}")
        if int(labels.min()) < 0 or int(labels.max()) >= len(self.V):
            raise ValueError(f"labels must be in [0, {len(self.V)}), got {int(labels.min())} to {int(labels.max())}")
        h = h.detach().to(self.V)
        rows = self.V[labels] @ self.U + self.omega  # of W
        numbers = ((rows * h).sum(1), h @ self.wbar, ((h @ self.Q) * h).sum(1))
        with torch.enable_grad():
            numbers = tuple(number.requires_grad_() for number in numbers)
            loss = self.loss(*numbers)
            gamma, beta, alpha = torch.autograd.grad(loss, numbers)
        gradient = beta[:, None] * self.wbar + 2 * alpha[:, None] * (h @ self.Q) + gamma[:, None] * rows
        self._descend(h, labels, rows, lr * alpha, lr * beta, lr * gamma)
        return loss.detach(), gradient

    def _descend(self, h: Tensor, labels: Tensor, rows: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor) -> None:
        """W <- W M - 1 shift' - sum_i gamma_i e_(y_i) h_i', with M = I - 2 sum_i alpha_i h_i h_i' and shift =
        sum_i beta_i h_i, in all that is kept."""
        weighted = 2 * alpha[:, None] * h
        shift, drawn = beta @ h, gamma @ h
        # M^-1 = I + h' (I - weighted h')^-1 weighted (Woodbury): a batch of one is Sherman-Morrison.
        small = torch.eye(len(h), dtype=h.dtype, device=h.device) - weighted @ h.T
        undo = h.T @ torch.linalg.solve(small, weighted)

        self.U -= (self.U @ h.T) @ weighted
        self.inverse += undo @ self.inverse
        self.V.index_add_(0, labels, -gamma[:, None] * (h @ self.inverse))
        self.omega -= weighted.T @ (h @ self.omega) + shift

        same = (labels[:, None] == labels).to(h)
        own = rows.T @ (gamma[:, None] * h)  # sum_i gamma_i W_(y_i) h_i'
        self.Q -= weighted.T @ (h @ self.Q)
        self.Q -= (self.Q @ h.T) @ weighted
        self.wbar -= weighted.T @ (h @ self.wbar)
        own -= weighted.T @ (h @ own)
        cross = torch.outer(self.wbar, shift) + own - torch.outer(shift, drawn)
        pulls = gamma[:, None] * h
        self.Q += len(self.V) * torch.outer(shift, shift) + pulls.T @ same @ pulls - cross - cross.T
        self.wbar -= len(self.V) * shift + drawn
        if float(self.U.norm() * self.inverse.norm()) > self.limit * len(self.U):
            self.refactor()

    @torch.no_grad()
    def refactor(self) -> None:
        """The same W with U = I and omega = 0, and all that is kept computed anew from it, which ends rounding's
        drift."""
        self.V.copy_(self.weight())
        self.U.copy_(torch.eye(len(self.U)))
        self.inverse.copy_(self.U)
        self.omega.zero_()
        self.Q.copy_(self.V.T @ self.V)
        self.wbar.copy_(self.V.sum(0))
