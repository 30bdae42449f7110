"""Negative preference optimisation (Zhang, Lin, Bai and Mei, 2024, arXiv 2404.05868).

Gradient ascent pushes a forget answer down without end, and the model with it. NPO treats the answer as the
rejected half of a preference pair that has no chosen half, so that each row's push fades as it is forgotten:

    L = -(2/beta) mean log sigmoid(-beta log(pi(y|x) / pi_ref(y|x)))                                    (Eq. 3)
    grad L = mean W grad log pi,    W = 2 pi^beta / (pi^beta + pi_ref^beta)  in (0, 2)

As beta -> 0 this is gradient ascent. The paper's best variant, NPO-RT, adds cross-entropy on the retain rows.
pi_ref, the model before unlearning, enters only through one number a row, computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.forget.procedure import Batch, ForgetData
from palimpsest.forget.retain_term import Retain, reference_logprobs
from palimpsest.models.score import answer_logprobs
from palimpsest.train.ranges import Above


def npo_loss(nll: Float[Tensor, "batch"], ref_nll: Float[Tensor, "batch"], beta: float = 0.1) -> Float[Tensor, ""]:
    """-(2/beta) mean log sigmoid(beta (nll - ref_nll)): at least 0, and (2/beta) log 2 where nothing has changed.

    Args:
        nll: summed negative log-likelihood of each forget answer under the model, in nats, not divided by length.
        ref_nll: the same under the model before unlearning, without gradient.
        beta: inverse temperature, above 0.

    >>> nll = torch.tensor([3.0, 5.0])
    >>> torch.isclose(npo_loss(nll, nll, beta=0.5), 4 * torch.log(torch.tensor(2.0)))
    tensor(True)
    """
    _check(nll, ref_nll, beta)
    return -(2 / beta) * F.logsigmoid(beta * (nll - ref_nll)).mean()


def npo_weight(
    nll: Float[Tensor, "batch"], ref_nll: Float[Tensor, "batch"], beta: float = 0.1
) -> Float[Tensor, "batch"]:
    """W = 2 pi^beta / (pi^beta + pi_ref^beta), the factor on each row's gradient-ascent step: 1 at the start, towards
    0 once the row is forgotten. Arguments as for `npo_loss`.

    >>> npo_weight(torch.tensor([3.0, 2000.0]), torch.tensor([3.0, 3.0]))
    tensor([1., 0.])
    """
    _check(nll, ref_nll, beta)
    return 2 * torch.sigmoid(beta * (ref_nll - nll))


def npo_total(
    nll: Float[Tensor, "batch"],
    ref_nll: Float[Tensor, "batch"],
    retain_term: Float[Tensor, ""] | None = None,
    beta: float = 0.1,
    retain_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """NPO plus `retain_weight` times a retain term: cross-entropy on the retain rows (NPO-RT), or KL(ref || model) on
    them; alone if `retain_term` is None."""
    loss = npo_loss(nll, ref_nll, beta)
    return loss if retain_term is None else loss + retain_weight * retain_term


def _check(nll: Tensor, ref_nll: Tensor, beta: float) -> None:
    if nll.ndim != 1 or nll.shape != ref_nll.shape:
        raise ValueError(f"nll and ref_nll must be [batch] each, got {tuple(nll.shape)} and {tuple(ref_nll.shape)}")
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")


@dataclass(frozen=True)
class NPO(Retain):
    """NPO with a retain term: NPO-RT by default, plain NPO with retain="none".

    Attributes:
        beta: inverse temperature: how far an answer's log-probability falls before its push fades (the smaller, the
            farther; the paper uses 0.1).
    """

    beta: Annotated[float, Above(0)] = 0.1

    def init(self, model: nn.Module, data: ForgetData) -> dict[str, Any]:
        return {
            "ref_nll": -reference_logprobs(model, data.forget, data.pad_id),
            "reference": self.reference(model),
        }

    def loss(self, state: dict[str, Any], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        rows = batch["forget"]
        logp, _ = answer_logprobs(model, rows)
        forget = npo_loss(-logp, state["ref_nll"][rows["index"]], self.beta)
        return {"forget": forget, **self.retain_term(state["reference"], model, batch)}


def logistic_divergence(
    steps: int,
    lr: float,
    loss: Literal["ga", "npo"] = "npo",
    *,
    beta: float = 1.0,
    n: int = 20,
    d: int = 100,
    seed: int = 0,
) -> Float[Tensor, "steps+1"]:
    """How far the parameters of a logistic model travel while it unlearns: the setting of the paper's theory
    (Theorem 2), in which ascent moves linearly in the number of steps and NPO only logarithmically.

    `p(y|x) = sigmoid(y <x, theta>)`, y in {-1, 1}, n unit-norm inputs in d > n dimensions (nearly orthogonal, as the
    theorem assumes). theta_0 classifies all rows with margin 2; full-batch gradient descent on `loss` follows.

    Returns:
        |theta_t - theta_0| for t = 0 .. steps.

    Raises:
        ValueError: if the step size or the sizes are out of range, or the loss is unknown.
    """
    if steps < 1 or not lr > 0 or not beta > 0:
        raise ValueError(f"need steps >= 1, lr > 0 and beta > 0, got steps={steps}, lr={lr}, beta={beta}")
    if not 1 <= n < d:
        raise ValueError(f"need 1 <= n < d, so that the rows can be nearly orthogonal, got n={n}, d={d}")
    if loss not in ("ga", "npo"):
        raise ValueError(f"loss must be 'ga' or 'npo', got {loss!r}")
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    y = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
    start = torch.linalg.pinv(x) @ (2 * y)
    theta = start.clone()
    ref_nll = F.softplus(-y * (x @ start))
    distance = [0.0]
    for _ in range(steps):
        margin = y * (x @ theta)
        weight = torch.ones(n) if loss == "ga" else npo_weight(F.softplus(-margin), ref_nll, beta)
        grad_logp = (torch.sigmoid(-margin) * y)[:, None] * x
        theta = theta - lr * (weight[:, None] * grad_logp).mean(0)
        distance.append((theta - start).norm().item())
    return torch.tensor(distance)
