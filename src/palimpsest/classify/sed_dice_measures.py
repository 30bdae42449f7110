"""What is measured in sound event detection: F1 and the error rate over segments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True)
class EventScores:
    """Over segments: the F1 of all classes together, the error rate, and what the latter is made of, per active
    reference event: substituted, deleted and inserted ones."""

    f1: float
    error_rate: float
    substitutions: float
    deletions: float
    insertions: float


def event_scores(decisions: Bool[Tensor, "clips frames classes"], targets: Tensor, segment: int = 1) -> EventScores:
    """The measures of sound event detection (Mesaros et al. 2016): frames are pooled into segments, in which a class is
    active where it is in any frame. In a segment a wrong and a missed class are together one substitution.

    Args:
        segment: frames; the last one may be shorter.

    Raises:
        ValueError: shapes that differ, a segment below 1, or no active reference.

    >>> said, y = torch.tensor([[[1, 0, 0], [0, 0, 1]]]), torch.tensor([[[0, 1, 0], [0, 1, 1]]])
    >>> found = event_scores(said.bool(), y)  # one swapped and one deleted of three
    >>> round(found.f1, 4), round(found.error_rate, 4)
    (0.4, 0.6667)
    """
    if decisions.ndim != 3 or targets.shape != decisions.shape or segment < 1:
        raise ValueError(
            f"need decisions and targets [clips, frames, classes] and a segment of 1 frame at least, got "
            f"{list(decisions.shape)}, {list(targets.shape)} and {segment}"
        )
    said, true = (
        torch.stack([part.any(1) for part in each.bool().split(segment, dim=1)], 1) for each in (decisions, targets)
    )
    if not true.any():
        raise ValueError("no event is active in the targets: there is no error rate")
    right, missed, wrong = ((a & b).sum(2).double() for a, b in ((said, true), (~said, true), (said, ~true)))
    swapped, events = torch.minimum(missed, wrong), true.sum().double()
    parts = [each.sum().item() / events.item() for each in (swapped, missed - swapped, wrong - swapped)]
    f1 = 2 * right.sum() / (2 * right + missed + wrong).sum()
    return EventScores(f1.item(), sum(parts), *parts)
