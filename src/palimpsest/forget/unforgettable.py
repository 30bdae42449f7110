"""Unforgettable generalisation (Zhang, Choshen and Andreas, 2024, arXiv 2409.02228).

A skill is forgotten by fine-tuning on its own inputs with random labels. On those inputs the model does become
random; whether it does on new inputs of the same skill depends on the skill, and not on how hard it is. With
accuracies of the model that has the skill (ft), of the one that has forgotten it, and of a guess,

    forget ratio = (acc_ft - acc_forget) / (acc_ft - acc_random)          1: all of the skill is gone, 0: nothing is

The paper finds more generalisation where the model was less confident, and where its representations of the inputs
vary less. And what is gone from the output can still be read from the hidden states by a linear probe.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.procedure import Batch, ForgetData, unlearn
from palimpsest.forget.unforgettable_measures import MAX_TOKENS
from palimpsest.lazy import front_door
from palimpsest.models.score import cross_entropy, encode, pad_token_id
from palimpsest.tasks.choices import Choice
from palimpsest.train import History
from palimpsest.train.method import Objective


def random_labels(n: int, options: Sequence[str], seed: int = 0) -> list[str]:
    """One option a row, each as likely as any other, the right one included.

    >>> random_labels(6, ["yes", "no"])
    ['no', 'no', 'no', 'no', 'yes', 'yes']
    """
    if len(set(options)) < 2:
        raise ValueError(f"there must be at least two different options, got {list(options)}")
    rng = random.Random(f"{seed}/random labels")
    return [rng.choice(options) for _ in range(n)]


@dataclass(frozen=True)
class RandomOptions(Objective):
    """Cross-entropy on the forget prompts with random labels, drawn once for each row and then fixed. Only the label
    counts: not the prompt, and no end token.

    Made for rows that have a few answers in common (yes or no, the classes of a text), which are then the options.

    Attributes:
        options: what can be answered; empty for the forget rows' own different answers.
        seed: of the labels.
    """

    options: tuple[str, ...] = ()
    seed: int = 0

    def rewrite(self, data: ForgetData) -> ForgetData:
        """The data with a random label in the place of every forget row's answer."""
        if data.tokenizer is None or not data.forget_pairs:
            raise UserError("random labels need the rows' texts and their tokenizer: make the data with `prepare`")
        prompts, answers = zip(*data.forget_pairs, strict=True)
        lead = " " if answers[0].startswith(" ") else ""
        options = [lead + option for option in self.options] or sorted(set(answers))
        if len(set(options)) < 2:
            raise UserError(f"random labels need at least two different answers, got only {options[0]!r}: set options")
        if not self.options and len(options) > len(answers) // 2:
            raise UserError(
                f"the {len(answers)} forget rows have {len(options)} different answers: random labels are for rows that"
                " share a few; set options"
            )
        labels = random_labels(len(prompts), options, self.seed)
        forget = encode(data.tokenizer, prompts, labels, max_length=data.max_length, add_eos=False)
        return replace(data, forget=forget, forget_pairs=tuple(zip(prompts, labels, strict=True)))

    def loss(self, state: None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"random labels": cross_entropy(model, batch["forget"])}


def random_label_forget(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Choice],
    options: Sequence[str],
    *,
    steps: int = 200,
    lr: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
    **further: Any,
) -> History:
    """Fine-tunes `model` in place on `rows` with random labels out of `options`; `further` goes to
    `palimpsest.train.fit`."""
    pairs = tuple((row.prompt, f" {row.answer}") for row in rows)
    data = ForgetData(
        forget=encode(tokenizer, *zip(*pairs, strict=True), max_length=MAX_TOKENS, add_eos=False),
        pad_id=pad_token_id(tokenizer),
        forget_pairs=pairs,
        tokenizer=tokenizer,
    )
    objective = RandomOptions(options=tuple(options), seed=seed)
    return unlearn(model, objective, data, steps=steps, lr=lr, batch_size=batch_size, seed=seed, **further)


_MOVED = {
    "forget.unforgettable_measures": (
        "accuracy",
        "forget_matrix",
        "forget_ratio",
        "last_token_states",
        "option_probabilities",
        "predictor_correlations",
        "predictors",
        "probe_recovery",
        "total_variance",
    ),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
