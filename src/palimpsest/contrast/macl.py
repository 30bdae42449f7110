"""Model-aware contrastive learning (Huang, Chen, Wen, Zhang, Li, Wang and Chen, 2022, arXiv 2207.07874).

A small temperature spreads embeddings out but punishes near neighbours, which may be of the same class; a large one
tolerates them but separates less (the uniformity-tolerance dilemma). And InfoNCE's gradient carries a factor W that
dies away with few or easy negatives. The temperature here follows how well the model already aligns its positives,
and a constant weight V on each sample cancels W:

    A = mean_i z_i . z_i+            tau = tau0 (1 + alpha (A - A0))
    W_i = sum of the negatives' probabilities = 1 - P_i(positive)
    L = mean_i V_i l_i,   V_i = 1 / W_i,   l_i = -log P_i(positive) at tau          A and V without a gradient

The gradient of V_i l_i is that of decoupled contrastive learning at the same tau. The authors' code has this form,
with V = 1 / (1 - P) and nothing that bounds it; here W is at least `floor`, so that a sample that is solved does not
divide by 0. (An earlier version of their code also offered tau0 2^A as temperature.)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.input_checks import Blaming, check_embeddings, check_pairs, check_positive, look
from palimpsest.contrast.precision import widened
from palimpsest.metrics.probes import tolerance, uniformity
from palimpsest.renamed import renamed


@renamed(z1="query", z2="key")
def alignment(query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
    """A = mean_i cos(q_i, k_i), from -1 to 1, without a gradient.

    >>> alignment(torch.eye(2), torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
    tensor(0.5000)
    """
    check_pairs(query=query, key=key, values=False)
    aligned = _alignment(query, key)
    look(aligned, query=query, key=key)
    return aligned


def _alignment(query: Tensor, key: Tensor) -> Float[Tensor, ""]:
    return F.cosine_similarity(widened(query.detach()), widened(key.detach())).mean()


def adaptive_tau(
    aligned: float | Float[Tensor, ""], tau0: float = 0.1, alpha: float = 0.5, a0: float = 0.0
) -> float | Float[Tensor, ""]:
    """tau0 (1 + alpha (A - A0)): the better the positives are aligned, the softer the penalty on near negatives.

    Args:
        aligned: A, the batch's `alignment`.
        tau0: the base of the temperature, which it has at A = A0; above 0.
        alpha: how far the temperature follows, not negative; 0 keeps it at tau0.
        a0: A0, the alignment from which on the temperature is above tau0.

    Raises:
        ValueError: for a tau0, an alpha or a resulting temperature out of range.

    >>> adaptive_tau(0.0), adaptive_tau(1.0), adaptive_tau(1.0, alpha=0.0)
    (0.1, 0.15..., 0.1)
    """
    check_positive(tau0, "tau0")
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be finite and not negative, got {alpha}")
    tau = tau0 * (1 + alpha * (aligned - a0))
    if not torch.compiler.is_compiling() and not tau > 0:
        raise ValueError(
            f"the temperature of alignment {float(aligned):.3g}, alpha {alpha} and a0 {a0} must be above 0, got"
            f" {float(tau)}"
        )
    return tau


@renamed(z1="query", z2="key")
def macl_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    tau0: float = 0.1,
    alpha: float = 0.5,
    a0: float = 0.0,
    *,
    reweight: bool = True,
    floor: float = 1e-2,
    reduction: str = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " views"]:
    """mean_i V_i l_i: NT-Xent at the adaptive temperature, every view weighted by 1 / max(W_i, floor).

    Args:
        query, key: two views, row by row a pair; brought to norm 1 here.
        tau0, alpha, a0: of `adaptive_tau`; tau0 is the base from which the temperature departs, not the temperature.
        reweight: without it V is 1: NT-Xent at the adaptive temperature, and with alpha = 0 at tau0.
        floor: the least W, above 0 and at most 1; below it a view's gradient fades as in NT-Xent.
        reduction: "mean", "sum", or "none" for the 2 batch values, the first view's first.

    Raises:
        ValueError, TypeError: shapes, dtypes, values that are not finite, a batch of fewer than two pairs, parameters
            out of range.

    >>> a = torch.eye(3)  # aligned: tau = 0.5 and P = e^2 / (e^2 + 4)
    >>> macl_loss(a, a, tau0=0.25, alpha=1.0).item()  # 0.4325 / 0.3512
    1.2318...
    """
    check_pairs(least=2, query=query, key=key, values=False)
    if not 0 < floor <= 1:
        raise ValueError(f"floor must be above 0 and at most 1, got {floor}")
    with Blaming(query=query, key=key):
        tau = adaptive_tau(_alignment(query, key), tau0, alpha, a0)
    if not reweight:
        return nt_xent(query, key, tau, reduction=reduction)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
    values = nt_xent(query, key, tau, reduction="none")
    scaling = -torch.expm1(-values.detach())  # W
    weighted = values / scaling.clamp(min=floor)
    return weighted if reduction == "none" else weighted.mean() if reduction == "mean" else weighted.sum()


@renamed(features="embeddings")
def uniformity_tolerance(embeddings: Float[Tensor, "rows d"], labels: Int[Tensor, " rows"]) -> tuple[float, float]:
    """Both sides of the dilemma: (uniformity, tolerance).

    Uniformity is log mean e^{-2 |x - y|^2} over pairs of different rows (lower: more spread out), tolerance the mean
    cosine of pairs of one class (higher: rows of a class stay near each other). Rows are brought to norm 1.

    Args:
        embeddings, labels: at least two rows, and a class with two of them.

    >>> uniformity_tolerance(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 0]))
    (-8.0, -1.0)
    """
    check_embeddings(embeddings=embeddings)
    return uniformity(embeddings), tolerance(embeddings, labels)
