"""Learning without labels, task after task: what self-supervised methods of the family have in common.

Each image is seen in two random views. A momentum copy of the network gives the keys, a first-in-first-out queue of
earlier keys the negatives, and each view is once the query and once the key (MoCo v2+):

    nce(q, k, N) = mean -log e^{q.k/T} / (e^{q.k/T} + sum_{n in N} e^{q.n/T})

`MoCo` alone forgets as nothing hinders it. Labels are never learned from; they name the classes whose mean features
answer when a method is asked, as `NearestClassMean` does. Views of rows that are no images are the rows with noise.

Sources: MoCo: He et al. (2019), arXiv 1911.05722; CaSSLe: Fini et al. (2022), Self-supervised models are continual
learners, arXiv 2112.04215, with the loss of its authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, Examples
from palimpsest.retain.continual import Present, State, as_it_was, everything_of, features_of, last_layer
from palimpsest.retain.prototypes import NearestClassMean, OnFeatures
from palimpsest.retain.replay import Joint
from palimpsest.tasks.digits_views import augment
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import Above, AtLeast, AtMost

NOISE = 0.2  # of a view of a row that is no image, in standard deviations, at strength 1


def nce(
    query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"], negatives: Float[Tensor, "n d"], temperature: float
) -> Float[Tensor, ""]:
    """A query's key among negatives that all queries share; all of norm 1.

    >>> round(nce(torch.eye(2), torch.eye(2), -torch.eye(2), 1.0).item(), 4)  # log(1 + e^-2 + e^-1)
    0.4076
    """
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ negatives.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


def distillation_nce(
    queries: Float[Tensor, "batch d"], keys: Float[Tensor, "batch d"], temperature: float
) -> Float[Tensor, ""]:
    """Each row finds its own among all of the batch; the mean over both directions. All of norm 1.

    >>> round(distillation_nce(torch.eye(2), torch.eye(2), 1.0).item(), 4)  # log(1 + e^-1)
    0.3133
    """
    logits, own = queries @ keys.T / temperature, torch.arange(len(queries), device=queries.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class Projecting(nn.Module):
    """A classifier with a projector, whose output a loss without labels reads, and a predictor behind that.

    Args:
        encoder: it has `features`, and gives logits.
        features: how many.
        projected: width of the projections.
        hidden: of both, one hidden layer each.

    >>> from palimpsest.models.vision import mlp
    >>> model = Projecting(mlp(4, 3, hidden=(8,)), features=8, projected=2)
    >>> model.projected(torch.zeros(1, 4)).shape, model.predicted(torch.zeros(1, 2)).shape
    (torch.Size([1, 2]), torch.Size([1, 2]))
    """

    def __init__(self, encoder: nn.Module, features: int, projected: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector, self.predicted = (
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, projected))
            for width in (features, projected)
        )

    @property
    def head(self) -> nn.Linear:
        """The classifier's last layer."""
        return last_layer(self.encoder)

    def features(self, x: Tensor) -> Float[Tensor, "batch features"]:
        return self.encoder.features(x)

    def projected(self, x: Tensor) -> Float[Tensor, "batch projected"]:
        return self.projector(self.features(x))

    def forward(self, *images: Tensor, **more: Any) -> Any:
        return self.encoder(*images, **more)


@dataclass(frozen=True)
class MoCo(OnFeatures):
    """Two views of each row, keys by a momentum copy, negatives from a queue: no label, and nothing against forgetting.

    A model with a `projector` is trained through it, others by their features.

    Attributes:
        size: keys of the queue, one for each view.
        m: how slowly the momentum copy follows.
        temperature: T.
        view: strength of the random changes of a view.
        joint: learn from the rows of all tasks so far, which are kept: the ceiling.
    """

    size: Annotated[int, AtLeast(1)] = 512
    m: Annotated[float, AtLeast(0), AtMost(1)] = 0.99
    temperature: Annotated[float, Above(0)] = 0.2
    view: Annotated[float, AtLeast(0)] = 1.0
    joint: bool = False

    def init(self, model: nn.Module, data: Present) -> State:
        with torch.no_grad():
            width = projections(model, next(data.batches(data.rows.at(slice(2)), model))).shape[1]
        queue = F.normalize(torch.randn(2, self.size, width, generator=data.generator), dim=2)
        buffer = {"buffer": Buffer()} if self.joint else {}
        return {"momentum": everything_of(model), "queue": queue.to(next(model.parameters())), "classes": {}, **buffer}

    def rows(self, state: State, data: Present) -> Examples:
        return Joint().rows(state, data) if self.joint else data.rows

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        name = "pixel_values" if "pixel_values" in batch else "x"
        views = [{name: random_view(batch[name], generator, self.view)} for _ in range(2)]
        return {**batch, "first": views[0], "second": views[1]}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        z = [F.normalize(projections(model, batch[view]), dim=1) for view in ("first", "second")]
        keys = self.asked(state["momentum"], model, batch)
        terms = self.compared(state, model, batch, z, keys)
        state["pushed"] = {"queue": keys, **state.pop("pushed", {})}
        return terms

    def compared(
        self, state: State, model: nn.Module, batch: dict[str, Any], z: list[Tensor], keys: Tensor
    ) -> dict[str, Tensor]:
        """The terms of two views' projections and keys, all of norm 1."""
        return {"contrast": self.contrast(state, z, keys)}

    def contrast(self, state: State, z: list[Tensor], keys: Tensor) -> Tensor:
        queue = state["queue"].to(z[0])
        return (nce(z[0], keys[1], queue[1], self.temperature) + nce(z[1], keys[0], queue[0], self.temperature)) / 2

    def asked(self, weights: Mapping[str, Tensor], model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """What a network with these weights says of both views, of norm 1 and without a gradient [2, batch, d]."""
        with as_it_was(model, weights), torch.no_grad():
            return torch.stack([F.normalize(projections(model, batch[view]), dim=1) for view in ("first", "second")])

    def gradients(self, state: State, model: nn.Module) -> None:
        """Leaves gradients as they are; the batch's keys take the places of the oldest in the queues."""
        for name, keys in state.pop("pushed", {}).items():
            state[name] = torch.cat([keys.to(state[name]), state[name]], 1)[:, : self.size]

    def after_step(self, state: State, model: nn.Module) -> None:
        now = everything_of(model)
        for name, value in state["momentum"].items():
            trains = value.is_floating_point()
            state["momentum"][name] = torch.lerp(now[name], value, self.m) if trains else now[name]

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        kept = {name: state[name] for name in ("momentum", "queue", "buffer") if name in state}
        if self.joint:
            kept |= Joint().after_task(state, model, data)
            kept = {name: kept[name] for name in ("momentum", "queue", "buffer")}
        return {**kept, "classes": NearestClassMean().after_task(state["classes"], model, data)}

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        known = state["classes"]
        return NearestClassMean().answer(known, model, batch) if known else logits_of(model, batch)


@dataclass(frozen=True)
class CaSSLe(MoCo):
    """MoCo, and the predicted projections must find those of the old model among the batch's: distillation as
    contrast.

        MoCo + strength nce(both ways between predictor(z) and z_old, among both views of the batch)

    Attributes:
        size, m, temperature, view, joint: as in `MoCo`.
        strength: of the distillation.
    """

    strength: Annotated[float, AtLeast(0)] = 1.0

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {**state, "old": everything_of(model)} if data.number else state

    def compared(
        self, state: State, model: nn.Module, batch: dict[str, Any], z: list[Tensor], keys: Tensor
    ) -> dict[str, Tensor]:
        terms = super().compared(state, model, batch, z, keys)
        if "old" in state:
            old = self.asked(state["old"], model, batch).flatten(0, 1)
            held = distillation_nce(predictions(model, torch.cat(z)), old, self.temperature)
            terms["held"] = self.strength * held
        return terms


def projections(model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, "batch d"]:
    """What the model's projector says, or its features where it has none."""
    return projected(model, features_of(model, batch))


def projected(model: nn.Module, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch d"]:
    """What the model's projector says of features; these where it has none."""
    return model.projector(features) if hasattr(model, "projector") else features


def predictions(model: nn.Module, z: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
    """What the model's predictor says of projections, of norm 1; the projections where it has none."""
    return F.normalize(model.predicted(z), dim=1) if hasattr(model, "predicted") else z


def random_view(x: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """A random view of images with values in [0, 1] (`palimpsest.tasks.digits_views.augment`); of other rows, the rows
    with noise."""
    if x.ndim == 4 and x.shape[2] == x.shape[3] and x.min() >= 0 and x.max() <= 1:
        return augment(x, generator, strength=strength)
    noise = torch.randn(x.shape, generator=generator).to(x)
    return x + NOISE * strength * x.std() * noise
