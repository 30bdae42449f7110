"""The Z-loss: classification by the label's standard score among all outputs (de Brébisson and Vincent, 2016, arXiv
1604.08859). It is not the penalty on large logits that language models know under the same name.

    z = (o_y - mean(o)) / std(o);   L = softplus(a (b - z)) / a

It does not change with a shift or a scale of the outputs, and depends on them through o_y, s = sum o and q = sum o^2
alone. Such a loss of the spherical family needs no output but the label's: `palimpsest.classify.z_loss_output` trains
a layer of D classes at a cost that does not grow with D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.classify.logits import checked

LEAST = 1e-12  # beside the standard deviation


def z_loss(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], a: float = 1.0, b: float | None = None
) -> Float[Tensor, ""]:
    """The mean over rows of softplus(a (b - z)) / a, in float32 at least.

    Args:
        a: how sharply the loss ends once z is above b; the authors tune it, and b, to the error that counts (the label
            among the first 1, or 10, or 100).
        b: what z should reach; half of its largest possible value, sqrt(classes - 1), unless told otherwise.

    Raises:
        ValueError: shapes or labels that do not fit, or an a that is not above 0.

    >>> logits, labels = torch.tensor([[5.0, 1.0, 1.0, 1.0, 1.0]]), torch.tensor([0])  # z = sqrt(4)
    >>> z_loss(logits, labels, b=2.0).exp()
    tensor(2.)
    >>> z_loss(3 * logits + 7, labels, b=2.0).exp()
    tensor(2.)
    """
    logits = checked(logits, labels)
    variance, mean = torch.var_mean(logits, 1, correction=0)
    z = standard_score(logits.gather(1, labels[:, None])[:, 0], mean, variance)
    return squashed(z, logits.shape[1], a, b).mean()


def standard_score(own: Float[Tensor, " b"], mean: Float[Tensor, " b"], variance: Float[Tensor, " b"]) -> Tensor:
    """By how many standard deviations the label's output is above the mean; 0 where all outputs are the same.

    >>> standard_score(torch.tensor([5.0]), torch.tensor([1.0]), torch.tensor([4.0]))
    tensor([2.])
    """
    return (own - mean) / (variance.clamp(min=LEAST**2).sqrt() + LEAST)


def squashed(z: Float[Tensor, " b"], classes: int, a: float = 1.0, b: float | None = None) -> Float[Tensor, " b"]:
    """softplus(a (b - z)) / a of standard scores.

    Raises:
        ValueError: an a that is not above 0.

    >>> squashed(torch.tensor([1.0]), classes=5).exp()  # b = sqrt(4) / 2
    tensor([2.])
    """
    if not a > 0:
        raise ValueError(f"a must be above 0, got {a}")
    return F.softplus((classes - 1) ** 0.5 / 2 - z if b is None else b - z, beta=a)


def taylor_cross_entropy(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Cross-entropy of probabilities in proportion to 1 + o + o^2 / 2, the spherical loss that stands nearest to
    softmax. They are never 0, since 1 + o + o^2 / 2 is at least 1/2.

    Raises:
        ValueError: shapes or labels that do not fit.

    >>> taylor_cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).exp()  # (5 + 1) / 5
    tensor(1.2000)
    """
    logits = checked(logits, labels)
    grown = 1 + logits + logits.square() / 2
    return (grown.sum(1).log() - grown.gather(1, labels[:, None])[:, 0].log()).mean()


def topk_error(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], ks: Sequence[int] = (1, 5, 10, 20)
) -> dict[int, float]:
    """k -> the share of rows whose label is not among the k largest outputs; as large outputs stand before it.

    Raises:
        ValueError: shapes or labels that do not fit, or a k that is not from 1 to the number of classes.

    >>> topk_error(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([0, 1]), ks=[1, 2])
    {1: 0.5, 2: 0.0}
    """
    logits = checked(logits, labels)
    if not all(1 <= k <= logits.shape[1] for k in ks):
        raise ValueError(f"ks must be from 1 to {logits.shape[1]}, got {list(ks)}")
    own = logits.gather(1, labels[:, None])
    before = (logits >= own).sum(1) - 1
    return {k: (before >= k).double().mean().item() for k in ks}
