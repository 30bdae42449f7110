"""Which pairs have outlying losses: the memory of losses and the thresholds of bad pair mining (Lan et al. 2023, arXiv
2302.03357; what is made of them is in `palimpsest.contrast.dbpm`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.input_checks import check_finite, check_pairs, check_positive
from palimpsest.contrast.precision import widened
from palimpsest.renamed import renamed


@dataclass(frozen=True, eq=False)
class BadPairs:
    """Which pairs are outliers, and the mean and deviation of the summaries they were found by."""

    noisy: Bool[Tensor, " pairs"]
    faulty: Bool[Tensor, " pairs"]
    mean: Float[Tensor, ""]
    std: Float[Tensor, ""]

    @property
    def flagged(self) -> Bool[Tensor, " pairs"]:
        return self.noisy | self.faulty


@renamed(z1="query", z2="key", tau="temperature")
def nt_xent_per_sample(
    query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"], temperature: float = 0.2
) -> Float[Tensor, " batch"]:
    """SimCLR's loss of every pair: the mean of its two views' values.

    >>> nt_xent_per_sample(torch.eye(3), torch.eye(3), 0.5)  # -2 + log(e^2 + 4), each
    tensor([0.4327, 0.4327, 0.4327])
    """
    check_pairs(least=2, query=query, key=key, values=False)
    return nt_xent(query, key, temperature, reduction="none").view(2, -1).mean(0)


def bad_pairs(summary: Float[Tensor, " pairs"], b_np: float = 2.0, b_fp: float = 3.0) -> BadPairs:
    """Pairs whose summary lies at least b_np deviations below the mean (noisy) or b_fp above it (faulty).

    Args:
        summary: m; NaN where a pair was never seen: it is left out, and not flagged.
        b_np, b_fp: thresholds, above 0; the authors' for ECG.

    No pair is flagged where all summaries are the same.

    >>> found = bad_pairs(torch.tensor([1.0] * 10 + [0.0] + [9.0]), b_np=0.5, b_fp=2.0)
    >>> found.noisy.nonzero().flatten(), found.faulty.nonzero().flatten()
    (tensor([10]), tensor([11]))
    """
    check_positive(b_np, "b_np")
    check_positive(b_fp, "b_fp")
    if summary.ndim != 1 or not summary.is_floating_point():
        raise ValueError(f"summary must be [pairs] of floats, got {list(summary.shape)} of {summary.dtype}")
    summary = widened(summary)
    known = summary[~summary.isnan()]
    if not len(known):
        raise ValueError("no pair has been seen yet: record losses first")
    check_finite(known, "summary")
    mean, std = known.mean(), known.std(unbiased=False)
    differs = known.max() > known.min()
    return BadPairs(
        (summary <= mean - b_np * std) & differs, (summary >= mean + b_fp * std) & differs, mean=mean, std=std
    )


class PairMemory(nn.Module):
    """The loss of every positive pair at every epoch, [n, epochs], NaN where there is none yet. No parameters.

    It is the state of `DBPM`, which a checkpoint keeps: 4 n epochs bytes.

    Args:
        n: pairs.
        epochs: of the whole training.

    >>> memory = PairMemory(n=3, epochs=4)
    >>> memory.record(torch.tensor([2.0, 4.0]), torch.tensor([0, 2]), epoch=0)
    >>> memory.record(torch.tensor([1.0, 6.0]), torch.tensor([0, 2]), epoch=1)
    >>> memory.summary(2)  # (2 * 1/4 + 1 * 2/4) / 2, and (4 * 1/4 + 6 * 2/4) / 2
    tensor([0.5000,    nan, 2.0000])
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, n: int, epochs: int) -> None:
        super().__init__()
        for name, value in (("n", n), ("epochs", epochs)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.register_buffer("losses", torch.full((n, epochs), math.nan))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self._found: tuple[tuple, BadPairs] | None = None

    @property
    def epoch(self) -> int:
        """The epoch at hand, where every pair is visited once in each: rows recorded so far, over pairs. A batch that
        runs on over the seam between two epochs belongs to the first."""
        return int(self.seen) // len(self.losses)

    def record(self, loss: Float[Tensor, " batch"], index: Int[Tensor, " batch"], epoch: int) -> None:
        """Writes down the losses of pairs (without weights); a second visit in an epoch replaces the first."""
        n, epochs = self.losses.shape
        if loss.ndim != 1 or loss.shape != index.shape or not len(loss):
            raise ValueError(
                f"loss and index must be [batch] each, of one pair at least, got {list(loss.shape)} and"
                f" {list(index.shape)}"
            )
        if index.dtype == torch.bool or index.is_floating_point():
            raise TypeError(f"index must be whole numbers, got {index.dtype}")
        if index.min() < 0 or index.max() >= n:
            raise ValueError(f"index must be from 0 to {n - 1}, got {index.min().item()} to {index.max().item()}")
        _check_epoch(epoch, epochs - 1)
        check_finite(loss, "loss")
        self.losses[index.to(self.losses.device).long(), epoch] = loss.detach().to(self.losses)
        self.seen += len(loss)
        if self._found and self._found[0][0] > epoch:
            self._found = None

    def summary(self, epoch: int) -> Float[Tensor, " pairs"]:
        """m_i over the epochs before this one."""
        _check_epoch(epoch, self.losses.shape[1])
        past = self.losses[:, :epoch]
        weight = torch.arange(1, past.shape[1] + 1, device=past.device) / self.losses.shape[1]
        return (past * weight).nanmean(1)

    def bad_pairs(self, epoch: int, b_np: float = 2.0, b_fp: float = 3.0) -> BadPairs:
        """`bad_pairs` of the summary, found once an epoch."""
        key = (epoch, b_np, b_fp)
        if self._found is None or self._found[0] != key:
            self._found = (key, bad_pairs(self.summary(epoch), b_np, b_fp))
        return self._found[1]


def _check_epoch(epoch: int, last: int) -> None:
    if not isinstance(epoch, Integral) or not 0 <= epoch <= last:
        raise ValueError(f"epoch must be a whole number from 0 to {last}, got {epoch!r}")
