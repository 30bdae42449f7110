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
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.input_checks import Blaming, check_embeddings, check_finite, check_labels, check_pairs, look
from palimpsest.contrast.precision import widened, without_autocast
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


@renamed(z="embeddings")
def nonneg_logits(
    embeddings: Float[Tensor, "batch d"], weight: Float[Tensor, "classes d"]
) -> Float[Tensor, "batch classes"]:
    """Logits of non-negative features and class weights, both through `nonneg`.

    >>> nonneg_logits(torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 1.0], [-1.0, 5.0]]))
    tensor([[3., 0.]])
    """
    check_embeddings(embeddings=embeddings, weight=weight)
    return nonneg(embeddings) @ nonneg(weight).T


@renamed(z="embeddings")
def nonneg_ce(
    embeddings: Float[Tensor, "batch d"], weight: Float[Tensor, "classes d"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Cross-entropy of `nonneg_logits`: the supervised variant; labels are from 0 to classes - 1.

    >>> nonneg_ce(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 3])).item()  # log 4
    1.386...
    """
    check_embeddings(embeddings=embeddings, weight=weight)
    labels = check_labels(labels, len(embeddings), len(weight))
    with without_autocast(embeddings):
        return F.cross_entropy(nonneg_logits(widened(embeddings), widened(weight)), labels)


def population_loss(features: Float[Tensor, "n k"], cooccurrence: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The spectral loss in expectation, for n views of which i and j are drawn as a pair with probability A_ij:

        -2 sum_ij A_ij f_i.f_j + sum_ij d_i d_j (f_i.f_j)^2  =  |A' - F F^T|^2 - |A'|^2

    A is symmetric, not negative, has something in every row, and is brought to a sum of 1.

    >>> population_loss(2**0.5 * torch.eye(2), torch.eye(2) / 2)
    tensor(-2.)
    """
    check_embeddings(features=features)
    features = widened(features)
    a = _cooccurrence(cooccurrence).to(features)
    if len(features) != len(a):
        raise ValueError(f"features must have a row for each of the {len(a)} of cooccurrence, got {len(features)}")
    with without_autocast(features):
        products, d = features @ features.T, a.sum(1)
    return -2 * (a * products).sum() + (d[:, None] * d * products.square()).sum()


class Factors(NamedTuple):
    """A non-negative factorisation of the normalised co-occurrence A'.

    Attributes:
        features: f, the non-negative minimiser of `population_loss` that was found, one row a view; float64, on the
            processor.
        ncl: |A' - F F^T|^2 / |A'|^2 of these features.
        nmf: |A' - W H|^2 / |A'|^2 of scikit-learn's NMF, whose factors need not be equal.
    """

    features: Float[Tensor, "n k"]
    ncl: float
    nmf: float


def semi_nmf_check(cooccurrence: Float[Tensor, "n n"], k: int, *, steps: int = 2000) -> Factors:
    """Minimises the population loss over non-negative features, and factorises the same matrix by scikit-learn's NMF.

    Starts from the NMF's factor of A (k dimensions, A as in `population_loss`), and goes on with as many `steps` of
    F <- F (1/2 + 1/2 A'F / F F^T F), which never raise the loss.

    >>> blocks = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))
    >>> factors = semi_nmf_check(blocks, 2)
    >>> bool((factors.features > 0.01).sum(1).eq(1).all())  # one dimension a block
    True
    """
    from sklearn.decomposition import NMF  # late, as it is slow to import

    a = _cooccurrence(cooccurrence)
    if not 1 <= k <= len(a):
        raise ValueError(f"k must be from 1 to the {len(a)} rows, got {k}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    d = a.sum(1)
    target = a / (d[:, None] * d).sqrt()
    nmf = NMF(k, init="nndsvda", tol=1e-10, max_iter=steps, random_state=0)
    w = nmf.fit_transform(target.numpy())
    h = nmf.components_
    balance = np.sqrt(np.linalg.norm(h, axis=1) / np.linalg.norm(w, axis=0).clip(1e-12))
    f = torch.from_numpy(w * balance) + 1e-4  # what is 0 would stay 0
    for _ in range(steps):
        f = f * (0.5 + 0.5 * (target @ f) / (f @ (f.T @ f)).clamp(min=1e-30))
    size = target.square().sum()
    left = ((target - f @ f.T).square().sum() / size).item()
    return Factors(f / d.sqrt()[:, None], left, float(np.square(target.numpy() - w @ h).sum() / size.item()))


def _cooccurrence(a: Tensor) -> Tensor:
    """Checked and brought to a sum of 1; in float64, on the processor."""
    if not isinstance(a, Tensor) or a.dtype.is_complex:
        raise TypeError(f"cooccurrence must be a tensor of numbers, got {getattr(a, 'dtype', type(a))}")
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not len(a):
        raise ValueError(f"cooccurrence must be [n, n], got {list(a.shape)}")
    a = a.detach().cpu().double()
    check_finite(a, "cooccurrence")
    if not bool((a >= 0).all()) or not torch.allclose(a, a.T):
        raise ValueError(f"cooccurrence must be symmetric and not negative, got a minimum of {a.min().item():g}")
    if not bool((a.sum(1) > 0).all()):
        row = int((a.sum(1) <= 0).nonzero()[0])
        raise ValueError(f"every row of cooccurrence must have something in it, row {row} has 0")
    return a / a.sum()
