"""Non-negative contrastive learning (Wang, Zhang, Guo and Wang, 2024, arXiv 2403.12459).

A contrastive loss sees embeddings only through their inner products, so it fixes them up to a rotation, and a single
dimension means nothing. Non-negative embeddings cannot be rotated freely: what is left is the order of the dimensions
and their scale, and dimensions come to stand for groups of samples, as the factors of a non-negative matrix
factorisation do. The change to a method is one activation after the projector:

    f = relu(z), with the derivative of gelu, so that fewer dimensions die;   then f / |f| and the loss as before

With the spectral loss -2 E f(x).f(x+) + E (f(x).f(x'))^2 and A the co-occurrence of views, this is |A' - F F^T|^2 up
to a constant, for A' = D^{-1/2} A D^{-1/2} and F = D^{1/2} f: a symmetric non-negative factorisation.

What single dimensions then stand for is measured by `palimpsest.contrast.dimensions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.input_checks import Blaming, check_pairs, look
from palimpsest.contrast.precision import widened, without_autocast
from palimpsest.lazy import front_door
from palimpsest.renamed import renamed


def nonneg(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """relu(z) forward, the derivative of gelu backward: gelu(z), plus relu(z) - gelu(z) as a constant.

    >>> z = torch.tensor([-0.3, 2.0], requires_grad=True)
    >>> nonneg(z)
    tensor([0., 2.], grad_fn=<AddBackward0>)
    >>> torch.autograd.grad(nonneg(z).sum(), z)  # relu would give 0 and 1
    (tensor([0.2677, 1.0852]),)
    """
    smooth = F.gelu(z)
    return smooth + (F.relu(z) - smooth).detach()


class NonNegative(nn.Module):
    """`nonneg` as the last layer of a projector.

    >>> NonNegative()(torch.tensor([-1.0, 1.0]))
    tensor([0., 1.])
    """

    def forward(self, z: Tensor) -> Tensor:
        return nonneg(z)


@renamed(z1="query", z2="key")
def ncl_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    temperature: float | Tensor = 0.2,
    *,
    activation: Callable[[Tensor], Tensor] = nonneg,
    eps: float = 1e-3,
    **options: Any,
) -> Float[Tensor, ""]:
    """NT-Xent of the activated embeddings, streamed.

    A row in which nothing is active has no direction, and normalising it would give an endless gradient. It gets eps
    in norm, spread evenly over the dimensions, so that its gradient is at most 1/eps times that of its direction.

    Args:
        query, key: the projector's outputs for two views, before the activation.
        temperature: above 0.
        activation: `nonneg`, or another one to compare with (`F.relu`, whose dimensions can die).
        eps: the norm that is added to rows whose own is below it.
        options: those of `palimpsest.contrast.info_nce.info_nce`.

    >>> query, key = torch.rand(5, 3), torch.rand(5, 3)  # nothing is below 0
    >>> torch.allclose(ncl_loss(query, key), nt_xent(query, key, 0.2))
    True
    """
    check_pairs(query=query, key=key, values=False)
    if not eps > 0:
        raise ValueError(f"eps must be above 0, got {eps}")
    both = [activation(widened(z)) for z in (query, key)]
    lifted = [f + (f.norm(dim=1, keepdim=True) < eps) * (eps / f.shape[1] ** 0.5) for f in both]
    with Blaming(query=query, key=key):
        return nt_xent(*lifted, temperature, **options)


@renamed(z1="query", z2="key")
def spectral_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    *,
    activation: Callable[[Tensor], Tensor] = nonneg,
) -> Float[Tensor, ""]:
    """-2 mean_i f_i . f_i+ + mean_{i != j} (f_i . f_j+)^2 (HaoChen et al. 2021), on activated embeddings as they are,
    not normalised.

    The squares of all pairs are the inner product of two [d, d] matrices: no array of the batch by the batch is held.

    >>> spectral_loss(torch.eye(3), torch.eye(3))
    tensor(-2.)
    """
    check_pairs(least=2, query=query, key=key, values=False)
    with without_autocast(query):
        f1, f2 = (activation(widened(z)) for z in (query, key))
        own = (f1 * f2).sum(1)
        squares = ((f1.T @ f1) * (f2.T @ f2)).sum() - own.square().sum()
    loss = -2 * own.mean() + squares / (len(f1) * (len(f1) - 1))
    look(loss, query=query, key=key)
    return loss


_MOVED = {
    "contrast.dimensions": (
        "Match",
        "accuracy_kept",
        "alive",
        "class_consistency",
        "dim_correlation",
        "rotation_test",
        "select_dims",
        "sparsity",
    ),
    "contrast.nonneg_cl_measures": ("Factors", "population_loss", "semi_nmf_check"),
    "contrast.nonneg_supervised": ("nonneg_ce", "nonneg_logits"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
