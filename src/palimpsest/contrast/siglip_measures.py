"""What SigLIP is compared with and studied by: the softmax of CLIP, fewer negatives a positive, and naming by prompts
(Zhai et al. 2023, arXiv 2303.15343; the loss is in `palimpsest.contrast.siglip`)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.input_checks import Blaming, check_finite, check_pairs, one_number, unit_rows
from palimpsest.contrast.precision import wide_dtype, widened
from palimpsest.metrics.probes import zero_shot as zero_shot
from palimpsest.renamed import renamed

T_SOFTMAX = math.log(1 / 0.07)  # where the scale starts
MODES = ("random", "hard", "easy")


@renamed(img="query", txt="key", t="log_scale")
def softmax_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    log_scale: float | Float[Tensor, ""] = T_SOFTMAX,
    *,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """CLIP's loss, the baseline: cross-entropy of the scores e^log_scale q_i . k_j, the mean of both directions.

    Args:
        query, key: images and texts, unit-norm, row by row a pair.
        log_scale: log(1 / temperature); a tensor of one element gets a gradient.
        normalize: bring rows to norm 1; otherwise they must have it.

    >>> z = torch.eye(3)
    >>> softmax_loss(z, z, log_scale=0.0).item()  # -1 + log(e + 2)
    0.5514...
    """
    check_pairs(query=query, key=key, values=False)
    scale = torch.as_tensor(one_number(log_scale, "log_scale"), dtype=wide_dtype(query), device=query.device).exp()
    try:
        with Blaming(query=query, key=key):
            query, key = unit_rows(normalize, query=query, key=key)
            return info_nce(query, key, 1 / scale, symmetric=True)
    except ValueError:
        check_finite(scale, "the scale e^log_scale")
        raise


class SoftmaxLoss(nn.Module):
    """`softmax_loss` with its learnable scale; `t` is where its logarithm starts, `normalize` as for `SigmoidLoss`.

    >>> SoftmaxLoss().t.exp().item()
    14.28...
    """

    def __init__(self, t: float = T_SOFTMAX, *, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.t = nn.Parameter(torch.tensor(float(t)))

    @renamed(img="query", txt="key")
    def forward(self, query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
        return softmax_loss(query, key, self.t, normalize=self.normalize)


@renamed(img="query", txt="key")
@torch.no_grad()
def keep_negatives(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    mode: str = "random",
    ratio: float = 1.0,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch batch"]:
    """Which pairs count when only round(ratio * B) of the batch's B (B - 1) negatives do; all positives count.

    Args:
        query, key: images and texts, unit-norm, row by row a pair.
        mode: "random" negatives are kept, or those with the highest scores ("hard"), or with the lowest ("easy").
        ratio: negatives kept a positive, from 0 to B - 1.
        generator: of the random ones; the global one by default.

    >>> z = F.normalize(torch.randn(8, 3), dim=1)
    >>> keep_negatives(z, z, "hard", ratio=2).sum().item()
    24
    """
    check_pairs(query=query, key=key)
    n = len(query)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 0 <= ratio <= n - 1:
        raise ValueError(f"ratio must be from 0 to {n - 1} for a batch of {n}, got {ratio}")
    if mode == "random":
        device = query.device if generator is None else generator.device
        order = torch.rand(n, n, generator=generator, device=device).to(query.device)
    else:
        scores = widened(query) @ widened(key).T
        order = scores if mode == "hard" else -scores
    kept = order.fill_diagonal_(-torch.inf).flatten().topk(round(ratio * n)).indices
    mask = torch.eye(n, dtype=torch.bool, device=query.device)
    mask.view(-1)[kept] = True
    return mask
