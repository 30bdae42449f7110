"""FLAT, loss adjustment with only forget data (Wang, Wei, Liu, Pang, Liu, Shah, Bao, Liu and Wei, 2024, arXiv
2410.11143).

Ascent says what not to answer and nothing about what to answer instead; retain rows and reference models, which others
add, are often not to be had. FLAT sees each forget prompt with two answers, a template ("I don't know.") and the one to
forget, and moves the model so that an f-divergence between them grows, in its variational form:

    L = -g(P_e) + f*(g(P_f))                                                                            (Eq. 5)

P_e and P_f are the mean probability (not its logarithm) that the model gives to the right token of the template, and of
the answer to forget. With g and f* of each divergence in the authors' code,

    kl       exp(P_f - 1) - P_e                              g(v) = v,                      f*(u) = exp(u - 1)
    tv       (tanh P_f - tanh P_e) / 2                       g(v) = tanh(v) / 2,            f*(u) = u
    js       log(1 + e^-P_e) + log(1 + e^P_f) - 2 log 2      g(v) = log 2 - log(1 + e^-v),  f*(u) = -log(2 - e^u)
    pearson  P_f^2 / 4 + P_f - P_e                           g(v) = v,                      f*(u) = u^2 / 4 + u

All fall as P_e rises and rise with P_f. Because probabilities enter and not logarithms, the pull on a token fades as
its probability goes to 0: the loss is bounded, where the loss of gradient ascent is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.forget.procedure import Batch
from palimpsest.models.score import token_logprobs
from palimpsest.train.method import Objective

Divergence = Literal["kl", "tv", "js", "pearson"]
DIVERGENCES = get_args(Divergence)


def variational(value: Float[Tensor, "..."], div: Divergence = "kl") -> Float[Tensor, "..."]:
    """g(v), the variational function of a divergence.

    >>> variational(torch.tensor([0.0, 1.0]), "js")
    tensor([0.0000, 0.3799])
    """
    _check(div)
    if div == "tv":
        return torch.tanh(value) / 2
    return math.log(2) - F.softplus(-value) if div == "js" else value


def conjugate(value: Float[Tensor, "..."], div: Divergence = "kl") -> Float[Tensor, "..."]:
    """f*(g(v)), the convex conjugate of a divergence at its variational function.

    >>> conjugate(torch.tensor([0.0, 1.0]), "pearson")
    tensor([0.0000, 1.2500])
    """
    _check(div)
    if div == "kl":
        return torch.exp(value - 1)
    if div == "tv":
        return torch.tanh(value) / 2
    # -log(2 - e^g(v)) = v + log(1 + e^-v) - log 2, and the first two are softplus(v)
    return F.softplus(value) - math.log(2) if div == "js" else value.square() / 4 + value


def flat_loss(
    p_template: Float[Tensor, "batch"], p_forget: Float[Tensor, "batch"], div: Divergence = "kl"
) -> Float[Tensor, ""]:
    """-g(P_e) + f*(g(P_f)), P_e and P_f the means over the batch; the gradient flows through both.

    Args:
        p_template: each row's mean probability of the template's tokens, in [0, 1].
        p_forget: the same of the answer to forget, after the same prompt.
        div: the divergence.

    Raises:
        ValueError: if a probability is missing or out of its range, or the divergence is unknown.

    >>> loss = flat_loss(torch.tensor([1.0]), torch.tensor([0.0]), "kl")
    >>> torch.isclose(loss, torch.exp(torch.tensor(-1.0)) - 1)
    tensor(True)
    """
    for name, p in (("p_template", p_template), ("p_forget", p_forget)):
        if p.ndim != 1 or len(p) == 0:
            raise ValueError(f"{name} must be [batch] with at least one row, got {list(p.shape)}")
        if not ((p >= 0) & (p <= 1 + 1e-6)).all():
            raise ValueError(f"{name} must hold probabilities, got {p.tolist()}")
    return conjugate(p_forget.mean(), div) - variational(p_template.mean(), div)


def mean_probability(model: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, "batch"]:
    """Each row's probability of the right token, averaged over the answer's tokens; 0 for a row without answer.

    (The authors' code divides by the length of the padded row, prompt included; the paper's P, this one, by the
    answer's.)

    >>> from palimpsest.models import Encoded, causal_lm
    >>> rows = Encoded([[1, 5, 6, 2], [1, 7, 2]], [2, 1]).batch([0, 1], pad_id=0)
    >>> mean_probability(causal_lm(10, d_model=16, n_layers=1, n_heads=2), rows).shape
    torch.Size([2])
    """
    scored = batch["labels"][:, 1:] != -100
    # Unlabelled positions come as log-probability 0, which would count as certain.
    p = token_logprobs(model, batch).exp() * scored
    return p.sum(1) / scored.sum(1).clamp(min=1)


def _check(div: str) -> None:
    if div not in DIVERGENCES:
        raise ValueError(f"div must be one of {', '.join(DIVERGENCES)}, got {div!r}")


@dataclass(frozen=True)
class FLAT(Objective):
    """FLAT on the forget rows and a refusal drawn for each; neither retain rows nor a reference model.

    The two means are over the batch, and g and f* are not linear: an accumulated batch is close to the joint one, not
    equal to it (but for the part that is linear).

    Attributes:
        div: the divergence: "kl", "tv" (total variation), "js" (Jensen-Shannon) or "pearson".
    """

    div: Divergence = "kl"
    needs: ClassVar[frozenset[str]] = frozenset({"refusal"})

    def loss(self, state: None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        p_template, p_forget = (mean_probability(model, batch[name]).mean() for name in ("refusal", "forget"))
        return {"template": -variational(p_template, self.div), "forget": conjugate(p_forget, self.div)}
