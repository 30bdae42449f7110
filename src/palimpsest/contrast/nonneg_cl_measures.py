"""What non-negative contrastive learning factorises: its loss in expectation, and the factors beside those of NMF
(Wang et al. 2024, arXiv 2403.12459)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.contrast.input_checks import check_embeddings, check_finite
from palimpsest.contrast.precision import widened, without_autocast


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
