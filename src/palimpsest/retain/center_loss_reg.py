"""Features stay around the centres that the first task gave their classes, and the last layer stays as it was.

Source: Olpadkar and Gavas (2021), Center loss regularization for continual learning, arXiv 2110.11314; the center loss
is that of Wen et al. (2016), A discriminative feature learning approach for deep face recognition.

    CE(batch) + strength 1/2 mean_b |f_b - c_{y_b}|^2

In the first task each centre follows the features of its class without a gradient,

    c_j <- c_j - alpha sum_{b: y_b = j} (c_j - f_b) / (1 + n_j)

From the second on, centres and last layer stand still and the rest learns more slowly: rows of a class that look
different are brought where the class was, inside boundaries that do not move. This is meant for tasks of the same
classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, joined
from palimpsest.retain.continual import Present, State, features_of, last_layer, of_all, only_allowed, weights_of
from palimpsest.retain.prototypes import OnFeatures
from palimpsest.retain.replay import ER
from palimpsest.retain.slower import slow_down
from palimpsest.train.ranges import Above, AtLeast, AtMost


def center_loss(
    features: Float[Tensor, "batch d"], labels: Int[Tensor, " batch"], centers: Float[Tensor, "classes d"]
) -> Float[Tensor, ""]:
    """Half the mean squared distance of features from the centre of their class, which has no gradient.

    >>> center_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), torch.zeros(2, 2))
    tensor(2.5000)
    """
    return (features - centers.detach()[labels]).square().sum(1).mean() / 2


def moved_centers(
    centers: Float[Tensor, "classes d"],
    features: Float[Tensor, "batch d"],
    labels: Int[Tensor, " batch"],
    alpha: float = 0.5,
) -> Float[Tensor, "classes d"]:
    """Centres after a batch; those of classes that it has not stay.

    >>> moved_centers(torch.zeros(2, 1), torch.tensor([[3.0], [3.0]]), torch.tensor([0, 0]), alpha=0.5)
    tensor([[1.],
            [0.]])
    """
    features = features.detach().to(centers)
    count = labels.bincount(minlength=len(centers))[:, None]
    sums = torch.zeros_like(centers).index_add_(0, labels, features)
    return torch.where(count > 0, centers - alpha * (count * centers - sums) / (1 + count), centers)


@dataclass(frozen=True)
class CenterLossReg(OnFeatures):
    """Center loss towards the first task's centres, under a last layer that stands still; with replay if wished.

    Attributes:
        strength: weight of the center loss.
        alpha: how fast centres follow.
        slower: by what the learning rate is multiplied from the second task on.
        freeze_classifier: the last layer stands still from the second task on.
        freeze_centers: so do the centres of classes that came before.
        size: rows of a buffer, whose draws are learned with the batch in both terms; 0 for none.
        replayed: rows that are drawn in a step; None for as many as the batch has.
    """

    strength: Annotated[float, AtLeast(0)] = 0.1
    alpha: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    slower: Annotated[float, Above(0), AtMost(1)] = 0.3
    freeze_classifier: bool = True
    freeze_centers: bool = True
    size: Annotated[int, AtLeast(0)] = 0
    replayed: Annotated[int | None, AtLeast(1)] = None

    def fits(self, model: nn.Module) -> None:
        super().fits(model)
        last_layer(model)

    def init(self, model: nn.Module, data: Present) -> State:
        none = torch.full((len(data.known), last_layer(model).in_features), torch.nan)
        return {"buffer": Buffer(capacity=self.size), "centers": none.to(last_layer(model).weight)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        follows = ~data.old if self.freeze_centers else torch.ones_like(data.old)
        before = {"before": weights_of(model)} if data.number else {}
        return {**state, "follows": follows, **before}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        return ER(self.size, self.replayed).replay(state, batch, generator) if self.size else batch

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        rows = joined([batch, batch["memory"]]) if "memory" in batch else batch
        features, labels = features_of(model, rows), rows["labels"]
        state["seen"] = (features.detach(), labels)
        logits = only_allowed(last_layer(model)(features), rows)
        centers = begun(state["centers"].to(features), features, labels)
        near = center_loss(features, labels, centers)
        return {"new": F.cross_entropy(logits, labels), "near": self.strength * near}

    def gradients(self, state: State, model: nn.Module) -> None:
        """Leaves gradients as they are; centres follow."""
        if (seen := state.pop("seen", None)) is None:
            return
        centers = begun(state["centers"], *seen)
        follows = state["follows"].to(centers.device)[:, None]
        state["centers"] = torch.where(follows, moved_centers(centers, *seen, self.alpha), centers)

    def after_step(self, state: State, model: nn.Module) -> None:
        if "before" not in state:
            return
        layer = last_layer(model)
        head = [name for name, p in model.named_parameters() if p is layer.weight or p is layer.bias]
        state["before"] = slow_down(model, state["before"], self.slower, head if self.freeze_classifier else ())

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        # A class has none yet if its task was learned elsewhere.
        features = of_all(features_of, model, data.rows).to(state["centers"])
        centers = begun(state["centers"], features, data.rows.labels.to(features.device))
        kept = {"buffer": state["buffer"], "centers": centers}
        return ER(self.size).after_task(kept, model, data) if self.size else kept


def begun(
    centers: Float[Tensor, "classes d"], features: Float[Tensor, "batch d"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, "classes d"]:
    """Centres, with the mean of the batch's rows where a class has none yet (nan)."""
    centers = centers.clone()
    for label in labels.unique():
        if centers[label].isnan().any():
            centers[label] = features.detach()[labels == label].mean(0).to(centers)
    return centers
