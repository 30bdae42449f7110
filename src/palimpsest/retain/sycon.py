"""Two contrasts that share their negatives, the present model's and the old one's: to learn, and not to forget.

Source: Cha, Cho and Moon (2023), Sy-CON: Symmetric contrastive loss for continual self-supervised representation
learning, arXiv 2306.05101, later called Regularizing with pseudo-negatives; the predictor is that of the authors' code.

With few kinds of images in a task, negatives from the task alone teach little, and a distillation that pulls towards
the old model alone keeps new images from getting places of their own. Both terms have N, the keys of the present
momentum model and those that the old model gave the same images:

    plastic = nce(z, z_pos, N),     stable = nce(predictor(z), z_old, N)

averaged over which of two views is the query. Their sum has no weight to tune. The first task is MoCo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.continual import Present, State, everything_of
from palimpsest.retain.unlabelled import MoCo, nce, predictions


def sycon_loss(
    z: Float[Tensor, "batch d"],
    z_pos: Float[Tensor, "batch d"],
    z_old: Float[Tensor, "batch d"],
    present: Float[Tensor, "n d"],
    old: Float[Tensor, "m d"],
    temperature: float = 0.2,
    predicted: Float[Tensor, "batch d"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The plastic and the stable term; all rows of norm 1.

    Args:
        z: projections of a view by the model that learns.
        z_pos: keys of the other view, by the momentum model.
        z_old: of the same view as z, by the old model.
        present, old: negatives, by the momentum model and by the old one.
        predicted: the predictor's output for z; None for z itself.

    >>> z = torch.eye(2)
    >>> plastic, stable = sycon_loss(z, z, z, -z, -z, temperature=1.0)
    >>> round(plastic.item(), 4), bool(plastic == stable)  # log(1 + 2 e^-2 + 2 e^-1)
    (0.6964, True)
    """
    negatives = torch.cat([present, old])
    query = z if predicted is None else predicted
    return nce(z, z_pos, negatives, temperature), nce(query, z_old, negatives, temperature)


def sycon_in_batch(
    z: Float[Tensor, "views d"],
    z_old: Float[Tensor, "views d"],
    temperature: float = 0.2,
    predicted: Float[Tensor, "views d"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Both terms without a queue, as SimCLR: the negatives of a view are all others of the batch, by both models.

    Args:
        z, z_old: all first views, then all second ones, by the model that learns and by the old one, of norm 1.
        predicted: as in `sycon_loss`.

    >>> z = torch.eye(4)
    >>> [round(term.item(), 4) for term in sycon_in_batch(z, z, temperature=1.0)]  # log 6 and log(e + 6) - 1
    [1.7918, 1.1654]
    """
    n = len(z)
    itself = torch.eye(n, dtype=torch.bool, device=z.device)
    query = z if predicted is None else predicted

    def others(keys: Tensor, queries: Tensor) -> Tensor:
        return (queries @ keys.T / temperature).masked_fill(itself, -torch.inf)

    plastic = torch.cat([others(z, z), others(z_old, z)], 1)
    held = (query * z_old).sum(1, keepdim=True) / temperature
    stable = torch.cat([held, others(z_old, query), others(z, query)], 1)
    partner = (torch.arange(n, device=z.device) + n // 2) % n
    return F.cross_entropy(plastic, partner), F.cross_entropy(stable, torch.zeros_like(partner))


@dataclass(frozen=True)
class SyCON(MoCo):
    """The symmetric contrast from the second task on, with two queues that the same images feed.

    Attributes:
        size, m, temperature, view, joint: as in `MoCo`; the old model's queue is as large.
        negatives: "both" models' in both terms, or each term its "own".
    """

    negatives: Literal["both", "own"] = "both"

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if not data.number:
            return state
        # What the momentum model said last, which is the old model now but for its momentum.
        return {**state, "old": everything_of(model), "old queue": state["queue"].clone()}

    def compared(
        self, state: State, model: nn.Module, batch: dict[str, Any], z: list[Tensor], keys: Tensor
    ) -> dict[str, Tensor]:
        if "old" not in state:
            return super().compared(state, model, batch, z, keys)
        old = self.asked(state["old"], model, batch)
        state["pushed"] = {"old queue": old}
        predicted = [predictions(model, each) for each in z]
        present, before = state["queue"].to(z[0]), state["old queue"].to(z[0])
        found = []
        for view, other in ((0, 1), (1, 0)):
            if self.negatives == "both":
                rows = (z[view], keys[other], old[view], present[other], before[other])
                found.append(sycon_loss(*rows, self.temperature, predicted[view]))
            else:
                plastic = nce(z[view], keys[other], present[other], self.temperature)
                found.append((plastic, nce(predicted[view], old[view], before[other], self.temperature)))
        plastic, stable = (sum(terms) / 2 for terms in zip(*found, strict=True))
        return {"plastic": plastic, "stable": stable}
