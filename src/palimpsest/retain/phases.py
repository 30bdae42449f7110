"""What a method trains beside the stream's own updates, such as a smaller network or a generator: one `fit` more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from palimpsest.retain.buffers import Examples
from palimpsest.retain.continual import Present, with_allowed
from palimpsest.train.loop import fit
from palimpsest.train.method import Objective
from palimpsest.train.order import shuffled

OF_STREAM = ("steps", "batch_size", "seed", "already")
"""settings of training that are the stream's, or of which a phase has its own"""


def input_name(batch: Mapping[str, Any]) -> str:
    """The column that a network reads: images or rows."""
    return "pixel_values" if "pixel_values" in batch else "x"


def trained_on(
    network: nn.Module, objective: Objective, rows: Examples, data: Present, steps: int, **options: Any
) -> nn.Module:
    """Trains a network in place on rows, in batches as the stream's, and gives it back in eval mode.

    Args:
        network: the stream's model, or another.
        rows: of tasks that have arrived; batches have what may be answered for them.
        data: whose generator seeds the training, and whose settings hold.
        steps: updates; 0 for none.
        options: settings of training that take the place of the stream's.
    """
    seed = int(torch.randint(2**62, (), generator=data.generator))
    order = shuffled(len(rows), data.training.get("batch_size", 32), seed)

    def batch(step: int) -> dict[str, Any]:
        return with_allowed(rows.batch(order(step)), data.allowed)

    kept = {name: value for name, value in data.training.items() if name not in OF_STREAM}
    if steps:
        fit(network, objective, batch, steps=steps, seed=seed, **{**kept, **options})
    return network.eval()
