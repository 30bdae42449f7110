"""Classes remembered by their features: means, exemplars near them, and what is drawn around them.

    ICaRL               exemplars by herding, distillation by sigmoids, answers by the nearest mean of exemplars
    NearestClassMean    -|f - mean_c|^2 of a network that learns its first task and then stands still
    StreamingLDA        the same with one covariance S of all classes: f^T L mean_c - mean_c^T L mean_c / 2, L = S^-1
    PrototypeReplay     features drawn around the means of old classes teach the last layer, distillation the others

Sources: iCaRL: Rebuffi et al. (2017), arXiv 1611.07725; nearest class mean: Mensink et al. (2013); streaming LDA: Hayes
and Kanan (2020), arXiv 1909.01520; prototypes with noise: Zhu et al. (2021), Prototype augmentation and
self-supervision for incremental learning (PASS, here without its rotated classes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.buffers import Buffer, Examples, herding, joined
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
    only_allowed,
)
from palimpsest.train.classification import logits_of
from palimpsest.train.ranges import Above, AtLeast


class OnFeatures(Continual):
    """A method that reads what the model's last layer reads."""

    def fits(self, model: nn.Module) -> None:
        needs_features(model)


def nearest_mean(features: Float[Tensor, "batch d"], means: Float[Tensor, "classes d"]) -> Tensor:
    """-|f - mean_c|^2; the lowest number of all for a class whose mean is not known (nan).

    >>> nearest_mean(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0], [torch.nan, 0.0]]))[0, 0]
    tensor(-1.)
    """
    apart = torch.cdist(features[None], means[None], compute_mode="donot_use_mm_for_euclid_dist")[0].square()
    return (-apart).nan_to_num(nan=torch.finfo(apart.dtype).min)


@dataclass(frozen=True)
class ICaRL(OnFeatures):
    """Learns from the new rows and exemplars, each class by a sigmoid; old classes from the old model's answers.

    While a task is learned, its new classes have no exemplars: they are answered when it has ended.

    Attributes:
        size: exemplars of all classes together, in equal parts.
    """

    size: Annotated[int, AtLeast(1)] = 200

    def init(self, model: nn.Module, data: Present) -> State:
        return {"buffer": Buffer(capacity=self.size)}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        taught = data.old.clone()
        taught[data.rows.labels.unique()] = False
        return {**state, "old": everything_of(model) if data.number else {}, "taught": taught, "known": data.known}

    def rows(self, state: State, data: Present) -> Examples:
        return Examples(joined([part.columns for part in (state["buffer"], data.rows) if len(part)]))

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits = logits_of(model, batch)
        targets = F.one_hot(batch["labels"], logits.shape[1]).to(logits)
        if state["old"]:
            with as_it_was(model, state["old"]):
                old = logits_of(model, batch).sigmoid()
            targets = torch.where(state["taught"].to(old.device), old, targets)
        known = state["known"].to(logits.device)
        return {"each": F.binary_cross_entropy_with_logits(logits[:, known], targets[:, known])}

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        new, buffer = set(data.rows.labels.unique().tolist()), state["buffer"]
        classes = sorted(new | set(buffer.seen))
        means = torch.full((len(data.known), 0), torch.nan)
        found = []
        for label in classes:
            parts = [part.of_class(label) for part in (buffer, data.rows) if len(part)]
            rows = Examples(joined([part.columns for part in parts if len(part)]))
            features = F.normalize(of_all(features_of, model, rows), dim=1)
            each = max(1, self.size // len(classes))
            # What was herded before is in order: its beginning stands for the class as well as fewer can.
            best = herding(features, each) if label in new else torch.arange(min(each, len(rows)))
            if not means.shape[1]:
                means = means.new_full((len(means), features.shape[1]), torch.nan)
            means[label] = F.normalize(features[best].mean(0), dim=0)
            found.append(rows.at(best).columns)
        passed = dict(zip(*(each.tolist() for each in data.rows.labels.unique(return_counts=True)), strict=True))
        return {"buffer": buffer.keeping(joined(found), passed), "means": means}

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        if "means" not in state:
            return logits_of(model, batch)
        features = F.normalize(features_of(model, batch), dim=1)
        return nearest_mean(features, state["means"].to(features.device))


@dataclass(frozen=True)
class NearestClassMean(OnFeatures):
    """The class whose mean is nearest, of features that stand still: nothing can be forgotten.

    Attributes:
        learn: "first": the network learns its first task, by cross-entropy; "never": it is taken as it comes.
    """

    learn: Literal["first", "never"] = "first"

    def steps(self, state: State, data: Present, steps: int) -> int:
        return steps if self.learn == "first" and data.number == 0 else 0

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        features, labels = of_all(features_of, model, data.rows).double(), data.rows.labels
        d = features.shape[1]
        state = state or {
            "counts": torch.zeros(len(data.known), dtype=torch.float64),
            "means": torch.full((len(data.known), d), torch.nan, dtype=torch.float64),
            "scatter": torch.zeros(d, d, dtype=torch.float64),
        }
        counts, means, scatter = (state[name].clone() for name in ("counts", "means", "scatter"))
        for label in labels.unique():
            rows = features[labels == label]
            before, n, mean = counts[label], len(rows), rows.mean(0)
            step = mean - (means[label] if before else mean)
            centred = rows - mean
            scatter += centred.T @ centred + before * n / (before + n) * torch.outer(step, step)
            means[label] = mean - before / (before + n) * step
            counts[label] += n
        return {"counts": counts, "means": means, "scatter": scatter}

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        if not state:
            return logits_of(model, batch)
        features = features_of(model, batch)
        return nearest_mean(features, state["means"].to(features))


@dataclass(frozen=True)
class StreamingLDA(NearestClassMean):
    """Linear discriminant analysis of features that stand still, its means and its covariance summed up on the way.

    Attributes:
        learn: as in `NearestClassMean`.
        shrinkage: e of L = ((1 - e) S + e I)^-1.
    """

    shrinkage: Annotated[float, Above(0)] = 1e-4

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        if not state:
            return logits_of(model, batch)
        features = features_of(model, batch)
        covariance = state["scatter"] / state["counts"].sum()
        eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        weights = torch.linalg.solve((1 - self.shrinkage) * covariance + self.shrinkage * eye, state["means"].T)
        bias = -(state["means"].T * weights).sum(0) / 2
        scores = features.double() @ weights.to(features.device) + bias.to(features.device)
        return scores.to(features.dtype).nan_to_num(nan=torch.finfo(features.dtype).min)


@dataclass(frozen=True)
class PrototypeReplay(OnFeatures):
    """No row is kept: features drawn around the mean of each old class are learned by the last layer.

        CE(batch) + strength CE(last layer(mean_c + r e), c) + held |f - f_old|^2,     e ~ N(0, I)

    r^2 is the mean variance of a feature within a class of the first task.

    Attributes:
        strength: weight of the features that are drawn, as many as the batch has rows.
        held: weight of the way from the old features, a mean over rows.
    """

    strength: Annotated[float, AtLeast(0)] = 1.0
    held: Annotated[float, AtLeast(0)] = 1.0

    def fits(self, model: nn.Module) -> None:
        super().fits(model)
        last_layer(model)

    def init(self, model: nn.Module, data: Present) -> State:
        return {"prototypes": Buffer(capacity=len(data.known)), "radius": torch.zeros(())}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        return {**state, "old": everything_of(model) if data.number else {}}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        if not len(state["prototypes"]):
            return batch
        which = torch.randint(len(state["prototypes"]), (len(batch["labels"]),), generator=generator)
        drawn = state["prototypes"].batch(which)
        noise = torch.randn(drawn["features"].shape, generator=generator)
        return {**batch, "drawn": {**drawn, "features": drawn["features"] + state["radius"].cpu() * noise}}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        features, head = features_of(model, batch), last_layer(model)
        terms = {"new": F.cross_entropy(only_allowed(head(features), batch), batch["labels"])}
        if "drawn" in batch and state["old"]:
            drawn = only_allowed(head(batch["drawn"]["features"]), batch["drawn"])
            with as_it_was(model, state["old"]):
                before = features_of(model, batch)
            terms["drawn"] = self.strength * F.cross_entropy(drawn, batch["drawn"]["labels"])
            terms["held"] = self.held * (features - before).square().sum(1).mean()
        return terms

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        features, labels = of_all(features_of, model, data.rows), data.rows.labels
        own = labels.unique()
        means = torch.stack([features[labels == label].mean(0) for label in own])
        new = {"features": means, "labels": own, "task": torch.full_like(own, data.number)}
        kept = state["prototypes"]
        others = [kept.at(~torch.isin(kept.labels, own)).columns] if len(kept) else []
        radius = state["radius"]
        if not len(kept):
            spread = [features[labels == label].var(0, correction=0).mean() for label in own]
            radius = torch.stack(spread).mean().sqrt()
        passed = dict.fromkeys(own.tolist(), 1)
        return {"prototypes": replace(kept, seen={}).keeping(joined([*others, new]), passed), "radius": radius}
