"""Old classes as distributions, and the cross-entropy that is expected under them, in closed form and with a margin.

Source: Yao and Chang (2024), Adaptive margin global classifier for exemplar-free class-incremental learning, arXiv
2409.13275.

Of an old class k only the mean mu_k and the covariance S_k of its features are kept. What the last layer's
cross-entropy would be on features drawn from N(mu_k, S_k) is bounded by (Jensen)

    log sum_j exp(v_jk . mu_k + 1/2 v_jk^T S_k v_jk + b_j - b_k),     v_jk = w_j - w_k

which is softmax cross-entropy at mu_k with a margin 1/2 v_jk^T S_k v_jk for every rival j. Nothing is drawn, and each
class counts once (distribution-based global classifier, DBGC). While the network goes on learning, old classes spread:
their variances are enlarged beforehand, S + lambda diag(S), which adds lambda/2 sum_d S_dd v_d^2 to the margins. Of
the new classes the rows themselves take the place of mu_k, with their class's variance as it is on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.adaptive_margins import enlarged, margins, shaped
from palimpsest.retain.buffers import Buffer, joined
from palimpsest.retain.continual import (
    Present,
    State,
    as_it_was,
    everything_of,
    features_of,
    last_layer,
    of_all,
    only_allowed,
)
from palimpsest.retain.prototypes import OnFeatures
from palimpsest.train.ranges import Above, AtLeast, Below

SHRINKAGE = 1e-3  # is added to the variances that are kept


@dataclass(frozen=True)
class AMGC(OnFeatures):
    """No row is kept: the last layer learns old classes from their distributions, new ones from rows, all alike.

    Attributes:
        enlarge: lambda, by which the variances of old classes grow; 0 leaves DBGC.
        spread_new: give rows of new classes the margins of their class's variance too; else plain cross-entropy.
        held: weight of |f - f_old|^2 on new rows, a mean over rows; the paper has none.
        kept: the whole "covariance" of a class, or its "diagonal".
        draws: in the place of the bound, so many features drawn from each old class in every step; 0 for the bound.
        momentum: of the running moments of new classes.
    """

    enlarge: Annotated[float, AtLeast(0)] = 1.0
    spread_new: bool = True
    held: Annotated[float, AtLeast(0)] = 0.0
    kept: Literal["covariance", "diagonal"] = "covariance"
    draws: Annotated[int, AtLeast(0)] = 0
    momentum: Annotated[float, Above(0), Below(1)] = 0.9

    def fits(self, model: nn.Module) -> None:
        super().fits(model)
        last_layer(model)

    def init(self, model: nn.Module, data: Present) -> State:
        return {"classes": Buffer(capacity=len(data.known))}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        head = last_layer(model).weight
        moments = {name: torch.zeros_like(head) for name in ("mean", "square")}
        old = {"old": everything_of(model)} if self.held and data.number else {}
        return {"classes": state["classes"], **moments, **old}

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        classes = dict(state["classes"].columns)
        if not classes:
            return batch
        classes["spread"] = enlarged(classes["spread"], self.enlarge)
        if self.draws:
            classes = {name: value.repeat_interleave(self.draws, 0) for name, value in classes.items()}
            noise = torch.randn(classes["features"].shape, generator=generator)
            classes["features"] = classes["features"] + shaped(noise, classes.pop("spread"))
        return {**batch, "classes": classes}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        features, head, labels = features_of(model, batch), last_layer(model), batch["labels"]
        state["seen"] = (features.detach(), labels)
        logits = head(features)
        if self.spread_new:
            variance = (state["square"] - state["mean"].square()).clamp(min=0)
            logits = logits + margins(variance[labels].to(logits), head.weight, labels)
        each = F.cross_entropy(only_allowed(logits, batch), labels, reduction="none")
        present, which, count = labels.unique(return_inverse=True, return_counts=True)
        new = (each / count[which]).sum()  # a sum over classes of their means
        if "classes" not in batch:
            return {"new": new / len(present)}
        old, spread = batch["classes"], batch["classes"].get("spread")
        logits = head(old["features"].to(features))
        if spread is not None:
            logits = logits + margins(spread.to(logits), head.weight, old["labels"])
        kept = F.cross_entropy(only_allowed(logits, old), old["labels"])
        n = len(old["labels"]) // max(1, self.draws)
        terms = {"new": new / (n + len(present)), "old": n / (n + len(present)) * kept}
        if self.held:
            with as_it_was(model, state["old"]):
                before = features_of(model, batch)
            terms["held"] = self.held * (features - before).square().sum(1).mean()
        return terms

    def gradients(self, state: State, model: nn.Module) -> None:
        """Leaves gradients as they are; the running moments of the classes that the batch had go on."""
        if (seen := state.pop("seen", None)) is None:
            return
        features, labels = seen
        for label in labels.unique():
            rows = features[labels == label]
            for name, now in (("mean", rows.mean(0)), ("square", rows.square().mean(0))):
                began = state["square"][label].any()
                state[name][label] = torch.lerp(now, state[name][label], self.momentum) if began else now

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        features, labels = of_all(features_of, model, data.rows), data.rows.labels
        own = labels.unique()
        rows = [features[labels == label] for label in own]
        new = {
            "features": torch.stack([each.mean(0) for each in rows]),
            "spread": torch.stack([self.spread(each) for each in rows]),
            "labels": own,
            "task": torch.full_like(own, data.number),
        }
        kept = state["classes"]
        others = [kept.at(~torch.isin(kept.labels, own)).columns] if len(kept) else []
        return {"classes": replace(kept, columns=joined([*others, new]))}

    def spread(self, rows: Float[Tensor, "n d"]) -> Tensor:
        """The covariance of a class's features, or its diagonal, by n."""
        if self.kept == "diagonal":
            return rows.var(0, correction=0) + SHRINKAGE
        return torch.cov(rows.T, correction=0) + SHRINKAGE * torch.eye(rows.shape[1], dtype=rows.dtype)
