"""The supervised variant of non-negative contrastive learning: class weights and features through `nonneg` (Wang et al.
2024, arXiv 2403.12459)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.input_checks import check_embeddings, check_labels
from palimpsest.contrast.nonneg_cl import nonneg
from palimpsest.contrast.precision import widened, without_autocast
from palimpsest.renamed import renamed


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
