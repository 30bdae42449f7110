"""How accurate a model becomes on a task of topics, update by update, and how far one start is ahead of another.

Source: Fisch et al. (2023), Towards robust and efficient continual language learning, arXiv 2307.05741.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.models.encoding import Encoded, encode, pad_token_id
from palimpsest.models.forward import device_of, evaluating
from palimpsest.models.score import cross_entropy
from palimpsest.retain.selective_init_tasks import TopicTask
from palimpsest.train.loop import fit
from palimpsest.train.order import shuffled

BUDGETS = (4, 8, 16, 32, 64, 128)
LONGEST, SHOWN = 128, 32  # tokens of a row; rows that gradients are of


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


def shown(model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: TopicTask) -> dict[str, torch.Tensor]:
    """A task's first 32 rows as a batch, on the model's device."""
    rows = encoded(tokenizer, task.train[:SHOWN])
    return {k: v.to(device_of(model)) for k, v in rows.batch(range(len(rows)), pad_token_id(tokenizer)).items()}


def encoded(tokenizer: PreTrainedTokenizerBase, rows: Sequence[tuple[str, str]]) -> Encoded:
    """Lines and their words as rows."""
    prompts, words = zip(*rows, strict=True)
    return encode(tokenizer, prompts, words, max_length=LONGEST, add_eos=False)


def _token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"the word {word!r} must be one token, it is {len(ids)}: choose another")
    return ids[0]
