"""The sigmoid loss for images and texts (Zhai, Mustafa, Kolesnikov and Beyer, 2023, SigLIP, arXiv 2303.15343).

CLIP's softmax compares each pair with the whole batch. Here every pair of an image and a text is a yes-or-no question
of its own, so that no normaliser ties the batch together, small batches lose less, and devices exchange texts only:

    L = -(1/B) sum_ij log sigmoid( z_ij (e^{t'} x_i . y_j + b) ),      z_ij = 1 where i = j, else -1

With B - 1 negatives for each positive, learning would begin by bringing all scores down; b starts at -10, where the
negatives cost next to nothing. The sum is divided by B, not by the number of pairs. (The paper prints the score as
-t x.y + b inside of 1 / (1 + e^...), with the opposite sign for b; its listing and its code have it as above.)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.contrast.input_checks import Blaming, check_pairs, unit_rows
from palimpsest.contrast.sigmoid import sigmoid_nce
from palimpsest.contrast.streaming import OfPairs
from palimpsest.lazy import front_door
from palimpsest.renamed import renamed

T_PRIME, BIAS = math.log(10), -10.0  # where scale and bias start


@renamed(img="query", txt="key")
def sigmoid_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    t_prime: float | Float[Tensor, ""] = T_PRIME,
    b: float | Float[Tensor, ""] = BIAS,
    *,
    mask: OfPairs | None = None,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """-(1/B) sum_ij log sigmoid( z_ij (e^{t'} q_i . k_j + b) ), streamed.

    Args:
        query, key: images and texts, unit-norm, row by row a pair.
        t_prime, b: log(1 / temperature) and a bias: numbers, or tensors of one element, which get a gradient.
        mask: which pairs count (True), as `keep_negatives` makes it; the divisor stays B.
        normalize: bring rows to norm 1; otherwise they must have it.

    Raises:
        ValueError, TypeError: what does not fit, with its value.

    >>> z = torch.eye(2)
    >>> expected = 2 * F.softplus(torch.tensor(-1.0)) + 2 * F.softplus(torch.tensor(0.0))  # scores 1 and 0
    >>> torch.isclose(sigmoid_loss(z, z, t_prime=0.0, b=0.0), expected / 2)
    tensor(True)
    """
    check_pairs(query=query, key=key, values=False)
    with Blaming(query=query, key=key):
        query, key = unit_rows(normalize, query=query, key=key)
        return sigmoid_nce(query, key, t_prime, b, mask=mask)


class SigmoidLoss(nn.Module):
    """`sigmoid_loss` with its learnable scale and bias.

    Args:
        t_prime, b: where they start; None leaves the bias out.
        normalize: bring rows to norm 1; otherwise they must have it.

    >>> sorted(name for name, _ in SigmoidLoss().named_parameters())
    ['b', 't_prime']
    """

    def __init__(self, t_prime: float = T_PRIME, b: float | None = BIAS, *, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.t_prime = nn.Parameter(torch.tensor(float(t_prime)))
        self.b = None if b is None else nn.Parameter(torch.tensor(float(b)))

    @renamed(img="query", txt="key")
    def forward(
        self, query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"], *, mask: OfPairs | None = None
    ) -> Float[Tensor, ""]:
        return sigmoid_loss(
            query, key, self.t_prime, 0.0 if self.b is None else self.b, mask=mask, normalize=self.normalize
        )


_MOVED = {
    "contrast.siglip_chunked": ("chunked_sigmoid_loss",),
    "contrast.siglip_measures": ("MODES", "SoftmaxLoss", "T_SOFTMAX", "keep_negatives", "softmax_loss"),
    "metrics.probes": ("zero_shot",),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
