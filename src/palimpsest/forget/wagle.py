"""WAGLE: weight attribution for unlearning (Jia, Liu, Zhang, Ram, Baracaldo and Liu, 2024, arXiv 2410.17509).

Which weights should unlearning move? Those whose removal would cost the forgotten rows most once the kept rows have
been learned again. Zero weight i, let the retained problem re-optimise with a diagonal Hessian mu, and the forget loss
changes to first order by

    S_i = | (theta_i - g_r,i / mu) g_f,i |                                                          (after Eq. 7)

g_f and g_r: mean gradients of the forget and of the retain loss at the original weights. The top `keep` share of all
weights trains, by whatever objective, and the rest stays, to the bit. The paper ranks S with its sign; its code takes
the absolute value, as here. Large mu ranks by |theta g_f| (the weights as they are), small mu by |g_r g_f|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from palimpsest.forget.baselines import IDK, GradAscent
from palimpsest.forget.masks import Masks, apply_masks, gradients, kth_largest, squared_gradients, top_fraction
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import Batch, ForgetData
from palimpsest.forget.wagle_measures import baseline_mask
from palimpsest.models.score import Encoded
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost

FISHER_ROWS = 128


def wagle_scores(
    model: nn.Module,
    forget: Encoded,
    retain: Encoded,
    mu: float | None = None,
    *,
    pad_id: int,
    batch_size: int = 16,
) -> dict[str, Float[Tensor, "..."]]:
    """S of every trainable weight, by parameter name; see the module.

    Args:
        forget: what the forget loss's cross-entropy is taken on: the forget rows, or, where the objective teaches
            refusals, the forget prompts with refusals.
        retain: rows to keep.
        mu: the diagonal Hessian of the mean retain loss, above 0; None is `fisher_median` of the retain rows. The
            authors' code divides the *sum* of B batches' mean gradients by its mu: their 1e-6 on TOFU is 1e-6 / B here.

    Raises:
        ValueError: if mu is not above 0, or as `palimpsest.forget.masks.gradients`.

    >>> from palimpsest.models import causal_lm
    >>> rows = Encoded([[1, 5, 6, 2], [1, 7, 8, 2]], [2, 2])
    >>> scores = wagle_scores(causal_lm(10, d_model=16, n_layers=1), rows.subset([0]), rows.subset([1]), pad_id=0)
    >>> all((score >= 0).all() for score in scores.values())
    True
    """
    if mu is None:
        mu = fisher_median(model, retain, pad_id=pad_id)
    if not mu > 0:
        raise ValueError(f"mu must be above 0, got {mu}")
    weights = dict(model.named_parameters())
    g_f, g_r = (gradients(model, rows, pad_id=pad_id, batch_size=batch_size) for rows in (forget, retain))
    # In place: of a large model three copies are in memory, never four.
    return {name: g.div_(-mu).add_(weights[name].detach()).mul_(g_f[name]).abs_() for name, g in g_r.items()}


def fisher_median(model: nn.Module, rows: Encoded, *, pad_id: int) -> float:
    """The median of the diagonal empirical Fisher matrix over the weights where it is not 0 (embeddings of words that
    no row has would decide it otherwise), from at most 128 rows spread over all."""
    chosen = [i * len(rows) // FISHER_ROWS for i in range(FISHER_ROWS)] if len(rows) > FISHER_ROWS else range(len(rows))
    squares = squared_gradients(model, rows.subset(list(chosen)), pad_id=pad_id).values()
    positive = sum(int((s > 0).sum()) for s in squares)
    if positive == 0:
        raise ValueError("the retain loss has no gradient anywhere, so mu cannot be estimated: give mu")
    return kth_largest(squares, (positive + 1) // 2)


def wagle_mask(scores: dict[str, Float[Tensor, "..."]], keep: float = 0.8) -> dict[str, Bool[Tensor, "..."]]:
    """Masks of the top `keep` share of the scores over all parameters together: True where a weight may move.

    >>> wagle_mask({"a": torch.tensor([0.1, 0.9, 0.5, 0.7])}, keep=0.5)
    {'a': tensor([False,  True, False,  True])}
    """
    return top_fraction(scores, keep)


@dataclass(frozen=True)
class Wagle(Objective):
    """Another unlearning objective, restricted to the weights that attribution picks at the start.

    Weights that are not picked stay as they are, to the bit. With weight decay that takes
    `optimizer=palimpsest.forget.masks.sparing(...)`. The masks take a byte a weight.

    Attributes:
        objective: what is minimised: gradient difference, NPO or training on refusals, each with cross-entropy on the
            retain rows.
        keep: share of the weights that train (the authors' code takes 0.95 with NPO and gradient difference on TOFU).
        mu: Hessian of the mean retain loss in the score, one number for all weights; None estimates it from the retain
            rows' gradients. The authors' 1e-6 on TOFU stands before a sum over B batches: it is 1e-6 / B here.
        mask: how the weights are picked: "wagle", or by its baselines.
        beta: inverse temperature of NPO.
        retain_weight: weight of the retain rows' cross-entropy.
        seed: of the random mask.
    """

    objective: Literal["grad_diff", "npo", "idk"] = "npo"
    keep: Annotated[float, Above(0), AtMost(1)] = 0.8
    mu: Annotated[float | None, Above(0)] = None
    mask: Literal["wagle", "gradient", "magnitude", "wanda", "random"] = "wagle"
    beta: Annotated[float, Above(0)] = 0.1
    retain_weight: Annotated[float, AtLeast(0)] = 1.0
    seed: int = 0

    @property
    def inner(self) -> GradAscent | NPO | IDK:
        """The objective that is minimised."""
        if self.objective == "npo":
            return NPO(beta=self.beta, retain_weight=self.retain_weight)
        return (GradAscent if self.objective == "grad_diff" else IDK)(retain_weight=self.retain_weight)

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    def masks(self, model: nn.Module, data: ForgetData) -> Masks:
        """The weights that may move, at the model's present weights."""
        # Where refusals are taught, their cross-entropy is the loss whose first-order effect counts.
        forget = data.refusal if self.objective == "idk" else data.forget
        if self.mask != "wagle":
            return baseline_mask(self.mask, model, forget, self.keep, pad_id=data.pad_id, seed=self.seed)
        return wagle_mask(wagle_scores(model, forget, data.retain, self.mu, pad_id=data.pad_id), self.keep)

    def init(self, model: nn.Module, data: ForgetData) -> dict[str, Any]:
        return {"masks": self.masks(model, data), "inner": self.inner.init(model, data)}

    def loss(self, state: dict[str, Any], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.inner.loss(state["inner"], model, batch)

    def gradients(self, state: dict[str, Any], model: nn.Module) -> None:
        apply_masks(model, state["masks"])
