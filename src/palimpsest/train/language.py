"""Ordinary training of a language model on answers: what unlearning starts from, and its gold standard."""

from __future__ import annotations

from typing import Any

from torch import nn

from palimpsest.models.score import Encoded, cross_entropy
from palimpsest.train.history import History
from palimpsest.train.loop import fit
from palimpsest.train.order import shuffled


def fine_tune(
    model: nn.Module,
    rows: Encoded,
    *,
    pad_id: int,
    epochs: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> History:
    """Trains a causal language model in place on the answers of `rows`, by the mean over rows of
    -log p(answer | prompt) / length.

    `steps` = ceil(epochs * rows / batch_size); the other `options` go to `palimpsest.train.fit`.
    """
    order = shuffled(len(rows), batch_size, seed)
    steps = max(1, -int(-epochs * len(rows) // min(batch_size, len(rows))))
    return fit(
        model,
        cross_entropy,
        lambda step: rows.batch(order(step), pad_id),
        steps=steps,
        seed=seed,
        **options,
    )
