"""Recognition, recall and retention: what a language model remembers of texts that it saw a few times.

Source: Orhan (2023), Recognition, recall, and retention of few-shot memories in large language models, arXiv
2303.17557.

A model studies some texts, each exactly once a pass. *Recognition*: of a text that it saw and a foil that it did not,
which has the lower mean loss a token? *Recall*: given the first half of a text, does it go on as the text does?
*Retention*: how much of both is left while it trains on other texts? Recognition comes after one exposure and is
robust; recall takes a few, and most of it is overwritten within the first updates with something new. The tests are in
`recall_retention_measures`, what is studied and what stands beside it in `recall_retention_texts`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.models.encoding import pad_token_id
from palimpsest.models.score import cross_entropy
from palimpsest.retain.recall_retention_measures import encoded, recall, recognition
from palimpsest.train.loop import fit
from palimpsest.train.method import Edit
from palimpsest.train.order import shuffled
from palimpsest.train.ranges import AtLeast

LOOKS = (0, 1, 2, 5, 10, 20, 50, 100, 200)


def study(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    exposures: int,
    *,
    lr: float = 1e-5,
    batch_size: int = 16,
    seed: int = 0,
    **options: object,
) -> nn.Module:
    """A copy of a model that saw every text exactly `exposures` times, once a pass and in a new order each: AdamW at a
    constant rate, without weight decay. Where the texts do not fill the last batch of a pass, it is smaller.

    Args:
        options: of `palimpsest.train.fit`.
    """
    copy = deepcopy(model)
    if exposures < 0:
        raise ValueError(f"exposures must not be negative, got {exposures}")
    if exposures == 0:
        return copy.eval()
    rows, pad_id = encoded(tokenizer, texts), pad_token_id(tokenizer)
    passes = [passed(len(rows), batch_size, seed, number) for number in range(exposures)]
    batches = [rows.batch(chosen, pad_id) for one in passes for chosen in one]
    options = {"progress": False, **options}
    fit(copy, cross_entropy, lambda step: batches[step], steps=len(batches), lr=lr, seed=seed, **options)
    return copy


def passed(n: int, batch_size: int, seed: int, number: int) -> list[list[int]]:
    """The batches of one pass over n rows, each row once.

    >>> sorted(sum(passed(5, 2, seed=0, number=1), []))
    [0, 1, 2, 3, 4]
    """
    order = list(range(n))
    random.Random(f"{seed}/{number}").shuffle(order)
    return [order[start : start + batch_size] for start in range(0, n, batch_size)]


@dataclass(frozen=True)
class Study(Edit):
    """`study` as a method: the data have `tokenizer` and `texts`.

    Attributes:
        exposures: how many times each text is seen.
    """

    exposures: Annotated[int, AtLeast(0)] = 3

    def edit(self, model: nn.Module, data: Any, *, steps: int | None = None, **training: Any) -> nn.Module:
        """The copy that studied; `steps` counts for nothing: texts and exposures say how many there are."""
        return study(model, data.tokenizer, data.texts, self.exposures, **training)


def retention(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    studied: Sequence[str],
    foils: Sequence[str],
    interference: Sequence[str],
    *,
    looks: Sequence[int] = LOOKS,
    lr: float = 1e-5,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Recognition and recall of studied texts while a copy of the model goes on to train on others.

    Args:
        looks: the updates after which is asked, rising; the first is usually 0.

    Returns:
        "update", "recognition", "recall" (ROUGE-2): one value a look.
    """
    if list(looks) != sorted(set(looks)) or not looks or looks[0] < 0:
        raise ValueError(f"looks must be numbers of updates that rise, got {list(looks)}")
    copy = deepcopy(model)
    rows, pad_id = encoded(tokenizer, interference), pad_token_id(tokenizer)
    order = shuffled(len(rows), batch_size, seed)
    found: dict[str, list[float]] = {"update": [], "recognition": [], "recall": []}

    def look(asked: nn.Module, step: int) -> dict[str, float]:
        if step in looks and step not in found["update"]:
            found["update"].append(step)
            found["recognition"].append(recognition(asked, tokenizer, studied, foils))
            found["recall"].append(recall(asked, tokenizer, studied).rouge_2)
        return {}

    if looks[-1] == 0:
        look(copy, 0)
        return found
    batch = lambda step: rows.batch(order(step), pad_id)  # noqa: E731
    options = {"evaluate": look, "evaluate_every": 1, "progress": False}
    fit(copy, cross_entropy, batch, steps=looks[-1], lr=lr, seed=seed, **options)
    return found
