"""Classes that nobody named are found on the way, and those that were named are kept.

Source: Ma, Zhu, Zhong, Liu, Zhang and Liu (2024), Happy: A debiased learning framework for continual generalized
category discovery, arXiv 2410.06535; settings are those of the authors' commands.

The first task has labels; later ones are old and new classes mixed, without labels, and only a prototype a class is
stored. The logits are cosines of unit features f with the last layer's weights, at a temperature of 0.1. New weights
begin as those k-means centroids that old ones fit least. In a later task two views of each row are learned from:

    what is said of the other view, sharpened + soft_entropy of all answers + InfoNCE of projections
    + CE of features drawn around old prototypes, those close to others more often + |f - f_old|^2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain import happy_losses as L
from palimpsest.retain.continual import (
    Continual,
    Present,
    State,
    as_it_was,
    everything_of,
    features_of,
    last_layer,
    needs_features,
    of_all,
)
from palimpsest.retain.unlabelled import projected, random_view
from palimpsest.train.ranges import AtLeast, AtMost


@dataclass(frozen=True)
class Happy(Continual):
    """The first task by its labels, later ones without any; how many classes each brings is known.

    Attributes:
        entropy: "soft", over old and new as wholes and within both, or "mean", over all classes at once.
        entropy_weight: its weight.
        start: new prototypes by "k_means", or as the last layer "drew" them.
        prototypes: which old ones are drawn more often: "hard" ones, each alike ("uniform"), or "none" is drawn.
        held: weight of |f - f_old|^2, a mean over rows.
        supervised: weight of what labels teach in the first task; the rest is what all tasks have.
        view: strength of the random changes of a view.
        discover: learn later tasks; else new prototypes stay as they began.
    """

    entropy: Literal["soft", "mean"] = "soft"
    entropy_weight: Annotated[float, AtLeast(0)] = 1.0
    start: Literal["k_means", "drew"] = "k_means"
    prototypes: Literal["hard", "uniform", "none"] = "hard"
    held: Annotated[float, AtLeast(0)] = 1.0
    supervised: Annotated[float, AtLeast(0), AtMost(1)] = 0.35
    view: Annotated[float, AtLeast(0)] = 1.0
    discover: bool = True

    def fits(self, model: nn.Module) -> None:
        needs_features(model)
        last_layer(model)

    def init(self, model: nn.Module, data: Present) -> State:
        weight = last_layer(model).weight
        return {"prototypes": torch.full_like(weight, torch.nan), "radius": torch.zeros(())}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        new, steps = data.new, data.training.get("steps", 1)
        state = {**state, "known": data.known, "new": new, "step": 0, "steps": steps}
        if not data.number:
            return state
        if self.start == "k_means" and new.any():
            weight = last_layer(model).weight
            features = F.normalize(of_all(features_of, model, data.rows), dim=1)
            with torch.no_grad():
                found = L.initial_prototypes(features, weight[data.old], int(new.sum()))
                weight[new] = weight[new].norm(dim=1).mean() * found
        return {**state, "old": everything_of(model)}

    def steps(self, state: State, data: Present, steps: int) -> int:
        return steps if self.discover or not data.number else 0

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        name = "pixel_values" if "pixel_values" in batch else "x"
        views = {which: {name: random_view(batch[name], generator, self.view)} for which in ("first", "second")}
        if "old" in state and self.prototypes != "none":
            hard, n = self.prototypes == "hard", 2 * len(batch[name])
            views["drawn"] = L.around(state["prototypes"].cpu(), state["radius"].cpu(), n, generator, hard=hard)
        return {**batch, **views}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        known = state["known"].to(last_layer(model).weight.device)
        encoded = [features_of(model, batch[which]) for which in ("first", "second")]
        features = [F.normalize(each, dim=1) for each in encoded]
        logits = [L.cosines(model, each)[:, known] for each in features]
        z = [F.normalize(projected(model, each), dim=1) for each in encoded]
        answers = (torch.cat(logits) / L.SHARPNESS).softmax(1).mean(0)
        terms = {
            "distilled": L.self_distillation(*logits, self.teacher(state)),
            "contrast": L.pairs_nce(*z),
        }
        if "old" not in state:
            labels = (known.cumsum(0) - 1)[batch["labels"]]
            terms["entropy"] = self.entropy_weight * L.mean_entropy(answers)
            terms = {name: (1 - self.supervised) * term for name, term in terms.items()}
            terms["new"] = self.supervised * F.cross_entropy(torch.cat(logits) / L.SHARPNESS, labels.repeat(2))
            terms["supervised contrast"] = self.supervised * L.supervised_contrast(torch.cat(z), labels.repeat(2))
            return terms
        new = state["new"].to(known.device)[known]
        entropy = L.soft_entropy(answers, new) if self.entropy == "soft" else L.mean_entropy(answers)
        terms["entropy"] = self.entropy_weight * entropy
        if "drawn" in batch:
            drawn = L.cosines(model, F.normalize(batch["drawn"]["features"].to(features[0]), dim=1))
            labels = (known.cumsum(0) - 1)[batch["drawn"]["labels"]]
            terms["drawn"] = F.cross_entropy(drawn[:, known] / L.SHARPNESS, labels)
        if self.held:
            with as_it_was(model, state["old"]):
                before = [F.normalize(features_of(model, batch[which]), dim=1) for which in ("first", "second")]
            terms["held"] = self.held * (torch.cat(features) - torch.cat(before)).square().sum(1).mean()
        return terms

    def teacher(self, state: State) -> float:
        """The temperature of what is learned from the other view: in the first task from 0.07 down to 0.04."""
        return 0.05 if "old" in state else max(0.04, 0.07 - 0.03 * state["step"] / max(1, 0.3 * state["steps"]))

    def gradients(self, state: State, model: nn.Module) -> None:
        """Leaves gradients as they are; counts updates."""
        state["step"] += 1

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        features = F.normalize(of_all(features_of, model, data.rows), dim=1)
        prototypes, radius = state["prototypes"].clone(), state["radius"]
        if not data.number:
            which, radius = data.rows.labels, L.radius_of(features, data.rows.labels)
        else:
            which = L.cosines(model, features.to(prototypes)).cpu().masked_fill(~data.known, -torch.inf).argmax(1)
        for label in data.new.nonzero()[:, 0].tolist():
            own = features[which == label]
            prototypes[label] = own.mean(0).to(prototypes) if len(own) else last_layer(model).weight[label].detach()
        return {"prototypes": F.normalize(prototypes, dim=1), "radius": radius}

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        return L.cosines(model, F.normalize(features_of(model, batch), dim=1))
