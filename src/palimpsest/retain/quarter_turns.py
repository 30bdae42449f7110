"""Images in four turns, each a class of its own: what keeps a network from telling classes by the few that are there.

Source: Zhu et al. (2021), Prototype augmentation and self-supervision for incremental learning (PASS).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.retain.buffers import Examples
from palimpsest.retain.continual import features_of, of_all


def turns_of(rows: Examples) -> int:
    """Four for square images, one for other rows."""
    x = rows.columns.get("pixel_values")
    return 4 if x is not None and x.ndim == 4 and x.shape[2] == x.shape[3] else 1


def turned_by(columns: dict[str, Tensor], turn: int) -> dict[str, Tensor]:
    """Rows turned by so many quarters."""
    return {**columns, "pixel_values": columns["pixel_values"].rot90(turn, (2, 3))} if turn else columns


def turned_means(model: nn.Module, rows: Examples, like: Float[Tensor, "n d"], turns: int) -> Float[Tensor, "n d"]:
    """The mean feature of each turned class of the rows; nan for others.

    Args:
        like: what the means are to be in shape and kind.
    """
    found = torch.full_like(like, torch.nan)
    for turn in range(turns):
        features = of_all(features_of, model, Examples(turned_by(rows.columns, turn))).to(like)
        for label in rows.labels.unique().tolist():
            found[turns * label + turn] = features[rows.labels == label].mean(0)
    return found


def turned(batch: dict[str, Any], turns: int) -> dict[str, Tensor]:
    """Each row in all turns, one behind the other, with the classes `turns label + turn` and what may be answered."""
    if turns == 1:
        return batch
    x = torch.stack([batch["pixel_values"].rot90(turn, (2, 3)) for turn in range(turns)], 1).flatten(0, 1)
    labels = (turns * batch["labels"][:, None] + torch.arange(turns, device=x.device)).flatten()
    return {
        "pixel_values": x,
        "labels": labels,
        "allowed": batch["allowed"].repeat_interleave(turns, 0).repeat_interleave(turns, 1),
    }
