"""A vector for each class, a graph of which vectors are neighbours, and old classes that are drawn towards theirs.

Source: Malepathirana, Senanayake and Halgamuge (2023), NAPA-VQ: Neighborhood aware prototype augmentation with vector
quantization for continual learning, arXiv 2308.09297; where paper and authors' code differ, the code is followed.

Every image is learned in four turns, each a class of its own. Class k has a coding vector c_k; what is nearest answers,
-|f - c_k| / temperature are the logits. Vectors are neighbours where features come near both, and a feature should be
nearer its own (L_na: `palimpsest.retain.neighbour_graph`). No row is kept: an old class k is drawn as g p_k + (1 - g)
p_n, g ~ U(1/2, 1), from its mean feature towards that of a neighbour n, where it is confused. From the second task on:

    CE + L_na + L_na(drawn) + strength CE(drawn) + held |F - F_old|,     F the features of the whole batch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.continual import (
    Present,
    State,
    as_it_was,
    everything_of,
    features_of,
    last_layer,
    only_allowed,
    weights_of,
)
from palimpsest.retain.neighbour_graph import between, distances, draws, near_of, visited
from palimpsest.retain.prototypes import OnFeatures
from palimpsest.retain.quarter_turns import turned, turned_means, turns_of
from palimpsest.retain.slower import slow_down
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below


@dataclass(frozen=True)
class NAPAVQ(OnFeatures):
    """Coding vectors and their neighbours; of images in four turns, of other rows as they are.

    Attributes:
        neighbours: vectors that a feature makes neighbours; None for 15 of 200, as in the paper, and at least 3.
        decay: of an edge that a visit to its vector did not meet; below decay^10 it is cut.
        temperature: of the distances.
        strength: weight of the drawn features' cross-entropy, as many as the batch has rows.
        held: weight of the way from the old features.
        towards: what classes are drawn towards: "neighbours", or "any" that is known.
        vector_lr: of the vectors' own optimizer, SGD; those of classes that came before stand still.
        slower: by what both learning rates are multiplied from the second task on.
    """

    neighbours: Annotated[int | None, AtLeast(1)] = None
    decay: Annotated[float, Above(0), Below(1)] = 0.9
    temperature: Annotated[float, Above(0)] = 0.1
    strength: Annotated[float, AtLeast(0)] = 10.0
    held: Annotated[float, AtLeast(0)] = 10.0
    towards: Literal["neighbours", "any"] = "neighbours"
    vector_lr: Annotated[float, Above(0)] = 2.0
    slower: Annotated[float, Above(0), AtMost(1)] = 0.1

    def fits(self, model: nn.Module) -> None:
        super().fits(model)
        last_layer(model)

    def init(self, model: nn.Module, data: Present) -> State:
        head, turns = last_layer(model).weight, turns_of(data.rows)
        vectors = torch.randn(turns * len(data.known), head.shape[1], generator=data.generator).to(head)
        nothing, tasks = torch.full_like(vectors, torch.nan), torch.full((len(data.known),), -1)
        edges = torch.eye(len(vectors)).to(head)
        return {"turns": turns, "vectors": vectors, "edges": edges, "prototypes": nothing, "tasks": tasks}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        state = {**state, "known": data.known, "old": data.old, "number": data.number}
        if not data.number:
            return state
        found = turned_means(model, data.rows, state["prototypes"], state["turns"])
        prototypes = torch.where(state["prototypes"].isnan(), found, state["prototypes"])
        return {**state, "prototypes": prototypes, "was": everything_of(model), "before": weights_of(model)}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        old = (state["tasks"] >= 0).nonzero()[:, 0]
        if not len(old):
            return batch
        drawn = draws(old, len(batch["labels"]), generator)
        return {**batch, "drawn": {**drawn, "task": state["tasks"][drawn["labels"]]}}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        rows = turned(batch, state["turns"])
        features = features_of(model, rows)
        with torch.enable_grad():
            vectors = state["vectors"].detach().requires_grad_()
            terms, state["next"] = self.terms(state, features, rows, batch.get("drawn"), vectors)
            (state["slopes"],) = torch.autograd.grad(sum(terms.values()), vectors, retain_graph=True)
        if "was" in state:
            with as_it_was(model, state["was"]):
                before = features_of(model, rows)
            terms["held"] = self.held * (features - before).norm()
        return terms

    def terms(
        self, state: State, features: Tensor, rows: dict[str, Any], drawn: dict[str, Any] | None, vectors: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The terms that vectors take part in, and the edges after them."""
        turns, known = state["turns"], state["known"].to(features.device).repeat_interleave(state["turns"])
        place = known.cumsum(0) - 1  # among the vectors of known classes, which alone have edges
        apart = distances(features, vectors)
        terms = {"new": F.cross_entropy(only_allowed(-apart / self.temperature, rows), rows["labels"])}
        how = (near_of(int(known.sum()), self.neighbours), self.decay)
        edges = state["edges"][known][:, known]
        terms["apart"], edges = visited(edges, apart[:, known], place[rows["labels"]], *how)
        if drawn is not None and "was" in state:
            labels = turns * drawn["labels"]
            towards = edges if self.towards == "neighbours" else torch.ones_like(edges)
            apart = distances(between(state["prototypes"][known], towards, place[labels], drawn), vectors)
            allowed = {"allowed": drawn["allowed"].repeat_interleave(turns, 1)}
            terms["drawn"] = self.strength * F.cross_entropy(only_allowed(-apart / self.temperature, allowed), labels)
            terms["drawn apart"], edges = visited(edges, apart[:, known], place[labels], *how)
        whole = state["edges"].clone()
        whole[known.nonzero(), known.nonzero()[:, 0]] = edges
        return terms, whole

    def gradients(self, state: State, model: nn.Module) -> None:
        """Leaves the model's as they are; vectors make their step, and edges are those after the batch."""
        if (slopes := state.pop("slopes", None)) is None:
            return
        slopes = slopes.masked_fill(state["old"].to(slopes.device).repeat_interleave(state["turns"])[:, None], 0)
        state["vectors"] = state["vectors"] - self.vector_lr * (self.slower if state["number"] else 1) * slopes
        state["edges"] = state.pop("next")

    def after_step(self, state: State, model: nn.Module) -> None:
        if "before" in state:
            state["before"] = slow_down(model, state["before"], self.slower)

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        kept = {name: state[name] for name in ("turns", "vectors", "edges", "prototypes")}
        found = turned_means(model, data.rows, state["prototypes"], state["turns"])
        kept["prototypes"] = torch.where(found.isnan(), kept["prototypes"], found)
        if state.get("number") != data.number:  # the task was learned elsewhere
            kept["vectors"] = torch.where(found.isnan(), kept["vectors"], found)
        came = torch.zeros_like(state["tasks"]).index_fill(0, data.rows.labels.unique(), 1).bool()
        return {**kept, "tasks": state["tasks"].masked_fill(came, data.number)}

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        vectors = F.normalize(state["vectors"][:: state["turns"]], dim=1)
        return -distances(F.normalize(features_of(model, batch), dim=1), vectors)
