"""A network that is pruned without missing more of the class that matters (Entezari and Saukh 2019, arXiv 1909.10364).

Pruning keeps accuracy and pays with the rare class. So each round trains with a loss that names the two errors, and
with an approximation of the area under the ROC curve, and weighs misses so that they stay at the dense network's:

    L = w_fn mean_pos softplus(-s) + w_fp mean_neg softplus(s)
        + mu mean_(pos, neg) max(0, gap - (sigmoid(s_pos) - sigmoid(s_neg)))^power

Rounds of training, removing the smallest weights of each layer and rewinding the others repeat, as for lottery tickets
(Frankle and Carbin 2019), in `palimpsest.classify.class_compress_rounds`. The paper's own combination of the parts is
not published as code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.train.ranges import Above, AtLeast, AtMost, check_fields


def fn_fp_loss(
    logits: Float[Tensor, " batch"], labels: Int[Tensor, " batch"], w_fn: float = 1.0, w_fp: float = 1.0
) -> Float[Tensor, ""]:
    """Differentiable stand-ins for the shares of positives that are missed and of negatives that are reported. A batch
    without rows of a kind has no term for it.

    Args:
        labels: 1 for the class that matters, 0 for the rest.

    Raises:
        ValueError: shapes that do not fit, or negative weights.

    >>> fn_fp_loss(torch.zeros(3), torch.tensor([1, 0, 0]), w_fn=3.0) / torch.tensor(2.0).log()
    tensor(4.)
    """
    positive = _positive(logits, labels)
    if min(w_fn, w_fp) < 0:
        raise ValueError(f"weights must not be negative, got {w_fn} and {w_fp}")
    return w_fn * _mean(F.softplus(-logits[positive])) + w_fp * _mean(F.softplus(logits[~positive]))


def auc_surrogate(
    logits: Float[Tensor, " batch"], labels: Int[Tensor, " batch"], gap: float = 0.3, power: float = 2.0
) -> Float[Tensor, ""]:
    """The mean over pairs of a positive and a negative of how far the positive's sigmoid is from being `gap` above the
    negative's, to the power (Yan et al. 2003); 0 without a pair.

    Raises:
        ValueError: shapes that do not fit, or a gap that is not in (0, 1].

    >>> auc_surrogate(torch.zeros(2), torch.tensor([1, 0]), gap=0.5)
    tensor(0.2500)
    """
    positive = _positive(logits, labels)
    if not 0 < gap <= 1:
        raise ValueError(f"gap must be in (0, 1], got {gap}")
    scores = logits.sigmoid()
    above = scores[positive][:, None] - scores[~positive]
    return _mean((gap - above).clamp(min=0).pow(power))


@dataclass(frozen=True)
class ClassDependentLoss:
    """The two errors and the pairs, of logits [batch, 1] and labels of 0 and 1: what `Supervised` compares by."""

    w_fn: Annotated[float, AtLeast(0)] = 1.0
    """The weight of misses."""
    w_fp: Annotated[float, AtLeast(0)] = 1.0
    """The weight of false reports."""
    mu: Annotated[float, AtLeast(0)] = 1.0
    """The weight of the pairs."""
    gap: Annotated[float, Above(0), AtMost(1)] = 0.3
    """By how much a positive's sigmoid should be above a negative's."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        scores = logits.squeeze(1)
        errors = fn_fp_loss(scores, labels, self.w_fn, self.w_fp)
        return errors + self.mu * auc_surrogate(scores, labels, self.gap)


def error_rates(logits: Float[Tensor, " n"], labels: Int[Tensor, " n"]) -> dict[str, float]:
    """ "fn", the share of positives whose logit is not above 0; "fp", that of negatives whose logit is; "accuracy".

    >>> error_rates(torch.tensor([1.0, -1.0, -1.0]), torch.tensor([1, 1, 0]))["fn"]
    0.5
    """
    positive, said = _positive(logits, labels), logits > 0
    rates = {"fn": _mean((~said[positive]).double()), "fp": _mean(said[~positive].double())}
    return {
        **{name: float(rate) for name, rate in rates.items()},
        "accuracy": float((said == positive).double().mean()),
    }


def _positive(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.ndim != 1 or labels.shape != logits.shape or not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"need logits [batch] and labels of 0 and 1, got {list(logits.shape)}, {list(labels.shape)}")
    return labels == 1


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)
