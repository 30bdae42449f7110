"""Selective sequential fine-tuning: begin a new task where an earlier one ended, but only if that will help.

Source: Fisch, Rannen-Triki, Pascanu, Bornschein, Lazaridou, Gribovskaya and Ranzato (2023), Towards robust and
efficient continual language learning, arXiv 2307.05741.

A checkpoint of a related task is a head start, one of a contradicting task a burden. From cheap features of a
checkpoint and the new task a classifier says how likely it is to gain; the best candidate is taken if that is more
likely than a threshold, else the pretrained model. The benchmark are sequences of past tasks and a target: *positive*
(one of them helps), *negative* (one of them hurts), *neutral* (none matters) and *mixed* (one that helps among those
that hurt or do not matter). Sequences of topics are in `palimpsest.retain.selective_init_tasks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from sklearn.ensemble import GradientBoostingClassifier
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.models.score import cross_entropy
from palimpsest.retain.selective_init_measures import learn, shown, transfer_curve
from palimpsest.retain.selective_init_tasks import TopicTask
from palimpsest.train.gradients import gradient_of
from palimpsest.train.ranges import AtLeast, AtMost, check_fields

FEATURES = ("loss difference", "accuracy after the probe", "update along the gradient", "gradients alike", "distance")
PROBE = 8  # updates


@dataclass(frozen=True, eq=False)
class Candidate:
    """A checkpoint that a past task left.

    Attributes:
        model: after the past task.
        gradient: of the past task's loss at the pretrained model, flat.
    """

    model: nn.Module
    gradient: Float[Tensor, " parameters"]


def candidate(
    base: nn.Module, start: nn.Module, tokenizer: PreTrainedTokenizerBase, task: TopicTask, steps: int, **options: float
) -> Candidate:
    """What a past task leaves, learned from `start`; `base` is the pretrained model. Both stay as they are."""
    model = deepcopy(start)
    learn(model, tokenizer, task, steps, **options)
    return Candidate(model, task_gradient(base, tokenizer, task))


def task_gradient(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: TopicTask
) -> Float[Tensor, " parameters"]:
    """The gradient of a task's loss on its first 32 rows, flat and detached."""
    loss = cross_entropy(model.eval(), shown(model, tokenizer, task))
    return gradient_of(loss, list(model.parameters())).detach()


def features(
    found: Candidate,
    base: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: TopicTask,
    *,
    base_accuracy: float | None = None,
    **options: float,
) -> Float[np.ndarray, " 5"]:
    """What is known of a candidate and a new task before it is learned, in the order of `FEATURES`:

    the loss of the candidate less that of the pretrained model, before any update; the accuracy after 8 updates less
    the pretrained model's; the cosine between the new task's descent direction at the pretrained model and what the
    past task moved; the cosine between both tasks' gradients there; and |theta_c - theta_0| / |theta_0|.

    Args:
        base_accuracy: of the pretrained model after 8 updates, where it is known.
        options: `lr`, `batch_size`, `seed` of the probe.
    """
    batch = shown(base, tokenizer, task)
    with torch.no_grad():
        differs = float(cross_entropy(found.model.eval(), batch) - cross_entropy(base.eval(), batch))
    if base_accuracy is None:
        base_accuracy = transfer_curve(base, tokenizer, task, (PROBE,), **options)[0]
    ahead = transfer_curve(found.model, tokenizer, task, (PROBE,), **options)[0] - base_accuracy
    first = _flat(base)
    moved, slope = _flat(found.model) - first, task_gradient(base, tokenizer, task)
    return np.array(
        [
            differs,
            ahead,
            float(torch.cosine_similarity(-slope, moved, dim=0)),
            float(torch.cosine_similarity(slope, found.gradient, dim=0)),
            float(moved.norm() / first.norm()),
        ]
    )


@dataclass(frozen=True)
class SelectiveInit:
    """Learns to choose where to begin.

    Attributes:
        threshold: how likely a gain must be for a candidate to be taken.
        trees: of the boosted classifier.
        seed: of the classifier.
    """

    threshold: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    trees: Annotated[int, AtLeast(1)] = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def fit(self, features: Float[np.ndarray, "n 5"], gains: Sequence[float]) -> Selector:
        """Learns from candidates of other sequences which features go with a gain above 0."""
        gained = np.asarray(gains) > 0
        if len(set(gained.tolist())) < 2:
            raise ValueError("all candidates gain, or none does: there is nothing to tell apart")
        classifier = GradientBoostingClassifier(n_estimators=self.trees, max_depth=2, random_state=self.seed)
        return Selector(classifier.fit(np.asarray(features), gained), self.threshold)


@dataclass(frozen=True, eq=False)
class Selector:
    """What `SelectiveInit` learned."""

    classifier: GradientBoostingClassifier
    threshold: float

    def chances(self, features: Float[np.ndarray, "candidates 5"]) -> Float[np.ndarray, " candidates"]:
        """How likely each candidate is to gain."""
        return self.classifier.predict_proba(np.asarray(features))[:, 1]

    def choose(self, features: Float[np.ndarray, "candidates 5"]) -> int | None:
        """The number of the candidate to begin with; None for the pretrained model."""
        chances = self.chances(features)
        best = int(chances.argmax())
        return best if chances[best] > self.threshold else None


def _flat(model: nn.Module) -> Float[Tensor, " parameters"]:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
