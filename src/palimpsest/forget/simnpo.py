"""Simple negative preference optimisation (Fan, Liu, Lin, Jia, Zhang, Mei and Liu, 2024, arXiv 2410.07163).

NPO weighs a row by how far it has moved from the reference, not by what the model still knows of it: long answers and
answers that were never memorised get as much push as short and well-known ones (the reference-model bias). SimNPO
drops the reference and judges the answer's own log-probability per token:

    L = -(2/beta) mean log sigmoid(-(beta/|y|) log pi(y|x) - gamma)                                       (Eq. 4)
    grad L = mean W grad log pi,    W = (2/|y|) s / (1 + s),  s = exp(gamma) pi^(beta/|y|)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.forget.procedure import Batch
from palimpsest.forget.retain_term import Retain
from palimpsest.models.score import answer_logprobs
from palimpsest.train.ranges import Above


def simnpo_loss(
    logp: Float[Tensor, "batch"], length: Int[Tensor, "batch"], beta: float = 2.5, gamma: float = 0.0
) -> Float[Tensor, ""]:
    """-(2/beta) mean log sigmoid(-beta logp / length - gamma).

    Args:
        logp: summed log-probability of each forget answer, in nats.
        length: its number of tokens; rows of length 0 are dropped (the loss is 0 if none is left).
        beta: inverse temperature, above 0.
        gamma: margin of the reward: with gamma > 0 the answers are pushed further down. The paper's, beside beta; the
            authors' code has its gamma inside beta's bracket: gamma here is beta times the code's.

    >>> loss = simnpo_loss(torch.tensor([-2.0, -8.0]), torch.tensor([2, 8]), beta=1.0)  # one nat a token, both
    >>> torch.isclose(loss, 2 * torch.log1p(torch.exp(torch.tensor(-1.0))))
    tensor(True)
    """
    _check(logp, length, beta)
    kept = length > 0
    reward = -beta * logp[kept] / length[kept] - gamma
    return -(2 / beta) * F.logsigmoid(reward).sum() / kept.sum().clamp(min=1)


def simnpo_weight(
    logp: Float[Tensor, "batch"], length: Int[Tensor, "batch"], beta: float = 2.5, gamma: float = 0.0
) -> Float[Tensor, "batch"]:
    """W, the factor on each row's gradient-ascent step: smaller for long answers, and for answers that are already
    unlikely. 0 for rows of length 0. Arguments as for `simnpo_loss`.

    >>> simnpo_weight(torch.tensor([0.0, 0.0]), torch.tensor([1, 4]))
    tensor([1.0000, 0.2500])
    """
    _check(logp, length, beta)
    tokens = length.clamp(min=1)
    weight = 2 * torch.sigmoid(beta * logp / tokens + gamma) / tokens
    return torch.where(length > 0, weight, torch.zeros_like(weight))


def _check(logp: Tensor, length: Tensor, beta: float) -> None:
    if logp.ndim != 1 or logp.shape != length.shape:
        raise ValueError(f"logp and length must be [batch] each, got {tuple(logp.shape)} and {tuple(length.shape)}")
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")


@dataclass(frozen=True)
class SimNPO(Retain):
    """w SimNPO(f) plus the retain term, cross-entropy by default. The defaults are the authors' for TOFU.

    Attributes:
        beta: inverse temperature.
        gamma: margin of the reward, beta times the authors' code's; see `simnpo_loss`.
        forget_weight: w. Small models that must forget within some tens of steps need more than 0.125.
    """

    beta: Annotated[float, Above(0)] = 4.5
    gamma: float = 0.0
    forget_weight: Annotated[float, Above(0)] = 0.125

    def loss(self, state: nn.Module | None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logp, length = answer_logprobs(model, batch["forget"])
        forget = self.forget_weight * simnpo_loss(logp, length, self.beta, self.gamma)
        return {"forget": forget, **self.retain_term(state, model, batch)}
