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

from palimpsest.models.encoding import Encoded, encode, pad_token_id
from palimpsest.models.forward import device_of, evaluating
from palimpsest.models.score import cross_entropy
from palimpsest.retain.selective_init_tasks import TopicTask
from palimpsest.train.gradients import gradient_of
from palimpsest.train.loop import fit
from palimpsest.train.order import shuffled
from palimpsest.train.ranges import AtLeast, AtMost, check_fields

BUDGETS = (4, 8, 16, 32, 64, 128)
FEATURES = ("loss difference", "accuracy after the probe", "update along the gradient", "gradients alike", "distance")
PROBE, SHOWN, LONGEST = 8, 32, 128  # updates; rows that gradients are of; tokens of a row


def learn(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: TopicTask,
    steps: int,
    *,
    lr: float = 1e-3,
    batch_size: int = 16,
    seed: int = 0,
    looks: Sequence[int] = (),
) -> dict[int, float]:
    """Trains a model in place on a task; returns its accuracy on the task's test rows after so many updates, for each
    of `looks`."""
    rows, pad_id = encoded(tokenizer, task.train), pad_token_id(tokenizer)
    order = shuffled(len(rows), batch_size, seed)
    found: dict[int, float] = {}

    def look(model: nn.Module, step: int) -> dict[str, float]:
        if step in looks:
            found[step] = accuracy(model, tokenizer, task)
        return {}

    options = {"evaluate": look, "evaluate_every": 1} if looks else {}
    batch = lambda step: rows.batch(order(step), pad_id)  # noqa: E731
    fit(model, cross_entropy, batch, steps=steps, lr=lr, seed=seed, progress=False, **options)
    return found


def accuracy(model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: TopicTask) -> float:
    """The share of test rows whose word is the likeliest of the task's words, by the token that each is."""
    prompts = [prompt for prompt, _ in task.test]
    rows = encode(tokenizer, prompts, [""] * len(prompts), max_length=LONGEST, add_eos=False)
    words = torch.tensor([_token(tokenizer, word) for word in task.words])
    pad_id, device = pad_token_id(tokenizer), device_of(model)
    wanted = [task.words.index(word) for _, word in task.test]
    hits = []
    with evaluating(model):
        for start in range(0, len(rows), 64):
            chosen = range(start, min(start + 64, len(rows)))
            batch = rows.batch(chosen, pad_id)
            logits = model(
                input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
            ).logits
            last = batch["attention_mask"].sum(1) - 1
            said = logits.cpu()[torch.arange(len(chosen)), last][:, words].argmax(-1)
            hits += [int(a) == wanted[i] for a, i in zip(said, chosen, strict=True)]
    return float(np.mean(hits))


def transfer_curve(
    init: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: TopicTask,
    budgets: Sequence[int] = BUDGETS,
    **options: float,
) -> list[float]:
    """The accuracy on a task after each budget of updates from `init`, which stays as it is: one training, looked at
    on the way."""
    if list(budgets) != sorted(set(budgets)) or not budgets or budgets[0] < 1:
        raise ValueError(f"budgets must rise from 1 update on, got {list(budgets)}")
    found = learn(deepcopy(init), tokenizer, task, budgets[-1], looks=budgets, **options)
    return [found[budget] for budget in budgets]


def gain(curve: Sequence[float], base: Sequence[float]) -> float:
    """How much more accurate a start is than the pretrained model, on average over the budgets.

    >>> gain([0.5, 0.75], [0.25, 0.75])
    0.125
    """
    return float(np.mean(np.subtract(curve, base)))


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
    rows = encoded(tokenizer, task.train[:SHOWN])
    batch = {k: v.to(device_of(model)) for k, v in rows.batch(range(len(rows)), pad_token_id(tokenizer)).items()}
    return gradient_of(cross_entropy(model.eval(), batch), list(model.parameters())).detach()


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
    rows = encoded(tokenizer, task.train[:SHOWN])
    batch = {k: v.to(device_of(base)) for k, v in rows.batch(range(len(rows)), pad_token_id(tokenizer)).items()}
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


def encoded(tokenizer: PreTrainedTokenizerBase, rows: Sequence[tuple[str, str]]) -> Encoded:
    """Lines and their words as rows."""
    prompts, words = zip(*rows, strict=True)
    return encode(tokenizer, prompts, words, max_length=LONGEST, add_eos=False)


def _token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"the word {word!r} must be one token, it is {len(ids)}: choose another")
    return ids[0]


def _flat(model: nn.Module) -> Float[Tensor, " parameters"]:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
