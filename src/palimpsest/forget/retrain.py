"""The gold standard of unlearning: the same architecture, trained anew without the forget rows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData
from palimpsest.train import History
from palimpsest.train.language import fine_tune


def retrain(
    model: PreTrainedModel, data: ForgetData, *, epochs: float, seed: int = 0, **options: Any
) -> tuple[PreTrainedModel, History]:
    """Trains a model with `model`'s configuration and fresh weights on the retain rows alone.

    It is what exact unlearning would give, for models that were trained on these rows from scratch; for one that was
    fine-tuned on them, fine-tune the model from before that on the retain rows instead
    (`palimpsest.train.language.fine_tune`).

    Args:
        model: gives the architecture; its weights are neither used nor changed.
        data: its retain rows are the training set.
        epochs: passes over them.
        seed: of the fresh weights and of the order.
        options: `lr`, `batch_size`, `schedule` and the other arguments of `palimpsest.train.fit`.

    Raises:
        UserError: if there are no retain rows.
    """
    if data.retain is None:
        raise UserError("retraining needs retain rows, and there are none: give some")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        gold = type(model)(model.config)
    gold.to(next(model.parameters()).device)
    return gold, fine_tune(gold, data.retain, pad_id=data.pad_id, epochs=epochs, seed=seed, **options)
