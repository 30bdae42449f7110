"""Data that tells its rows' numbers, and whether the loss tells how good the features are (Ibrahim et al. 2024, arXiv
2406.10743)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset


class IndexedViews(Dataset):
    """A dataset whose items are (a view, the row's number): what DIET needs of any data, without its labels.

    Args:
        dataset: anything with a length and items; of an item that is a tuple or a list the first part is taken.
        augment: makes a random view of one.

    >>> rows = IndexedViews(torch.arange(6.0).reshape(3, 2), lambda x: x + 1)
    >>> len(rows), rows[2]
    (3, (tensor([5., 6.]), 2))
    """

    def __init__(self, dataset: Any, augment: Callable[[Any], Any]) -> None:
        self.dataset, self.augment = dataset, augment

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row must be in [{-len(self)}, {len(self)}), got {row}")
        row %= len(self)
        item = self.dataset[row]
        return self.augment(item[0] if isinstance(item, tuple | list) else item), row


def loss_tracks_probe(log: Sequence[tuple[float, float]]) -> float:
    """Spearman's correlation between training loss and probe accuracy along training: near -1, the loss, which needs no
    label, says by itself how good the features are.

    Args:
        log: (training loss, probe accuracy) at three moments of a run or more.

    Returns:
        In [-1, 1]; 0 where one of the two never changes.

    Raises:
        ValueError: fewer than three moments, one that is no pair, or a value that is not finite.

    >>> loss_tracks_probe([(3.2, 0.4), (2.9, 0.7), (2.7, 0.8)])
    -1.0
    """
    from scipy.stats import spearmanr  # late, as it is slow to import

    if len(log) < 3:
        raise ValueError(f"a correlation needs at least three moments, got {len(log)}")
    for moment in log:
        if len(moment) != 2:
            raise ValueError(f"a moment is a pair of training loss and probe accuracy, got {moment!r}")
    losses, accuracies = (list(map(float, column)) for column in zip(*log, strict=True))
    for value in losses + accuracies:
        if not abs(value) < float("inf"):
            raise ValueError(f"losses and accuracies must be finite, got {value}")
    if len(set(losses)) == 1 or len(set(accuracies)) == 1:
        return 0.0
    return float(spearmanr(losses, accuracies).statistic)
